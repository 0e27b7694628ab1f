"""Meshes: what can be typed, what fits a model, and that none is forgotten."""

from __future__ import annotations

import itertools
import math
from dataclasses import astuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwill.base.errors import ConfigError
from qwill.model.shipped import find_config
from qwill.train.plan_mesh import AXES, Mesh, check_mesh, divisors, meshes, misfit, parse_mesh

DENSE, SPARSE = find_config("qwen3-8b")[1], find_config("qwen3-30b-a3b")[1]
HYBRID = find_config("qwen3-next-80b-a3b")[1]


@given(st.integers(1, 5000))
def test_divisors(number: int) -> None:
    assert divisors(number) == [d for d in range(1, number + 1) if number % d == 0]


@given(st.tuples(*[st.integers(1, 64)] * 6))
def test_what_is_printed_can_be_typed(sizes: tuple[int, ...]) -> None:
    mesh = Mesh(*sizes)
    assert mesh.ranks == math.prod(sizes)
    assert mesh.ranks == 1 or parse_mesh(str(mesh)) == parse_mesh(str(mesh).replace(" ", ",")) == mesh


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 48), st.sampled_from([DENSE, SPARSE, HYBRID]), st.sampled_from([1, 4, 6, 24]))
def test_every_mesh_that_fits_once(ranks: int, config: object, rows: int) -> None:
    found = list(meshes(config, ranks, 4096, rows, 8))  # type: ignore[arg-type]
    cuts = itertools.product(divisors(ranks), repeat=6)
    fitting = {Mesh(*c) for c in cuts if math.prod(c) == ranks}
    fitting = {m for m in fitting if misfit(config, m, 4096, rows, 8) is None}  # type: ignore[arg-type]
    assert set(found) == fitting and len(found) == len(fitting)


@pytest.mark.parametrize("text", ["", "tp", "tp=", "tp=0", "tp=-2", "tp=2,tp=4", "xp=2", "tp=2.5", "tp=²", "tp 4"])
def test_what_is_no_mesh_is_one_sentence(text: str) -> None:
    with pytest.raises(ConfigError, match="is not understood; expected axes") as caught:
        parse_mesh(text)
    assert "\n" not in str(caught.value) and all(axis in str(caught.value) for axis in AXES)


@pytest.mark.parametrize(
    ("config", "mesh", "ranks", "says"),
    [
        (DENSE, Mesh(tp=3), 8, "mesh tp=3: that is 3 ranks; expected 8."),
        (DENSE, Mesh(), 8, "mesh one rank: that is 1 ranks; expected 8."),
        (DENSE, Mesh(tp=16), 16, "mesh tp=16: tp=16 does not divide the 8 key/value heads."),
        (DENSE, Mesh(tp=5), 5, "mesh tp=5: tp=5 does not divide the 32 heads."),
        (SPARSE, Mesh(tp=8), 8, "mesh tp=8: tp=8 does not divide the 4 key/value heads."),
        (find_config("llama-3.1-405b")[1], Mesh(tp=8), 8, None),
        (DENSE, Mesh(ep=2), 2, "mesh ep=2: ep=2 does not divide the 0 experts."),
        (SPARSE, Mesh(ep=3), 3, "mesh ep=3: ep=3 does not divide the 128 experts."),
        (DENSE, Mesh(pp=37), 37, "mesh pp=37: pp=37 is more than the 36 layers."),
        (DENSE, Mesh(cp=3), 3, "mesh cp=3: cp=3 cuts a sequence into 6 pieces, which does not divide 4,096 tokens."),
        (DENSE, Mesh(dp=2, fsdp=3), 6, "mesh dp=2 fsdp=3: a step's 64 sequences do not divide among 6 readers "
                                       "(dp·fsdp·ep)."),
    ],
)  # fmt: skip
def test_a_mesh_that_does_not_fit_is_one_sentence(config: object, mesh: Mesh, ranks: int, says: str | None) -> None:
    if says is None:
        check_mesh(config, mesh, ranks, 4096, 64, 8)  # type: ignore[arg-type]
        return
    with pytest.raises(ConfigError) as caught:
        check_mesh(config, mesh, ranks, 4096, 64, 8)  # type: ignore[arg-type]
    assert str(caught.value) == says


def test_tensor_parallel_stays_in_a_node() -> None:
    assert misfit(find_config("llama-3.1-405b")[1], Mesh(tp=8), 4096, 64, 4) == "tp=8 is more than the 4 GPUs of a node"


def test_axes_are_the_fields() -> None:
    assert astuple(Mesh()) == (1,) * len(AXES) and tuple(Mesh.__dataclass_fields__) == AXES
