"""LoRA: PEFT's adapters give PEFT's numbers and gradients, ours are written as PEFT reads them, merged ≡ unmerged."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from qwill.base.artifact import content_id
from qwill.base.errors import ModelError
from qwill.model import lora, lora_config, lora_files, ops
from qwill.model.lora import Adapter, LowRank, attach, detach, merge, new_adapter
from qwill.model.lora_config import LoraConfig
from qwill.model.lora_files import CONFIG, WEIGHTS, load_adapter, save_adapter
from qwill.model.transformer import Transformer
from tests.oracles.lora_cases import OURS, TOKENS, drawn, probe
from tests.oracles.tiny_models import tiny

from . import parity
from .parity import RECORD

LORA = RECORD.parent / "lora"
ORACLE = json.loads((LORA / "ours.json").read_text())
CASES = sorted(ORACLE["cases"])
NEAR, GRADIENT = 1e-5, 2e-5  # as in parity.py


@pytest.fixture(autouse=True, params=[True, False], ids=["native", "torch"])
def kernels(request: pytest.FixtureRequest) -> Iterator[None]:
    ops.use_native(request.param)
    yield
    ops.use_native(True)


def load(name: str) -> Transformer:
    return parity.load(name) if name in parity.CASES else tiny(name)


def base(case: str) -> Transformer:
    return load(ORACLE["cases"][case]["model"])


def distance(got: Tensor, expected: Tensor) -> float:
    return float(((got - expected).abs().max() / expected.abs().max()).detach())


def differences(case: str) -> list[str]:
    """What of PEFT's record the adapter that PEFT wrote does not reproduce here, unmerged and merged."""
    said, model, out = load_file(LORA / case / "said.safetensors.bin"), base(case), []
    adapter = load_adapter(model, LORA / case)
    attach(model, adapter)
    logits = model.logits(TOKENS)
    if not distance(logits, said["logits"]) <= NEAR:
        out.append("logits differ")
    (logits * probe(logits)).sum().backward()
    # A gradient is written as the parameter that it belongs to would be.
    slopes = {k: LowRank(_slope(p.a), _slope(p.b), 1.0, p.rows_O) for k, p in adapter.parts.items()}
    for name, slope in lora_files._tensors(Adapter(adapter.config, slopes)):
        expected = said[f"gradient.{name}"]
        if not float((slope - expected).norm()) <= GRADIENT * float(expected.norm()):
            out.append(f"gradient of {name} differs")
    merge(model, adapter)
    if not distance(model.logits(TOKENS), logits) <= NEAR:
        out.append("merged differs from unmerged")
    return out


def _slope(p: torch.nn.Parameter) -> Tensor:
    assert p.grad is not None
    return p.grad


@pytest.mark.parametrize("case", CASES)
def test_adapters_of_peft_give_its_logits_and_gradients_and_merge(case: str) -> None:
    assert differences(case) == []


@pytest.mark.parametrize("case", CASES)
def test_adapters_of_peft_are_written_back_as_they_were(case: str, tmp_path: Path) -> None:
    save_adapter(load_adapter(base(case), LORA / case), tmp_path, base=ORACLE["cases"][case]["model"])
    theirs, mine = load_file(LORA / case / WEIGHTS), load_file(tmp_path / WEIGHTS)
    assert theirs.keys() == mine.keys() and all(torch.equal(theirs[k], mine[k]) for k in theirs)
    said, saying = (json.loads((folder / CONFIG).read_text()) for folder in (LORA / case, tmp_path))
    differ = {k for k in saying if saying[k] != said[k]}
    assert differ <= {"target_modules", "target_parameters"}
    assert all(sorted(saying[k] or []) == sorted(said[k] or []) for k in differ)


@pytest.mark.parametrize("name", OURS)
def test_our_adapters_are_what_peft_loaded(name: str, tmp_path: Path) -> None:
    model = load(OURS[name][0])
    adapter = drawn(name, model)
    save_adapter(adapter, tmp_path, base=OURS[name][0])
    assert content_id(tmp_path)[0] == ORACLE["ours"][name]["content_id"]
    attach(model, load_adapter(model, tmp_path))
    assert distance(model.logits(TOKENS)[0, -1], torch.tensor(ORACLE["ours"][name]["logits"])) <= NEAR


@pytest.mark.parametrize("model", ["dense_tied_bias", "moe_mixed", "hybrid"])
def test_an_adapter_comes_and_goes_without_touching_a_weight(model: str) -> None:
    m = load(model)
    before, plain = {k: v.clone() for k, v in m.state_dict().items()}, m.logits(TOKENS)
    first, second = (new_adapter(m, LoraConfig(rank=2), torch.Generator().manual_seed(seed)) for seed in (1, 2))
    attach(m, first)
    assert torch.equal(m.logits(TOKENS)[:1], plain[:1]) or distance(m.logits(TOKENS), plain) <= NEAR  # B is zero
    with pytest.raises(ModelError, match="has an adapter on it already"):
        attach(m, second)
    for part in second.parts.values():
        torch.nn.init.normal_(part.b, generator=torch.Generator().manual_seed(3))
    detach(m)
    attach(m, second)
    trained = {n for n, p in m.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * len(second.parts) and all(".updates." in n for n in trained)
    m.logits(TOKENS).sum().backward()
    assert {n for n, p in m.named_parameters() if p.grad is not None} == trained
    assert distance(m.logits(TOKENS), plain) > 1e-2
    detach(m)
    assert torch.equal(m.logits(TOKENS), plain) and all(p.requires_grad for p in m.parameters())
    after = m.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[k], before[k]) for k in before)


def test_a_is_drawn_as_peft_draws_it_and_b_is_zero() -> None:
    adapter = new_adapter(load("moe"), LoraConfig(rank=64), torch.Generator().manual_seed(0))
    for part in adapter.parts.values():
        bound = part.a.shape[-1] ** -0.5  # kaiming_uniform_(a=√5)
        assert float(part.a.detach().abs().max()) <= bound
        assert float(part.a.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.05)
        assert not part.b.any()


ENDS = ["q_proj", "k_proj", "up_proj", "experts.down_proj", "mlp.gate", "in_proj_qkvz", "in_proj_ba", "out_proj"]


@settings(max_examples=25)
@given(st.integers(0, 9), st.sampled_from(ENDS))
def test_merging_is_adding_b_times_a_to_the_released_matrix(seed: int, end: str) -> None:
    """On the released tensors, however they lie in memory."""
    from qwill.model.layout import released_names

    model = load("hybrid")
    adapter = new_adapter(model, LoraConfig(rank=2, alpha=3, targets=(end,)))
    g = torch.Generator().manual_seed(seed)
    for part in adapter.parts.values():
        part.a.data.normal_(generator=g)
        part.b.data.normal_(generator=g)

    def released() -> dict[str, Tensor]:
        parameters = dict(model.named_parameters())
        return {n: s.read(parameters[s.parameter].detach()).clone() for n, s in released_names(model.config).items()}

    before = released()
    merge(model, adapter)
    for name, after in released().items():
        module = name.removesuffix(".weight")
        expert = lora.EXPERT.fullmatch(module)
        last, half = expert[3] if expert else "", slice(None)
        if last in ("gate_proj", "up_proj"):  # of experts: one A for both
            half, last = slice(32) if last == "gate_proj" else slice(32, 64), "gate_up_proj"
        part = adapter.parts.get(f"{expert[1]}.{last}" if expert else module)
        if part is None:
            assert torch.equal(after, before[name])
        else:
            a, b = (part.a[int(expert[2])], part.b[int(expert[2])]) if expert else (part.a, part.b)
            torch.testing.assert_close(after, before[name] + 1.5 * (b @ a).detach()[half])


def test_half_models_keep_adapters_in_float32_and_merge() -> None:
    exact = load("moe")
    attach(exact, drawn("stacked_experts", exact))
    model = load("moe").to(torch.bfloat16)
    adapter = drawn("stacked_experts", model)
    attach(model, adapter)
    assert {p.dtype for p in adapter.parts["model.layers.0.self_attn.q_proj"].parameters()} == {torch.float32}
    # The median token: rounding may send one to other experts.
    truth = exact.logits(TOKENS)
    unmerged = float((model.logits(TOKENS) - truth).abs().amax(-1).median())
    merge(model, adapter)
    merged = float((model.logits(TOKENS) - truth).abs().amax(-1).median())
    assert merged <= 2 * unmerged < 0.05 * float(truth.abs().max())
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_experts_that_a_file_leaves_out_stay_as_they_are(tmp_path: Path) -> None:
    model = load("moe")
    save_adapter(drawn("single_experts", model), tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    left = {k: v for k, v in tensors.items() if ".experts." not in k or ".experts.3." in k}
    save_file(left, tmp_path / WEIGHTS)
    merged = load("moe")
    merge(merged, load_adapter(model, tmp_path))
    for name, p in merged.named_parameters():
        if "mlp.down" in name or "mlp.gate_up" in name:
            same = [torch.equal(a, b) for a, b in zip(p, model.get_parameter(name), strict=True)]
            assert same == [e != 3 for e in range(5)]


# -- bugs that must not hide

Patch = pytest.MonkeyPatch


def scale_without_alpha(patch: Patch) -> None:
    patch.setattr(LoraConfig, "scale_of", lambda self, module: 1.0 / self.rank_of(module))


def rslora_ignored(patch: Patch) -> None:
    def wrong(self: LoraConfig, module: str) -> float:
        return lora_config._matched(self.alphas, module, self.alpha) / self.rank_of(module)

    patch.setattr(LoraConfig, "scale_of", wrong)


def scale_of_the_general_rank(patch: Patch) -> None:
    real = LoraConfig.scale_of
    patch.setattr(LoraConfig, "scale_of", lambda self, m: real(self, m) * self.rank_of(m) / self.rank)


def alpha_pattern_ignored(patch: Patch) -> None:
    real = LoraConfig.scale_of
    patch.setattr(LoraConfig, "scale_of", lambda s, m: real(LoraConfig(s.rank, s.alpha, ranks=s.ranks), m))


def next_rows(patch: Patch) -> None:
    real = lora._rows
    patch.setattr(lora, "_rows", lambda slot, shape: (real(slot, shape) + 1) % shape[-2])


def rows_from_zero(patch: Patch) -> None:
    patch.setattr(lora, "_rows", lambda slot, shape: torch.arange(slot.shape[-2]))


def rows_in_one_piece(patch: Patch) -> None:
    """As if the file had all queries first and then all gates."""
    real = lora._rows
    patch.setattr(lora, "_rows", lambda slot, shape: real(slot, shape).sort().values)


def ranks_before_experts(patch: Patch) -> None:
    """A's rows as j·E + e."""
    real = lora_files._part

    def wrong(target: lora.Target, key: str, rank: int, *rest: object) -> LowRank:
        part = real(target, key, rank, *rest)  # type: ignore[arg-type]
        if target.experts:
            part.a.data = part.a.data.flatten(0, 1).unflatten(0, (rank, -1)).transpose(0, 1).contiguous()
        return part

    patch.setattr(lora_files, "_part", wrong)


def experts_before_ranks(patch: Patch) -> None:
    """B's columns as e·r + j."""
    real = lora_files._part

    def wrong(target: lora.Target, key: str, rank: int, *rest: object) -> LowRank:
        part = real(target, key, rank, *rest)  # type: ignore[arg-type]
        if target.experts:
            columns = part.b.data.permute(1, 2, 0).flatten(1)
            part.b.data = columns.unflatten(1, (target.experts, rank)).transpose(0, 1).contiguous()
        return part

    patch.setattr(lora_files, "_part", wrong)


def experts_in_another_order(patch: Patch) -> None:
    real = LowRank.add_to
    patch.setattr(LowRank, "add_to", lambda self, w: real(self, w.flip(0) if w.ndim == 3 else w))


def merge_without_scale(patch: Patch) -> None:
    def wrong(self: LowRank, weight: Tensor) -> None:
        weight.index_add_(-2, self.rows_O, self.b @ self.a)

    patch.setattr(LowRank, "add_to", wrong)


def no_gradient(patch: Patch) -> None:
    real = LowRank.forward

    def wrong(self: LowRank, x: Tensor, starts: Tensor | None) -> Tensor:
        out = real(self, x, starts)
        return out.detach() + 0 * out

    patch.setattr(LowRank, "forward", wrong)


BUGS: list[tuple[Callable[[Patch], None], str]] = [
    (scale_without_alpha, "patterns"), (rslora_ignored, "rslora"), (scale_of_the_general_rank, "patterns"),
    (alpha_pattern_ignored, "patterns"), (next_rows, "patterns"), (next_rows, "stacked"), (rows_from_zero, "patterns"),
    (ranks_before_experts, "stacked"), (experts_before_ranks, "stacked"), (experts_in_another_order, "stacked_down"),
    (rows_from_zero, "hybrid"), (rows_in_one_piece, "hybrid"), (merge_without_scale, "stacked_gate_up"),
    (no_gradient, "stacked"),
]  # fmt: skip


@pytest.mark.parametrize(("bug", "case"), BUGS, ids=[f"{bug.__name__}-{case}" for bug, case in BUGS])
def test_bugs_are_caught(bug: Callable[[Patch], None], case: str, monkeypatch: Patch) -> None:
    bug(monkeypatch)
    try:
        found = differences(case)
    except RuntimeError:  # shapes that do not fit
        return
    assert found != []
