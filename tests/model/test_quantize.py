"""int8: rounding is the nearest, the folder reads back as the numbers it stands for, transformers agrees."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from qwill.base.errors import CheckpointError, ModelError
from qwill.model.files import load_model, save_model
from qwill.model.packed import pack_bytes, unpack_bytes
from qwill.model.quantize import quantize_folder, quantize_rows

from .parity import RECORD

ORACLE = json.loads((RECORD.parent / "model_int8.json").read_text())


@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 19),
    seed=st.integers(0, 99),
    size=st.sampled_from([1e-9, 1e-5, 1.0, 1e4]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_error_is_at_most_half_a_step_of_its_row(
    rows: int, columns: int, seed: int, size: float, dtype: torch.dtype
) -> None:
    w = (torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * size).to(dtype)
    w[0] = 0
    values, step = quantize_rows(w)
    # transformers computes with experts in the type of their scales, so it must be the model's.
    assert values.dtype == torch.int8 and step.shape == (rows, 1) and step.dtype == dtype
    error = (values.double() * step.double() - w.double()).abs()
    assert bool((error <= step.double() * 0.5 * (1 + 1e-5)).all())
    # float16 has no scales fine enough for rows of tiny weights.
    assert bool((values[1:].abs().amax(1) >= 126).all()) or (dtype == torch.float16 and size < 1)


@given(rows=st.integers(1, 6), columns=st.integers(1, 19), seed=st.integers(0, 99))
def test_packing_is_exact_and_reversible(rows: int, columns: int, seed: int) -> None:
    v = torch.randint(-128, 128, (rows, columns), generator=torch.Generator().manual_seed(seed)).to(torch.int8)
    packed = pack_bytes(v)
    assert packed.shape == (rows, -(-columns // 4)) and packed.dtype == torch.int32
    assert torch.equal(unpack_bytes(packed, (rows, columns)), v)
    words = packed.to(torch.int64) & 0xFFFFFFFF
    for j in range(columns):
        assert torch.equal((words[:, j // 4] >> (8 * (j % 4))) & 0xFF, v[:, j].long() + 128)


@pytest.mark.parametrize(
    ("case", "dtype", "tolerance"),
    [("dense_tied_bias", "float32", 1e-5), ("moe", "float32", 1e-5), ("moe", "bfloat16", 3e-2)],
)
def test_logits_are_those_of_transformers_on_the_same_folder(
    case: str, dtype: str, tolerance: float, tmp_path: Path
) -> None:
    plain = load_model(RECORD / case, dtype)
    save_model(plain, tmp_path / "plain")
    size = quantize_folder(tmp_path / "plain", tmp_path / "int8")
    model = load_model(tmp_path / "int8", dtype)
    logits = model.logits(torch.arange(1, 20)[None])[0, -1].detach()
    said = torch.tensor(ORACLE[f"{case} {dtype}"]["logits"])
    assert float((logits - said).abs().max()) <= tolerance * float(said.abs().max())
    assert any(not torch.equal(a, b) for a, b in zip(plain.parameters(), model.parameters(), strict=True))
    stored = load_file(tmp_path / "int8" / "model.safetensors")
    assert size.after == sum(t.nbytes for t in stored.values()) < size.before
    names = {n.rpartition("_")[0] for n in stored if n.endswith("_packed")}
    assert len(names) == size.matrices and not any("norm" in n or "mlp.gate.w" in n or "embed" in n for n in names)


def test_quantised_twice_or_without_a_scale_is_refused(tmp_path: Path) -> None:
    quantize_folder(RECORD / "moe", tmp_path / "a")
    with pytest.raises(ModelError, match="quantised already"):
        quantize_folder(tmp_path / "a", tmp_path / "b")
    from safetensors.torch import save_file

    tensors = load_file(tmp_path / "a" / "model.safetensors")
    lost = "model.layers.1.self_attn.q_proj.weight_scale"
    save_file({k: v for k, v in tensors.items() if k != lost}, tmp_path / "a" / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"{lost} is missing"):
        load_model(tmp_path / "a")
