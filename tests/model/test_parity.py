"""Parity with transformers 5.23.0 on tiny models in which every parameter was redrawn; nothing changes with how input
is cut up. That the comparison would notice a mistake is shown by test_seeded_bugs.py and test_seeded_bugs_family.py."""

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
from qwill.model.layout import released_names

from .parity import CASES, FORWARD, RECORD, apart, differences, load, said

# One of each kind of layer; those with Gated DeltaNet also get sequences of several of its chunks.
SHORT = ["dense_tied_bias", "moe", "llama", "qwen2_moe_mixed"]
LONG = ["next", "next_tied", "qwen3_5", "qwen3_5_moe_tied"]
CHUNKS = (30, 1, 25, 14)  # tests/oracles/model_cases.py


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    ops.use_native(True)


both = pytest.mark.parametrize("native", [False, True], ids=["pytorch", "native"])


@both
@pytest.mark.parametrize("case", CASES)
def test_parity(case: str, native: bool) -> None:
    ops.use_native(native)
    model = load(case)
    assert list(differences(case, model)) == []
    compared = {k.removeprefix("gradient.") for k in said(case)[0] if k.startswith("gradient.")}
    assert compared == released_names(model.config).keys()


@pytest.mark.parametrize("case", CASES)
def test_the_record_is_not_trivial(case: str) -> None:
    reference, record = said(case)
    assert record["logit_std"] >= 1 and record["sharpest_attention"] > 5 / reference["tokens"].shape[1]
    assert record["greedy_margin"] > 1e-2 and record["own_rounding_gradient"] <= 4e-6
    if load(case).config.num_experts:
        assert record["router_margin"] > 1e-3
    if load(case).config.has_linear:
        low, _, middle, _, high = record["decay_quantiles"]
        assert low < 0.85 and 0.5 < middle < 0.98 and 0.9 < high < 0.999
        assert reference["tokens"].shape[1] > 64 and "tokens_130" in reference


def test_the_record_covers_every_type() -> None:
    configs = [load(case).config for case in CASES]
    types = {"qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "llama"}
    for kind in types:
        assert {c.tie_word_embeddings for c in configs if c.model_type == kind} == {True, False}
    linear = [c for c in configs if c.has_linear]
    assert {c.linear_num_value_heads // c.linear_num_key_heads for c in linear} >= {1, 2, 3}
    assert {c.partial_rotary_factor for c in linear} == {0.25, 0.5}
    scaled = {c.model_type for c in configs if c.rope_scaling is not None and c.rope_scaling.kind == "yarn"}
    assert scaled == {"qwen2", "qwen3", "qwen3_moe", "qwen3_next", "qwen3_5_moe_text"}


@pytest.mark.parametrize("case", CASES)
def test_saving_gives_back_what_transformers_wrote(case: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    save_model(load(case), tmp_path)
    # transformers loads this very folder: no key missing, unexpected or misshapen, equal logits (make_model_oracle).
    assert content_id(tmp_path)[0] == said(case)[1]["reads_our_folder"]
    mine, theirs = load_file(tmp_path / "model.safetensors"), load_file(RECORD / case / "model.safetensors")
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[k], theirs[k]) for k in theirs)
    assert load_model(tmp_path).config == load(case).config


@both
@pytest.mark.parametrize("case", CASES)
def test_greedy_decoding_gives_transformers_tokens(case: str, native: bool) -> None:
    ops.use_native(native)
    model, expected = load(case), said(case)[0]["greedy"][0]
    cache = KVCache(model.config, 1, len(expected))
    tokens, new = expected[:9].tolist(), expected[:9]
    with torch.no_grad():
        while len(tokens) < len(expected):
            batch = Batch.pack([new], starts=[len(tokens) - len(new)])
            hidden_ND = model(batch, cache.place([[0]], [len(tokens) - len(new)])).hidden_ND
            new = model.head(hidden_ND[-1:]).argmax(-1)
            tokens.append(int(new))
    assert tokens == expected.tolist()


@both
@pytest.mark.parametrize("case", CASES)
def test_a_prompt_in_chunks_gives_transformers_logits(case: str, native: bool) -> None:
    ops.use_native(native)
    model, (reference, _) = load(case), said(case)
    tokens, expected = reference["tokens_chunked"][0], reference["logits_chunked"][0]
    cache, start = KVCache(model.config, 3, len(tokens)), 0
    with torch.no_grad():
        for chunk in tokens.split(CHUNKS):
            batch = Batch.pack([chunk], starts=[start])
            last = model.head(model(batch, cache.place([[1]], [start])).hidden_ND)
            start += len(chunk)
        whole = model.logits(tokens[None])[0, -len(expected) :]
    assert apart(last, expected) <= FORWARD and apart(whole, expected) <= FORWARD


@both
@pytest.mark.parametrize("case", CASES)
def test_padding_on_either_side_changes_nothing(case: str, native: bool) -> None:
    """Qwill packs sequences without padding; transformers pads them, left or right, and masks: the same logits."""
    ops.use_native(native)
    model, (reference, _) = load(case), said(case)
    for side in ("left", "right"):
        tokens, mask = reference[f"tokens_{side}"], reference[f"mask_{side}"].bool()
        batch = Batch.pack([row[keep] for row, keep in zip(tokens, mask, strict=True)])
        with torch.no_grad():
            got = model.head(model(batch).hidden_ND)
        assert apart(got, reference[f"logits_{side}"]) <= FORWARD


def ids(n: int, seed: int) -> Tensor:
    return torch.randint(0, 61, (n,), generator=torch.Generator().manual_seed(seed))


def close(a: Tensor, b: Tensor) -> bool:
    return apart(a, b) <= 1e-5


@st.composite
def cut_up(draw: st.DrawFn) -> tuple[str, list[int], int]:
    """A case, lengths of sequences, a seed."""
    case = draw(st.sampled_from(SHORT + LONG))
    longest = draw(st.sampled_from([19, 140])) if case in LONG else 19
    return case, draw(st.lists(st.integers(1, longest), min_size=1, max_size=7)), draw(st.integers(0, 999))


@settings(deadline=None, max_examples=40)
@given(cut=cut_up(), hint=st.sampled_from([None, 19, 32]))
def test_packed_equals_one_at_a_time(cut: tuple[str, list[int], int], hint: int | None) -> None:
    case, lengths, seed = cut
    model = load(case)
    sequences = [ids(n, seed + i) for i, n in enumerate(lengths)]
    batch = Batch.pack(sequences)
    batch.row_length = hint
    with torch.no_grad():
        together = model.head(model(batch).hidden_ND).split(lengths)
        for sequence, got in zip(sequences, together, strict=True):
            assert close(got, model.logits(sequence[None])[0])


@settings(deadline=None, max_examples=40)
@given(cut=cut_up(), data=st.data())
def test_cached_in_any_chunks_equals_the_full_pass(cut: tuple[str, list[int], int], data: st.DataObject) -> None:
    """Sequences in slots of any order, advanced by random chunks (also several tokens at once) at random times."""
    case, lengths, seed = cut
    model = load(case)
    sequences = [ids(n, seed + i) for i, n in enumerate(lengths)]
    slots = data.draw(st.permutations(range(len(lengths))))
    cache = KVCache(model.config, len(lengths), max(lengths) + 1)
    done = [0] * len(lengths)
    got: list[list[Tensor]] = [[] for _ in lengths]
    with torch.no_grad():
        while any(d < n for d, n in zip(done, lengths, strict=True)):
            waiting = [i for i, n in enumerate(lengths) if done[i] < n]
            now = sorted(data.draw(st.sets(st.sampled_from(waiting), min_size=1)))
            sizes = [data.draw(st.integers(1, lengths[i] - done[i])) for i in now]
            chunks = [sequences[i][done[i] : done[i] + n] for i, n in zip(now, sizes, strict=True)]
            batch = Batch.pack(chunks, starts=[done[i] for i in now])
            hidden = model(batch, cache.place([[slots[i]] for i in now], [done[i] for i in now])).hidden_ND
            for i, part in zip(now, model.head(hidden).split(sizes), strict=True):
                got[i].append(part)
                done[i] += len(part)
        for sequence, parts in zip(sequences, got, strict=True):
            assert close(torch.cat(parts), model.logits(sequence[None])[0])


@pytest.mark.parametrize("case", ["moe", "next", "qwen3_5_tied"])
def test_copied_blocks_and_states_go_on_as_the_original(case: str) -> None:
    model = load(case)
    prompt, rest = ids(7, 1), ids(4, 2)
    cache = KVCache(model.config, 4, 16)
    with torch.no_grad():
        model(Batch.pack([prompt]), cache.place([[2]], [0]))
        for copy in (cache.copy_blocks, cache.copy_states):
            copy([2, 2], [0, 1])
        batch = Batch.pack([rest, rest], starts=[7, 7])
        got = model.head(model(batch, cache.place([[0], [1]], [7, 7])).hidden_ND).split(4)
        whole = model.logits(torch.cat([prompt, rest])[None])[0, 7:]
    assert close(got[0], whole) and close(got[1], whole)
