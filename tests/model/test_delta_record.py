"""Gated DeltaNet against transformers' record; and whether that comparison sees mistakes."""

import inspect
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from qwill.model import delta, ops

from .test_delta import borders, projected

RECORD = Path(__file__).parent.parent / "oracles" / "delta.safetensors.bin"


def recorded_differences(module: types.ModuleType) -> list[str]:
    """What of the record `module` (this one or a mutant of it) does not reproduce."""
    record, out = load_file(RECORD), []

    def compare(name: str, names: list[str], function: Callable[..., list[Tensor]], outputs: list[str]) -> None:
        leaves = [record[f"{name}.{n}"].clone().requires_grad_() for n in names]
        got = function(*leaves)
        total = torch.zeros(())
        for x, o in zip(got, outputs, strict=True):
            expected = record[f"{name}.{o}"].reshape(x.shape)
            total = total + projected(x)
            if not float((x.detach() - expected).abs().max()) <= 1e-5 * float(expected.abs().max()):
                out.append(f"{name}: {o}")
        total.backward()
        for x, n in zip(leaves, names, strict=True):
            expected = record[f"{name}.d_{n}"]
            if x.grad is None or not float((x.grad - expected).norm()) <= 2e-5 * float(expected.norm()):
                out.append(f"{name}: gradient of {n}")

    def rule(*x: Tensor) -> list[Tensor]:
        r, n = x[0].shape[:2]
        result, last = module.gated_delta(*(t.flatten(0, 1) for t in x[:5]), borders([n] * r), x[5], True)
        return [result, last]

    def conv(x: Tensor, weight: Tensor) -> list[Tensor]:
        r, n = x.shape[:2]
        return [module.causal_conv_silu(x.flatten(0, 1), weight, borders([n] * r))[0]]

    def norm(o: Tensor, z: Tensor, weight: Tensor) -> list[Tensor]:
        return [module.gated_rms_norm(o[:, None], z[:, None], weight, 1e-2)]

    compare("rule", ["q", "k", "v", "log_decay", "beta", "state"], rule, ["out", "last"])
    compare("conv", ["x", "weight"], conv, ["out"])
    compare("norm", ["o", "z", "weight"], norm, ["out"])
    return out


@pytest.mark.parametrize("native", [False, True])
def test_agrees_with_transformers(native: bool) -> None:
    ops.use_native(native)
    try:
        assert recorded_differences(delta) == []
    finally:
        ops.use_native(True)


MUTANTS = {
    "no decay in the system that is solved": ("* fade_MHIJ).tril(-1)", ").tril(-1)"),
    "the system one diagonal short": (".tril(-1)\n    right_MHI", ".tril(-2)\n    right_MHI"),
    "beta missing from the system": ("(bk_MHIK @ k_MHIK.mT", "(k_MHIK @ k_MHIK.mT"),
    "beta missing from the values": ("beta_MHI[..., None] * v_MHIV", "v_MHIV"),
    "a token does not see itself": (".exp()\n    since", ".exp().tril(-1)\n    since"),
    "decay one token late": ("masked_fill(~lower.tril(-1), 0)", "masked_fill(~lower, 0)"),
    "no decay of the state's queries": ("q_MHIK * since_MHI[..., None]", "q_MHIK"),
    "no decay of keys until the end": ("k_MHIK * until_MHJ[..., None]", "k_MHIK"),
    "no decay of the state": ("state = alpha * state +", "state = state +"),
    "epsilon": ("EPS = 1e-6", "EPS = 1.1e-6"),
    "epsilon outside of the root": ("keepdim=True) + EPS)", "keepdim=True)).add(EPS)"),
    "no scale": ("** -0.5", "** -0.0"),
    "keys are scaled too": ("k_NGK.repeat_interleave(shared, 1)", "(k_NGK * scale).repeat_interleave(shared, 1)"),
    "value heads tiled over key heads": ("k_NGK.repeat_interleave(shared, 1)", "k_NGK.repeat(1, shared, 1)"),
    "query heads tiled": ("(q_NGK * scale).repeat_interleave(shared, 1)", "(q_NGK * scale).repeat(1, shared, 1)"),
    "one state for all sequences": ("[self.rank_R.argsort().to(v_NHV.device)]", "[self.rank_R * 0]"),
    "the first state is forgotten": ("if state_RHKV is None:\n            return", "if True:\n            return"),
    "the filter backwards": ("[:, past - j]", "[:, j]"),
    "the filter sees across borders": ("past * (row_N + 1)", "past"),
    "no silu after the filter": ("silu(torch.stack(taps_NC).sum(0))", "torch.stack(taps_NC).sum(0)"),
    "the gate before the norm": ("rsqrt(wide.pow(2).mean(-1", "rsqrt((wide * silu(z_NHV)).pow(2).mean(-1"),
    "sigmoid for silu in the gate": ("silu(_wide(z_NHV))", "torch.sigmoid(_wide(z_NHV))"),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_the_record_sees(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = MUTANTS[name]
    source = inspect.getsource(delta)
    assert source.count(old) == 1
    mutant = types.ModuleType("mutant")
    exec(compile(source.replace(old, new), "mutant", "exec"), mutant.__dict__)
    ops.use_native(False)
    try:
        assert recorded_differences(mutant) != []
    finally:
        ops.use_native(True)
