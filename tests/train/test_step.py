"""A step's gradients: however it is cut, they are the same; what each mode of the balancing loss counts."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.train.tiny_training import KINDS, OPTIMIZERS, STEPS, VOCAB, fresh, run, step_data
from torch import Tensor

from qwill.base.config import parse, to_dict
from qwill.base.errors import ConfigError
from qwill.model import ops
from qwill.model.batch import Batch
from qwill.model.transformer import RouterStats, Transformer, balancing_loss
from qwill.train import balance, step
from qwill.train.settings import PretrainConfig, SFTConfig, StepConfig
from qwill.train.step import StepData, StepResult, backward, split

BALANCE = 0.5
OVER = ("micro", "running", "exact")


@st.composite
def steps(draw: st.DrawFn) -> StepData:
    """Up to seven packed sequences, every token with its own weight, some with none."""
    lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=7))
    g = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    n = sum(lengths)
    weight = torch.rand(n, generator=g, dtype=torch.float64) * (torch.rand(n, generator=g) < 0.7)
    batch = Batch.pack([torch.randint(0, VOCAB, (length,), generator=g) for length in lengths])
    return StepData(batch, torch.randint(0, VOCAB, (n,), generator=g), weight / max(1e-9, float(weight.sum())), "x")


def cut(data: StepData, borders: Sequence[int]) -> list[StepData]:
    """Parts that end at the sequences with these numbers: by hand, not by the function under test."""
    ends = [0, *borders, len(data.batch.lengths)]
    out = []
    for a, b in pairwise(ends):
        part = slice(int(data.batch.cu_seqlens[a]), int(data.batch.cu_seqlens[b]))
        batch = Batch.pack(list(data.batch.tokens_N[part].split(data.batch.lengths[a:b].tolist())))
        out.append(StepData(batch, data.targets_N[part], data.weight_N[part], data.source))
    return out


def gradients(
    kind: str, parts: Sequence[StepData], over: str, weight: float = BALANCE
) -> tuple[StepResult, dict[str, Tensor]]:
    model = fresh(kind).double()
    result = backward(model, parts, weight, over)  # type: ignore[arg-type]
    return result, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def distance(a: tuple[StepResult, dict[str, Tensor]], b: tuple[StepResult, dict[str, Tensor]]) -> float:
    assert a[1].keys() == b[1].keys()
    numbers = [abs(a[0].loss - b[0].loss), abs((a[0].balance or 0) - (b[0].balance or 0))]
    return max(*numbers, *(float((a[1][n] - b[1][n]).abs().max()) for n in a[1]))


def some_cuts(data: st.DataObject, whole: StepData) -> list[StepData]:
    inner = range(1, len(whole.batch.lengths))
    borders = data.draw(st.lists(st.sampled_from(inner), unique=True).map(sorted)) if inner else []
    return cut(whole, borders)


@pytest.mark.parametrize("kind", [*KINDS, "hybrid"])
@settings(max_examples=20)
@given(whole=steps(), data=st.data())
def test_cutting_a_step_changes_nothing(kind: str, whole: StepData, data: st.DataObject) -> None:
    parts = some_cuts(data, whole)
    for over, weight in (("exact", BALANCE), ("micro", 0.0), ("running", 0.0)):
        one, many = gradients(kind, [whole], over, weight), gradients(kind, parts, over, weight)
        if weight == 0.0:
            one[0].balance = many[0].balance = None  # of each part's own f: shown, not trained on
        assert distance(one, many) < 1e-10
        assert (one[0].load_LE is None) == (kind == "dense")
        if one[0].load_LE is not None and many[0].load_LE is not None:
            assert torch.equal(one[0].load_LE, many[0].load_LE)


@settings(max_examples=15)
@given(whole=steps(), data=st.data())
def test_each_mode_counts_what_it_says(whole: StepData, data: st.DataObject) -> None:
    """Against the definition: L of each part with P of its own and f of the tokens that the mode names."""
    parts = some_cuts(data, whole)
    outputs = [fresh("moe").double()(part.batch).router_stats or [] for part in parts]
    sizes = [len(part.targets_N) for part in parts]

    def mean_load(chosen: Sequence[int], layer: int) -> Tensor:
        counts = [outputs[i][layer].load_E.double() * sizes[i] for i in chosen]
        return torch.stack(counts).sum(0) / sum(sizes[i] for i in chosen)

    counted: dict[str, Callable[[int], Sequence[int]]] = {
        "micro": lambda i: [i], "running": lambda i: range(i + 1), "exact": lambda i: range(len(parts))
    }  # fmt: skip
    for over in OVER:
        expected = 0.0
        for i, stats in enumerate(outputs):
            own = [RouterStats(mean_load(counted[over](i), j), s.probability_E) for j, s in enumerate(stats)]
            expected += sizes[i] / sum(sizes) * float(balancing_loss(own).detach())
        assert gradients("moe", parts, over)[0].balance == pytest.approx(expected, rel=1e-6)


def test_a_part_of_one_is_what_it_was_before_steps_could_be_cut() -> None:
    """To the last bit, or the recipes that exist would make other numbers."""
    for kind in KINDS:
        data, twin = step_data(0), fresh(kind)
        output = twin(data.batch)
        total, _ = ops.cross_entropy(output.hidden_ND, twin.head_weight_VD, data.targets_N, data.weight_N)
        if output.router_stats:
            total = total + 0.01 * balancing_loss(output.router_stats)
        total.backward()
        for over in OVER:
            model = fresh(kind)
            result = backward(model, split(data, 1), 0.01, over)
            for a, b in zip(model.parameters(), twin.parameters(), strict=True):
                assert a.grad is not None and b.grad is not None and torch.equal(a.grad, b.grad)
            if output.router_stats:
                assert result.load_LE is not None
                assert torch.equal(result.load_LE, torch.stack([s.load_E for s in output.router_stats]))


@given(load=st.lists(st.integers(0, 300_000), min_size=1, max_size=8), top_k=st.integers(1, 8))
def test_assignments_are_counted_exactly(load: list[int], top_k: int) -> None:
    counts, tokens = torch.tensor(load), max(1, sum(load) // top_k)
    stats = [RouterStats(counts / tokens, torch.ones(len(load)))]
    assert balance.count_assignments(stats, tokens).tolist() == [[*load, tokens]]


@given(whole=steps(), parts=st.integers(1, 9), row_length=st.sampled_from([None, 4, 9]))
def test_split_loses_nothing_and_cuts_between_sequences(whole: StepData, parts: int, row_length: int | None) -> None:
    whole.batch.row_length = row_length
    found = split(whole, parts)
    assert 1 <= len(found) <= parts and all(len(p.targets_N) for p in found)
    for name in ("targets_N", "weight_N"):
        assert torch.equal(torch.cat([getattr(p, name) for p in found]), getattr(whole, name))
    assert torch.equal(torch.cat([p.batch.tokens_N for p in found]), whole.batch.tokens_N)
    assert torch.equal(torch.cat([p.batch.positions_N for p in found]), whole.batch.positions_N)
    assert torch.equal(torch.cat([p.batch.lengths for p in found]), whole.batch.lengths)
    assert all(p.batch.cu_seqlens[0] == 0 and p.batch.cu_seqlens[-1] == len(p.targets_N) for p in found)


def test_rows_are_kept_whole_and_the_last_part_may_be_smaller() -> None:
    batch = Batch.pack([[1] * n for n in (3, 5, 8, 2, 6, 8, 8)])  # five rows of eight
    batch.row_length = 8
    data = StepData(batch, torch.zeros(40, dtype=torch.int64), torch.ones(40) / 40, "x")
    assert [len(p.targets_N) for p in split(data, 3)] == [16, 8, 16]
    assert [len(p.targets_N) for p in split(data, 5)] == [8] * 5


@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_run_in_micro_batches_ends_where_the_whole_one_does(optimizer: str, over: str) -> None:
    outcomes = []
    for parts in (1, 2):
        with tempfile.TemporaryDirectory() as name:
            how = StepConfig(parts, over)  # type: ignore[arg-type]
            outcomes.append(run(Path(name), "dense", optimizer, how=how))
    whole, cut_ = outcomes
    assert len(whole.history["curve"]) == len(cut_.history["curve"]) == STEPS
    for a, b in zip(whole.history["curve"], cut_.history["curve"], strict=True):
        assert a == pytest.approx(b, rel=2e-3)
    assert whole.history["tokens"] == cut_.history["tokens"]


@pytest.mark.parametrize("over", OVER)
def test_bfloat16_gradients_survive_the_first_pass(over: str) -> None:
    """Autocast keeps the casts that it made; those of a pass without gradients must not serve the next."""
    model, data = fresh("moe"), step_data(1)
    backward(model, split(data, 2), BALANCE, over, "bfloat16")  # type: ignore[arg-type]
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in model.parameters())


def counted_once(model: Transformer, parts: Sequence[StepData]) -> Tensor:
    found = [balance.count_assignments(model(p.batch).router_stats or [], len(p.targets_N)) for p in parts]
    doubled = torch.stack(found).sum(0)
    doubled[:, -1] //= 2  # the tokens once, the assignments twice
    return doubled


def test_seeded_bugs_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    g = torch.Generator().manual_seed(3)
    ids = [torch.randint(0, VOCAB, (n,), generator=g) for n in (4, 9, 2, 7)]
    whole = StepData(Batch.pack(ids), torch.cat(ids), torch.full((22,), 1 / 22, dtype=torch.float64), "x")
    right, parts = gradients("moe", [whole], "exact"), cut(whole, [1, 3])
    assert distance(right, gradients("moe", parts, "exact")) < 1e-10
    wrong = [
        ("_count", lambda *_: None),  # no first pass
        ("_count", lambda model, parts, *_: counted_once(model, parts)),  # assignments twice
        ("_count", lambda model, parts, *_: counted_once(model, parts[:1])),  # the first part's alone
        ("count_assignments", lambda stats, tokens: balance.count_assignments(stats, 1)),  # parts weigh alike
    ]
    for name, bug in wrong:
        with monkeypatch.context() as patched:
            patched.setattr(step, name, bug)
            assert distance(right, gradients("moe", parts, "exact")) > 1e-6, name
    # The share of a part: without it, L counts once for each part.
    halves = [gradients("moe", [p], "micro") for p in parts]
    summed = {n: sum(h[1][n] for h in halves) for n in right[1]}
    assert max(float((summed[n] - right[1][n]).abs().max()) for n in summed) > 1e-6


def test_new_settings_leave_recipe_ids_alone() -> None:
    for config in (PretrainConfig, SFTConfig):
        assert "step" not in to_dict(config())
        given_ = parse(config, {"step": {"micro_batches": 2}}, "recipe.yaml: base")
        assert to_dict(given_)["step"] == {"micro_batches": 2, "balance_over": "running", "recompute": "none"}
    with pytest.raises(ConfigError, match="micro_batches is 0; expected more than 0"):
        parse(PretrainConfig, {"step": {"micro_batches": 0}}, "recipe.yaml: base")
    with pytest.raises(ConfigError, match=r"balance_over is 'global'.*expected one of micro, running, exact"):
        parse(PretrainConfig, {"step": {"balance_over": "global"}}, "recipe.yaml: base")
