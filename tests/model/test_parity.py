"""Parity with transformers 5.23.0 on tiny models in which every parameter was redrawn; nothing changes with how input
is cut up. That the comparison would notice a mistake is shown by test_seeded_bugs.py."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qwill.base.artifact import content_id
from qwill.model import ops
from qwill.model.batch import Batch
from qwill.model.cache import KVCache
from qwill.model.files import load_model, save_model

from .parity import CASES, RECORD, SPARSE, differences, load, said


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    ops.use_native(True)


@pytest.mark.parametrize("native", [False, True], ids=["pytorch", "native"])
@pytest.mark.parametrize("case", CASES)
def test_parity(case: str, native: bool) -> None:
    ops.use_native(native)
    assert differences(case, load(case)) == []


@pytest.mark.parametrize("case", CASES)
def test_the_record_is_not_trivial(case: str) -> None:
    _, record = said(case)
    assert record["logit_std"] >= 1 and record["sharpest_attention"] > 5 / 17
    if case in SPARSE:
        assert record["router_margin"] > 1e-3


@pytest.mark.parametrize("case", CASES)
def test_saving_gives_back_what_transformers_wrote(case: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    save_model(load(case), tmp_path)
    # transformers loads this very folder: no key missing, unexpected or misshapen, equal logits (make_model_oracle).
    assert content_id(tmp_path)[0] == said(case)[1]["reads_our_folder"]
    mine, theirs = load_file(tmp_path / "model.safetensors"), load_file(RECORD / case / "model.safetensors")
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[k], theirs[k]) for k in theirs)
    assert differences(case, load_model(tmp_path)) == []


# The same model however its input is cut up.
lengths = st.lists(st.integers(1, 19), min_size=1, max_size=7)


def ids(n: int, seed: int) -> Tensor:
    return torch.randint(0, 61, (n,), generator=torch.Generator().manual_seed(seed))


def close(a: Tensor, b: Tensor) -> bool:
    return float((a - b).abs().max()) <= 1e-5 * float(b.abs().max())


@pytest.mark.parametrize("case", ["dense_tied_bias", "moe", "llama"])
@settings(deadline=None, max_examples=12)
@given(lengths=lengths, seed=st.integers(0, 999), hint=st.sampled_from([None, 19, 32]))
def test_packed_equals_one_at_a_time(case: str, lengths: list[int], seed: int, hint: int | None) -> None:
    model = load(case)
    sequences = [ids(n, seed + i) for i, n in enumerate(lengths)]
    batch = Batch.pack(sequences)
    batch.row_length = hint
    with torch.no_grad():
        together = model.head(model(batch).hidden_ND).split(lengths)
        for sequence, got in zip(sequences, together, strict=True):
            assert close(got, model.logits(sequence[None])[0])


@pytest.mark.parametrize("case", ["dense_tied_bias", "moe", "llama"])
@settings(deadline=None, max_examples=12)
@given(lengths=lengths, seed=st.integers(0, 999), data=st.data())
def test_cached_in_any_chunks_equals_the_full_pass(
    case: str, lengths: list[int], seed: int, data: st.DataObject
) -> None:
    """Sequences in slots of any order, advanced by random chunks (also several tokens at once) at random times."""
    model = load(case)
    sequences = [ids(n, seed + i) for i, n in enumerate(lengths)]
    slots = data.draw(st.permutations(range(len(lengths))))
    cache = KVCache(model.config, len(lengths), 20)
    done = [0] * len(lengths)
    got: list[list[Tensor]] = [[] for _ in lengths]
    with torch.no_grad():
        while any(d < n for d, n in zip(done, lengths, strict=True)):
            waiting = [i for i, n in enumerate(lengths) if done[i] < n]
            now = sorted(data.draw(st.sets(st.sampled_from(waiting), min_size=1)))
            sizes = [data.draw(st.integers(1, lengths[i] - done[i])) for i in now]
            chunks = [sequences[i][done[i] : done[i] + n] for i, n in zip(now, sizes, strict=True)]
            batch = Batch.pack(chunks, starts=[done[i] for i in now])
            hidden = model(batch, cache.select([slots[i] for i in now])).hidden_ND
            for i, part in zip(now, model.head(hidden).split(sizes), strict=True):
                got[i].append(part)
                done[i] += len(part)
        for sequence, parts in zip(sequences, got, strict=True):
            assert close(torch.cat(parts), model.logits(sequence[None])[0])


def test_copied_and_moved_slots_go_on_as_the_original() -> None:
    model = load("moe")
    prompt, rest = ids(7, 1), ids(4, 2)
    cache = KVCache(model.config, 4, 16)
    with torch.no_grad():
        model(Batch.pack([prompt]), cache.select([2]))
        cache.copy(2, [0, 3], 7)
        cache.move([3], [1])
        batch = Batch.pack([rest, rest], starts=[7, 7])
        got = model.head(model(batch, cache.select(2)).hidden_ND).split(4)
        whole = model.logits(torch.cat([prompt, rest])[None])[0, 7:]
    assert close(got[0], whole) and close(got[1], whole)
