"""Sharded checkpoints on disk: any blocks, read by any others; what is broken is refused in a sentence."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from qwill.base.errors import CheckpointError
from qwill.base.files import write_json
from qwill.train.sharded_checkpoint import found, open_checkpoint
from qwill.train.shards import Cut, Range, boxes, length, ranges_of, shape_of

Pieces = list[tuple[str, tuple[int, ...], tuple[int, ...], Tensor]]  # (tensor, first index, whole shape, values)


def write(folder: Path, ranks: list[Pieces], step: int = 3) -> Path:
    target = folder / f"checkpoint-{step:08d}"
    target.mkdir(parents=True)
    files = {}
    for rank, pieces in enumerate(ranks):
        path = target / f"rank-{rank:05d}.safetensors"
        tensors = {f"{name}#{i}": x.contiguous() for i, (name, _, _, x) in enumerate(pieces)}
        blocks = {f"{name}#{i}": (name, at, whole) for i, (name, at, whole, _) in enumerate(pieces)}
        save_file(tensors, path, metadata={"blocks": json.dumps(blocks)})
        files[path.name] = path.stat().st_size
    write_json(target / "index.json", {"step": step, "extra": {"tokens": 7}, "files": files})
    return target


@st.composite
def cut(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[list[Cut], dict[str, int]]:
    sizes = {"fsdp": draw(st.integers(1, 4)), "tp": 1}
    cuts = []
    if shape and (dim := draw(st.integers(0, len(shape) - 1))) is not None and shape[dim] % 2 == 0:
        sizes["tp"] = 2
        parts = (shape[dim] // 2,) * 2 if shape[dim] % 4 == 0 and draw(st.booleans()) else (shape[dim],)
        cuts.append(Cut(("tp",), dim, parts))
    return ([*cuts, Cut(("fsdp",), 0)] if shape else []), sizes


@given(st.data(), st.lists(st.integers(1, 8), max_size=3).map(tuple))
def test_what_one_mesh_wrote_another_reads(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, shape: tuple[int, ...]
) -> None:
    whole = torch.arange(math.prod(shape), dtype=torch.float64).view(shape)
    cuts, sizes = data.draw(cut(shape))
    ranks: list[Pieces] = []
    for f, t in product(range(sizes["fsdp"]), range(sizes["tp"])):
        if cuts or (f, t) == (0, 0):
            ranges = ranges_of(shape, cuts, {"fsdp": f, "tp": t}, sizes)
            blocks = [(b.at, tuple(slice(a, a + n) for a, n in zip(b.at, b.shape, strict=True))) for b in boxes(ranges)]
            ranks.append([("x", at, shape, whole[block]) for at, block in blocks])
    folder = tmp_path_factory.mktemp("sharded")
    saved = open_checkpoint(write(folder, ranks))
    assert (saved.step, saved.extra, saved.whole) == (3, {"tokens": 7}, {"x": shape})
    assert torch.equal(saved.read_whole("x"), whole)
    cuts, sizes = data.draw(cut(shape))
    for f, t in product(range(sizes["fsdp"]), range(sizes["tp"])):
        ranges = ranges_of(shape, cuts, {"fsdp": f, "tp": t}, sizes)
        read = saved.read("x", ranges)
        assert read.shape == shape_of(ranges)
        expected = whole
        for dim, held in enumerate(ranges):
            expected = expected.index_select(dim, indices(held))
        assert torch.equal(read.double(), expected)


def indices(held: tuple[Range, ...]) -> Tensor:
    out = [torch.arange(a, a + n) for a, n in held]
    return torch.cat(out) if length(held) else torch.empty(0, dtype=torch.int64)


def test_one_process_writes_a_file_that_is_read_the_same_way(tmp_path: Path) -> None:
    x = torch.arange(12.0).view(3, 4)
    path = tmp_path / "checkpoint-00000005.safetensors"
    save_file({"x": x}, path, metadata={"step": "5", "extra": "{}"})
    saved = open_checkpoint(path)
    assert saved.step == 5
    assert torch.equal(saved.read("x", (((1, 2),), ((0, 1), (3, 1)))), x[1:3][:, [0, 3]])


def test_without_an_index_there_is_no_checkpoint(tmp_path: Path) -> None:
    x = torch.zeros(2)
    for step in (2, 4):
        write(tmp_path, [[("x", (0,), (2,), x)]], step)
    (tmp_path / "checkpoint-00000004" / "index.json").unlink()
    save_file({"x": x}, tmp_path / "checkpoint-00000003.safetensors", metadata={"step": "3", "extra": "{}"})
    assert [p.stem for p in found(tmp_path)] == ["checkpoint-00000003", "checkpoint-00000002"]


def index(change: dict[str, Any]) -> Callable[[Path], None]:
    def apply(target: Path) -> None:
        path = target / "index.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))

    return apply


def cut_off(target: Path) -> None:
    path = target / "rank-00001.safetensors"
    path.write_bytes(path.read_bytes()[:-4])


def not_json(target: Path) -> None:
    (target / "index.json").write_text("{")


def blocks(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Change what the second file says of its blocks."""

    def apply(target: Path) -> None:
        path = target / "rank-00001.safetensors"
        said: dict[str, Any] = {"x#0": ["x", [2, 0], [4, 3]]}
        said = change(said) or said  # type: ignore[assignment]
        save_file(load_file(path), path, metadata={"blocks": json.dumps(said)})
        index({"files": {p.name: p.stat().st_size for p in target.glob("rank-*")}})(target)

    return apply


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda t: (t / "rank-00001.safetensors").unlink(), "expected a file of"),
        (cut_off, "expected a file of"),
        (not_json, "is not valid JSON"),
        (index({"step": "soon"}), "it was not written by a training run"),
        (index({"files": {"../../elsewhere": 4}}), "expected a file of"),
        (index({"files": {}}), "holds no tensor"),
        (blocks(lambda s: {"x#0": ["x", [1, 0], [4, 3]]}), "overlap or lie outside"),
        (blocks(lambda s: {"x#0": ["x", [3, 0], [4, 3]]}), "overlap or lie outside"),
        (blocks(lambda s: {"x#0": ["x", [-1, 0], [4, 3]]}), "overlap or lie outside"),
        (blocks(lambda s: {"x#0": ["y", [0, 0], [2, 3]]}), "parts of tensor x are missing"),
        (blocks(lambda s: {"x#0": ["x", [2, 0], [5, 3]]}), "has two shapes"),
        (blocks(lambda s: {"x#0": ["x", [2], [4, 3]]}), "has two shapes"),
        (blocks(lambda s: {"z#0": ["x", [2, 0], [4, 3]]}), "are not those that it describes"),
        (blocks(lambda s: {"x#0": "x"}), "does not say which blocks it holds"),
        (blocks(lambda s: {"x#0": ["x", [10**30, 0], [4, 3]]}), "overlap or lie outside"),
    ],
)
def test_what_is_broken_is_refused_in_a_sentence(tmp_path: Path, break_it: Callable[[Path], Any], said: str) -> None:
    x = torch.arange(12.0).view(4, 3)
    target = write(tmp_path, [[("x", (0, 0), (4, 3), x[:2])], [("x", (2, 0), (4, 3), x[2:])]])
    assert torch.equal(open_checkpoint(target).read_whole("x"), x)
    break_it(target)
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(target)
    assert said in str(error.value) and str(error.value).count("\n") == 0
