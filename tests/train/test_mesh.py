"""The mesh: who is where, what does not fit, which numbers of a parameter a rank holds, who waits for whom."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import time
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from tests.train.parallel_ranks import MODELS
from torch.nn.functional import scaled_dot_product_attention

from qwill.base.errors import ConfigError
from qwill.model.batch import Batch
from qwill.train.context_parallel import ContextAttention, chunks_of, context_batch, take
from qwill.train.mesh import AXES, Mesh, check_mesh, resolve_mesh
from qwill.train.settings import MeshConfig
from qwill.train.shards import Cut, boxes, ranges_of, shape_of
from qwill.train.step import StepData, split
from qwill.train.watch import alive

SIZES = st.fixed_dictionaries({axis: st.integers(1, 3) for axis in AXES})


@given(SIZES)
def test_every_rank_has_a_place_of_its_own(sizes: dict[str, int]) -> None:
    world = math.prod(sizes.values())
    places = [Mesh(sizes, rank).at for rank in range(world)]
    assert {tuple(p[a] for a in AXES) for p in places} == set(product(*(range(sizes[a]) for a in AXES)))
    # Neighbours differ in tp first: those ranks talk most.
    for rank, place in enumerate(places):
        assert place["tp"] == rank % sizes["tp"]


@given(SIZES, st.sets(st.sampled_from(AXES)), st.integers(0, 242))
def test_members_of_a_group_differ_on_its_axes_alone_and_know_their_number(
    sizes: dict[str, int], axes: set[str], rank: int
) -> None:
    mesh = Mesh(sizes, rank % math.prod(sizes.values()))
    members = mesh.members(*axes)
    assert len(members) == mesh.size(*axes)
    assert members[mesh.index(*axes)] == mesh.at
    assert all(m[a] == mesh.at[a] for m in members for a in AXES if a not in axes)
    by_rank = [r for r in range(math.prod(sizes.values())) if Mesh(sizes, r).at in members]
    assert [Mesh(sizes, r).at for r in by_rank] == members  # torch orders a group by rank


@pytest.mark.parametrize(
    ("mesh", "world", "model", "said"),
    [
        ({"fsdp": 2, "tp": 2}, 2, "qwen3", "fsdp 2 × tp 2 needs 4 processes, and there are 2"),
        ({"tp": 2}, 1, "qwen3", "tp 2 needs 2 processes, and there is 1; start it with `torchrun --nproc-per-node 2`"),
        ({"tp": 4}, 4, "qwen3", "tp is 4, and num_key_value_heads is 2"),
        ({"tp": 3}, 3, "qwen3", "tp is 3, and num_attention_heads is 4"),
        ({"ep": 2}, 2, "qwen3", "ep is 2, and this qwen3 model has no experts"),
        ({"ep": 4}, 4, "qwen3_moe", "ep is 4, and num_experts is 6"),
        ({"cp": 4}, 4, "qwen3_next", "tp 1 × cp 4 cuts the heads of a Gated DeltaNet, and qwen3_next has 2 for keys"),
        ({"cp": 2, "tp": 2}, 4, "qwen3_5_text", "tp 2 × cp 2 cuts the heads of a Gated DeltaNet"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused_in_a_sentence(
    mesh: dict[str, int], world: int, model: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=r"^mesh: ") as error:
        check_mesh(resolve_mesh(MeshConfig(**mesh), world), MODELS[model])
    assert said in str(error.value)
    assert str(error.value).count("\n") == 0


@pytest.mark.parametrize("size", [0, -2])
def test_an_axis_has_at_least_one_rank(size: int) -> None:
    with pytest.raises(ConfigError, match="tp is"):
        MeshConfig(tp=size)


def test_without_a_mesh_all_processes_are_data_parallel() -> None:
    assert resolve_mesh(MeshConfig(), 6) == {"dp": 6, "fsdp": 1, "ep": 1, "cp": 1, "tp": 1}


@st.composite
def cuts(draw: st.DrawFn) -> tuple[tuple[int, ...], list[Cut], dict[str, int]]:
    sizes = {axis: draw(st.integers(1, 3)) for axis in ("dp", "fsdp", "ep", "tp")}
    shape, chosen = [], []
    for dim, axis in enumerate(draw(st.permutations(["ep", "tp"]))):
        parts = tuple(n * sizes[axis] for n in draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)))
        shape.append(sum(parts))
        chosen.append(Cut((axis,), dim, parts))
    sharded = Cut(draw(st.sampled_from([("fsdp",), ("dp", "fsdp")])), 0)
    return tuple(shape), [*draw(st.permutations(chosen)), sharded], sizes


@given(cuts())
def test_the_ranks_shards_are_the_whole_each_number_once(
    case: tuple[tuple[int, ...], list[Cut], dict[str, int]],
) -> None:
    shape, chosen, sizes = case
    whole, seen = torch.arange(math.prod(shape)).view(shape), torch.zeros(shape, dtype=torch.int64)
    for place in (dict(zip(sizes, at, strict=True)) for at in product(*(range(n) for n in sizes.values()))):
        expected = whole
        if chosen[-1].axes == ("fsdp",) and place["dp"]:
            continue  # the same once more
        for cut in chosen:  # what the words say: cut each part, take the piece, put the pieces together
            if cut.parts is None:
                ranks = math.prod(sizes[a] for a in cut.axes)
                rank = place["dp"] * sizes["fsdp"] + place["fsdp"] if len(cut.axes) == 2 else place["fsdp"]
                pieces = expected.split(max(1, -(-expected.shape[0] // ranks)))
                expected = pieces[rank] if rank < len(pieces) else expected[:0]
            else:
                (axis,) = cut.axes
                parts = expected.split(list(cut.parts), dim=cut.dim)
                expected = torch.cat([p.chunk(sizes[axis], cut.dim)[place[axis]] for p in parts], cut.dim)
        ranges = ranges_of(shape, chosen, place, sizes)
        assert shape_of(ranges) == expected.shape or expected.numel() == 0
        found = whole.new_empty(shape_of(ranges))
        for box in boxes(ranges):
            block = tuple(slice(a, a + n) for a, n in zip(box.at, box.shape, strict=True))
            found[box.local] = whole[block]
            seen[block] += 1
        assert torch.equal(found, expected) or expected.numel() == 0
    assert (seen == 1).all()


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 6))
def test_a_step_is_cut_into_as_many_parts_as_it_has_sequences_for(lengths: list[int], parts: int) -> None:
    batch = Batch.pack([list(range(n)) for n in lengths])
    data = StepData(batch, batch.tokens_N, torch.ones(sum(lengths)), "test")
    cut = split(data, parts)
    assert len(cut) == min(parts, len(lengths))
    assert all(len(p.targets_N) == int(p.batch.cu_seqlens[-1]) > 0 for p in cut)
    assert torch.equal(torch.cat([p.batch.tokens_N for p in cut]), batch.tokens_N)


@given(st.integers(1, 5), st.integers(0, 60))
def test_context_chunks_share_tokens_out_evenly_and_each_once(ranks: int, more: int) -> None:
    tokens = 2 * ranks + more
    chunks = chunks_of(tokens, ranks)
    parts = [take(torch.arange(tokens), chunks, rank) for rank in range(ranks)]
    assert sorted(torch.cat(parts).tolist()) == list(range(tokens))
    assert max(map(len, parts)) - min(map(len, parts)) <= 2
    # What a query costs grows with its place: pairs (first, last) make up for each other.
    costs = [float(p.sum()) for p in parts]
    assert max(costs) - min(costs) <= 4 * tokens


@given(st.lists(st.integers(1, 14), min_size=1, max_size=5), st.integers(1, 3), st.sampled_from([2, 256]))
def test_queries_of_a_rank_see_the_keys_before_them_in_their_own_sequence(
    lengths: list[int], ranks: int, block: int
) -> None:
    assume(sum(lengths) >= 2 * ranks)
    batch = Batch.pack([list(range(n)) for n in lengths])
    n, heads, kv_heads, k = sum(lengths), 4, 2, 6
    g = torch.Generator().manual_seed(sum(lengths))
    q, key, value = (torch.randn(n, h, k, generator=g, dtype=torch.float64) for h in (heads, kv_heads, kv_heads))
    expected = [
        scaled_dot_product_attention(
            *(x[a:b].transpose(0, 1) for x in (q, key, value)), is_causal=True, enable_gqa=True
        ).transpose(0, 1)
        for a, b in zip(batch.cu_seqlens.tolist(), batch.cu_seqlens.tolist()[1:], strict=False)
    ]  # fmt: skip
    for rank in range(ranks):
        part = context_batch(batch, ranks, rank)
        found = AloneWithAll(part, key, value, block).attend(0, take(q, part.chunks, rank), key, value)
        assert torch.allclose(found, take(torch.cat(expected).flatten(1), part.chunks, rank), atol=1e-12)
        assert torch.equal(part.positions_N, take(batch.positions_N, part.chunks, rank))


class AloneWithAll(ContextAttention):
    """Context attention that is handed all keys and values in the order of the sequence."""

    def __init__(self, batch: Any, key: torch.Tensor, value: torch.Tensor, block: int) -> None:
        super().__init__(None)
        from qwill.train import context_parallel

        before, context_parallel.BLOCK = context_parallel.BLOCK, block
        try:
            self.begin(batch)
        finally:
            context_parallel.BLOCK = before
        self.place_S = torch.arange(len(key))


def test_a_process_that_was_killed_is_not_alive_though_its_parent_has_not_asked() -> None:
    assert alive(os.getpid())
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    assert child.pid is not None and alive(child.pid)
    os.kill(child.pid, signal.SIGKILL)
    for _ in range(500):
        if not alive(child.pid):
            break
        time.sleep(0.01)
    assert not alive(child.pid)  # a zombie until the next line
    child.join()
    assert not alive(child.pid)
