"""Products with quantised weights against a NumPy model of their arithmetic, bit for bit, on every path."""

import ctypes
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_executors import VARIANTS, ids_like
from tiny import redrawn

from qwill.engine import native
from qwill.engine.executor import Step
from qwill.engine.native import NativeExecutor
from qwill.engine.native_weights import BYTES, SPAN, Matrix, lay_out
from qwill.model.byte_scales import from_bytes
from qwill.model.ggml_blocks import BLOCKS, CODED, codes, dequantize
from qwill.model.packed import Codes
from qwill.model.project import Quantized
from qwill.model.quantize import Scheme, quantize

pytestmark = pytest.mark.skipif(native.library() is None, reason="no C compiler: there are no native kernels to test")
F = np.float32


@pytest.fixture(autouse=True)
def best_path():
    yield
    native.library().choose_path(2)


def fused(a, b, c):
    """a · b + c in float32, rounded once: the sum in float64 is rounded to odd, so that rounding again does no harm."""
    product, c = a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64)
    total = product + c
    part = total - product
    error = (product - (total - part)) + (c - part)
    bits = total.view(np.int64)
    away = np.where((error > 0) == (total > 0), 1, -1)
    return np.where((error != 0) & (bits & 1 == 0), bits + away, bits).view(np.float64).astype(F)


def coded_rows(x_RI):
    """(codes, scale, sum) of every group of 32, as `quantise_groups` makes them."""
    rows, columns = x_RI.shape
    x = np.zeros((rows, -(-columns // SPAN) * SPAN), F)
    x[:, :columns] = x_RI
    x = x.reshape(rows, -1, SPAN)
    largest = np.abs(x).max(2)
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.where(largest > F(1e-30), F(127) / largest, F(0))
    code = np.rint(x * inverse[..., None]).astype(np.int8)
    scale = np.where(largest > F(1e-30), largest / F(127), F(0))
    return code, scale, code.astype(np.int32).sum(2)


def multiplied(x_RI, weight: Codes):
    """The formula at the top of codes.h."""
    code, scale, total = coded_rows(x_RI)
    rows, groups, _ = code.shape
    columns, per_row = weight.scale.shape
    offset = 128 if weight.bits == 8 else 8
    u = np.zeros((columns, groups * SPAN), np.int32)
    u[:, : weight.columns] = weight.integers().numpy().astype(np.int32) + offset
    u = u.reshape(columns, groups, SPAN)
    scales = np.repeat(weight.scale.float().numpy(), -(-groups // per_row), axis=1)
    zero = F(0) if weight.zero is None else weight.zero.numpy().astype(F)
    minimum = None
    if weight.zero is not None or weight.minimum is not None:
        minimum = (F(-offset) - zero) * weight.scale.float().numpy()
        minimum = minimum if weight.minimum is None else minimum + weight.minimum.float().numpy()
        minimum = np.repeat(minimum, -(-groups // per_row), axis=1)
    out = np.zeros((rows, columns), F)
    for g in range(groups):
        whole = code[:, g].astype(np.int32) @ u[:, g].T
        if minimum is None:
            whole = whole - offset * total[:, g, None]
        out = fused(whole.astype(F), scales[None, :, g] * scale[:, g, None], out)
        if minimum is not None:
            shift = (scale[:, g] * total[:, g].astype(F))[:, None]
            out = fused(np.broadcast_to(minimum[None, :, g], out.shape), np.broadcast_to(shift, out.shape), out)
    return out


def native_product(x_RI, weight: Codes, kind: int | None = None):
    lib, (rows, width) = native.library(), x_RI.shape
    struct, kept = lay_out(weight, 0, lambda shape, dtype=torch.float32: torch.empty(shape, dtype=dtype))
    assert kind is None or struct.kind == kind
    matrix = Matrix(struct, None, None, struct.columns, struct.k)
    x = torch.from_numpy(np.ascontiguousarray(x_RI))
    row_bytes = lib.code_row_bytes(ctypes.c_int64(width))
    made, out = torch.empty(rows * row_bytes + 64, dtype=torch.int8), torch.empty(rows, struct.columns)
    at = ctypes.c_void_p(made.data_ptr())
    lib.quantise_rows(ctypes.c_void_p(x.data_ptr()), ctypes.c_int64(rows), ctypes.c_int64(width), at)
    lib.multiply_codes(ctypes.byref(matrix), at, ctypes.c_int64(rows), ctypes.c_void_p(out.data_ptr()))
    assert kept
    return out.numpy()


@settings(deadline=None, max_examples=40)
@given(
    rows=st.integers(1, 9), columns=st.integers(1, 70), width=st.integers(2, 6), path=st.integers(0, 2),
    seed=st.integers(0, 999),
)  # fmt: skip
def test_scales_and_minima_in_bytes_are_those_of_floats_to_the_last_bit(rows, columns, width, path, seed):
    draw = np.random.default_rng(seed)
    values = torch.from_numpy(draw.integers(-8, 8, (columns, 32 * width)).astype(np.int8))
    made = []
    for centre, size in ((0.02, 0.01), (-0.15, 0.05)):
        bytes_ = draw.integers(0, 256, (columns, width))
        bytes_[:, 0], bytes_[:, 1] = 0, 255
        base = torch.from_numpy(draw.normal(centre, size, (columns, 1)).astype(F))
        step = torch.from_numpy((np.abs(draw.normal(0, size, (columns, 1))) + size).astype(F) / 255)
        step = (step.view(torch.int32) & -256).view(torch.float32)
        made.append(from_bytes(torch.from_numpy(bytes_), base, step))
    weight = Codes.of(values, made[0], 4, torch.full(made[0].shape, -8, dtype=torch.int8))
    weight.minimum = made[1]
    x_RI = draw.normal(0, 1, (rows, 32 * width)).astype(F)
    native.library().choose_path(path)
    np.testing.assert_array_equal(native_product(x_RI, weight, BYTES), multiplied(x_RI, weight))


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 19), columns=st.integers(1, 70), width=st.integers(1, 5), odd=st.booleans(),
    bits=st.sampled_from([4, 8]), kind=st.sampled_from(["one", "group", "wide"]),
    extras=st.sampled_from(["", "zero", "minimum", "zero and minimum"]), extreme=st.booleans(),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32]), seed=st.integers(0, 999),
)  # fmt: skip
def test_every_path_is_the_numpy_model_to_the_last_bit(
    rows, columns, width, odd, bits, kind, extras, extreme, dtype, seed
):
    draw = np.random.default_rng(seed)
    per_row, inputs = {
        "one": (1, 32 * width - 5 * odd), "group": (width, 32 * width), "wide": (width, 64 * width)
    }[kind]  # fmt: skip
    low, high = (-128, 127) if bits == 8 else (-8, 7)
    values = draw.integers(low, high + 1, (columns, inputs))
    if extreme:
        values = draw.choice([low, high, 0], (columns, inputs))
    scale = torch.from_numpy(draw.normal(0, 0.02, (columns, per_row)).astype(F)).to(dtype)
    weight = Codes.of(torch.from_numpy(values.astype(np.int8)), scale, bits)
    if "zero" in extras:
        weight.zero = torch.from_numpy(draw.integers(low, high + 1, (columns, per_row)).astype(np.int8))
    if "minimum" in extras:
        weight.minimum = torch.from_numpy(draw.normal(0, 0.1, (columns, per_row)).astype(F)).to(dtype)
    x = draw.normal(0, 3, (rows, inputs)).astype(F)
    if extreme:
        x = draw.choice(np.array([-127, 127, 0, 1e-35, 1e30], F), (rows, inputs)).astype(F)
        x[draw.random(rows) < 0.3] = 0
    with np.errstate(all="ignore"):
        wanted = multiplied(x, weight)
    for path in (2, 1, 0):
        native.library().choose_path(path)
        assert np.array_equal(native_product(x, weight), wanted, equal_nan=True), path


@pytest.mark.parametrize("bits", [4, 8])
def test_what_is_not_finite_reaches_its_row_and_no_other(bits):
    """As codes it would be 0, and a broken model would talk nonsense instead of being named."""
    draw = np.random.default_rng(0)
    low, high = (-128, 127) if bits == 8 else (-8, 7)
    values = torch.from_numpy(draw.integers(low, high + 1, (40, 96)).astype(np.int8))
    weight = Codes.of(values, torch.ones(40, 3), bits)
    x = draw.normal(0, 1, (11, 96)).astype(F)
    clean = native_product(x, weight)
    broken = {0: np.nan, 4: np.inf, 9: -np.inf, 10: -np.nan}
    for row, value in broken.items():
        x[row, 7 * row] = value
    for path in (2, 1, 0):
        native.library().choose_path(path)
        out = native_product(x, weight)
        others = [row for row in range(11) if row not in broken]
        assert np.isnan(out[list(broken)]).all() and np.array_equal(out[others], clean[others]), path


def test_this_processor_runs_every_path_that_it_has():
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text().split() if cpuinfo.exists() else []
    best = 2 if "avx512_vnni" in flags else 1 if {"avx2", "fma"} <= set(flags) else 0
    assert native.library().choose_path(2) == best
    assert native.library().choose_path(0) == 0


@pytest.mark.parametrize("kind", CODED)
def test_ggml_blocks_are_the_same_numbers(kind):
    block = BLOCKS[kind]
    data = np.random.default_rng(1).integers(0, 256, 6 * 3 * block.bytes, dtype=np.uint8).reshape(-1, block.bytes)
    data[:, 1] &= 0x3F  # finite scales and minima
    if kind == "Q4_1":
        data[:, 3] &= 0x3F
    data = data.reshape(-1)
    found = codes(data, kind, (6, 96))
    assert np.array_equal(found.dense().numpy(), dequantize(data, kind).reshape(6, 96))


def held(model, scheme: Scheme):
    """The model with its projections as codes."""
    for _, module in list(model.named_modules()):
        for name, p in list(module.named_parameters(recurse=False)):
            if p.dim() == 3 or (p.dim() == 2 and type(module).__name__ == "Linear" and p.shape[0] != 4):
                parts = [quantize(w.detach(), scheme) for w in (p if p.dim() == 3 else p[None])]
                stacked = [torch.stack([getattr(c, n) for c in parts]) for n in ("values", "scale")]
                if p.dim() == 2:
                    stacked = [t[0] for t in stacked]
                if module is model.lm_head:
                    continue
                delattr(module, name)
                setattr(module, name, Quantized(Codes(parts[0].bits, parts[0].columns, *stacked)))
    return model


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("kv_dtype", [torch.float32, torch.float16, torch.int8])
@pytest.mark.parametrize("name", [n for n in VARIANTS if not n.startswith("moe")])
@torch.inference_mode()
def test_a_quantised_model_is_near_its_definition(name, kv_dtype, bits):
    """Activations of 8 bits (and the head's weights) are all that differs: within 5 % of the largest logit."""
    model = held(redrawn(VARIANTS[name], seed=1), Scheme(bits))
    ids = ids_like(0, 40, model.config.vocab_size)
    expected = model.logits(torch.tensor([ids]))[0]
    results = []
    for path in (2, 0):
        native.library().choose_path(path)
        executor = NativeExecutor(model, 4, 16, kv_dtype=kv_dtype)
        table = torch.tensor([[3, 0, 2]], dtype=torch.int32)
        results.append(executor.run(one(ids[:33], 0, table)).clone())
        results.append(executor.run(one(ids[33:34], 33, table)).clone())
    for got, place in zip(results, (32, 33, 32, 33), strict=True):
        assert float((got[0] - expected[place]).abs().max()) <= 0.05 * float(expected.abs().max())
    assert torch.equal(results[0], results[2]) and torch.equal(results[1], results[3])


def one(ids, length, table) -> Step:
    n, none = len(ids), torch.tensor([-1])
    return Step(
        torch.tensor(ids), length + torch.arange(n), torch.tensor([0, n], dtype=torch.int32), torch.tensor([length]),
        table, none, torch.tensor([n - 1]), none,
    )  # fmt: skip


@torch.inference_mode()
def test_experts_are_chosen_and_kept_as_by_the_definition():
    model = redrawn(dataclasses.replace(VARIANTS["moe"], num_hidden_layers=3), seed=2)
    executor = NativeExecutor(model, 4, 16)
    step = one(ids_like(0, 20, 97), 0, torch.tensor([[1, 3]], dtype=torch.int32))
    step.experts = True
    executor.run(step)
    assert executor.experts_LNk is not None and executor.experts_LNk.shape == (3, 20, 2)
    chosen = []
    for layer in model.layers:
        layer.mlp.gate.register_forward_hook(lambda _m, _a, out: chosen.append(out.softmax(-1).topk(2).indices))
    model.logits(step.tokens_N[None])
    assert torch.equal(executor.experts_LNk, torch.stack(chosen))


@torch.inference_mode()
def test_a_quantised_router_chooses_in_float32():
    model = held(redrawn(dataclasses.replace(VARIANTS["moe"], num_experts=6), seed=2), Scheme(8))
    assert isinstance(model.layers[0].mlp.gate.weight, Quantized)
    step = one(ids_like(0, 20, 97), 0, torch.tensor([[1, 3]], dtype=torch.int32))
    got = NativeExecutor(model, 4, 16).run(step)
    expected = model.logits(step.tokens_N[None])[0, -1:]
    assert float((got - expected).abs().max()) <= 0.1 * float(expected.abs().max())
