"""Projections rounded after loading: what `load(weights=…)` holds, and that nothing else is touched."""

import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qwill.base.errors import ModelError
from qwill.engine import native
from qwill.engine.engine import Engine
from qwill.engine.engine_settings import EngineSettings, blocks_in
from qwill.engine.language_model import load
from qwill.model.files import load_model, save_model
from qwill.model.fitted import fit_minima
from qwill.model.held import hold, load_held, multiply_out, round_bytes, round_to
from qwill.model.project import Quantized
from qwill.model.quantize import Scheme, quantize, quantize_folder
from qwill.model.stored import StoredTensors
from qwill.model.transformer import Transformer
from qwill.text.tokenizer import Tokenizer
from qwill.text.vocabulary import to_characters
from tests.oracles.tiny_models import MODELS, TOKENS, tiny

SMALL = EngineSettings(blocks=8, max_running=2)


@given(
    rows=st.integers(1, 5), groups=st.integers(1, 3), offset=st.floats(-3, 3), seed=st.integers(0, 99),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)  # fmt: skip
def test_fitted_codes_lose_no_more_than_the_even_grid(
    rows: int, groups: int, offset: float, seed: int, dtype: torch.dtype
) -> None:
    w = (torch.randn(rows, 32 * groups, generator=torch.Generator().manual_seed(seed)) + offset).to(dtype)
    w[0, :32] = offset
    codes = fit_minima(w)
    assert codes.minimum is not None and codes.scale.dtype == torch.float16 and codes.scale.shape == (rows, groups)
    wide = w.float().unflatten(1, (groups, 32))
    error = (codes.dense().unflatten(1, (groups, 32)) - wide).square().mean(2)
    low, high = wide.amin(2, keepdim=True), wide.amax(2, keepdim=True)
    step = ((high - low) / 15).clamp(min=1e-9)
    even = ((wide - low) / step).round() * step + low
    # Of two roundings to halves, one of 15 scales and one of the minimum; the smallest halves are 6e-8 apart.
    halves = 2e-3 * wide.abs().amax(2) + 8 * 2**-24
    assert bool((error.sqrt() <= (even - wide).square().mean(2).sqrt() + halves).all())


def test_fitting_pays() -> None:
    """Against the even grid and against symmetric codes, in the whole."""
    w = torch.randn(400, 320, generator=torch.Generator().manual_seed(0))
    wide = w.unflatten(1, (-1, 32))
    low, high = wide.amin(2, keepdim=True), wide.amax(2, keepdim=True)
    even = ((wide - low) / (high - low) * 15).round() * ((high - low) / 15) + low
    fitted = float((fit_minima(w).dense() - w).norm())
    assert fitted < 0.95 * float((even - wide).norm())
    assert fitted < 0.85 * float((quantize(w, Scheme(4, 32)).dense() - w).norm())


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("kind", MODELS)
def test_held_projections_are_their_codes_and_the_rest_is_untouched(kind: str, bits: int) -> None:
    model, plain = tiny(kind), tiny(kind)
    hold(model, bits)
    left, before = dict(model.named_parameters()), dict(plain.named_parameters())
    held = {name: m for name, m in model.named_modules() if isinstance(m, Quantized)}
    assert {*left, *held} == {*before} and not {*left} & {*held}
    assert all(torch.equal(p, before[name]) for name, p in left.items())
    assert all(p.dim() < 2 or "embed" in name or "gate.weight" in name or "conv" in name or "in_proj" in name
               or "shared_expert_gate" in name or "lm_head" in name for name, p in left.items())  # fmt: skip
    for name, module in held.items():
        assert module.bits == (8 if kind != "dense" and "mlp" not in name else bits)
        wanted = torch.stack([round_to(w.detach(), module.bits).dense() for w in matrices(before[name])])
        assert torch.equal(module.dense(torch.float32).view_as(wanted), wanted)
    expected = model.logits(TOKENS).detach()
    multiply_out(model)
    assert not any(isinstance(m, Quantized) for m in model.modules())
    assert {name for name, _ in model.named_parameters()} == {*before}
    assert float((model.logits(TOKENS) - expected).detach().abs().max()) <= 1e-5 * float(expected.abs().max())


def matrices(weight: torch.Tensor) -> torch.Tensor:
    return weight.reshape(-1, *weight.shape[-2:])


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """One model as floats, as int8 with a scale a row, and as int4 in groups of 32."""
    tokenizer = Tokenizer.from_trained({to_characters(bytes([b])): b for b in range(256)}, [])
    save_model(tiny("moe"), tmp_path / "float", tokenizer)
    quantize_folder(tmp_path / "float", tmp_path / "int8", scheme=Scheme(8))
    quantize_folder(tmp_path / "float", tmp_path / "int4", scheme=Scheme(4, 32))
    return {name: tmp_path / name for name in ("float", "int8", "int4")}


def widths(model: Transformer) -> set[int]:
    return {m.bits for m in model.modules() if isinstance(m, Quantized)}


def test_what_is_stored_as_integers_stays_so_and_the_rest_becomes_what_is_asked(folders: dict[str, Path]) -> None:
    compiled = native.library() is not None
    for name, stored in (("float", set()), ("int8", {8}), ("int4", {4})):
        auto = load(folders[name], weights="auto").model
        assert widths(auto) == (stored if compiled else set())
        assert widths(load(folders[name]).model) == set()
        for bits in (8, 4):
            model = load(folders[name], weights=f"int{bits}").model  # type: ignore[arg-type]
            # With experts attention keeps 8 bits; what is stored in fewer stays.
            assert widths(model) == ({8} if bits == 8 else {4, 8}) if name != "int4" else {4}
            if stored == {bits} or name == "int4":
                exact = load_model(folders[name]).logits(TOKENS).detach()
                assert float((model.logits(TOKENS) - exact).detach().abs().max()) <= 1e-5 * float(exact.abs().max())


FORMS = {"float32": None, "bfloat16": None, "int8": Scheme(8), "bytes": Scheme(8, 32, "int-quantized"),
         "int4": Scheme(4, 32)}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", MODELS)
def test_rounding_while_reading_is_rounding_what_was_read(
    kind: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit, whatever is stored and computed with, and with the floats of one tensor at a time."""
    scheme, live = FORMS[form], []
    save_model(tiny(kind, "bfloat16" if form == "bfloat16" else "float32"), tmp_path / "float")
    folder = tmp_path / ("float" if scheme is None else "codes")
    if scheme is not None:
        quantize_folder(tmp_path / "float", folder, scheme=scheme)
    read = StoredTensors.read

    def watched(stored: StoredTensors, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        tensor = read(stored, name, shape)
        live.append((name, weakref.ref(tensor)))
        assert sum(ref() is not None for name, ref in live if name.endswith("_proj.weight")) <= 2
        return tensor

    for bits in (8, 4):
        for dtype in ("float32", "bfloat16"):
            wanted = load_model(folder, dtype, quantized=scheme is not None)
            hold(wanted, bits)
            with monkeypatch.context() as patch:
                patch.setattr(StoredTensors, "read", watched)
                model = load_held(folder, bits, dtype)
            live.clear()
            found, state = model.state_dict(), wanted.state_dict()
            assert list(found) == list(state) and model.config == wanted.config and not model.training
            for name, tensor in state.items():
                assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name
            for name, module in wanted.named_modules():
                other = model.get_submodule(name)
                assert type(other) is type(module)
                if isinstance(module, Quantized):
                    assert (other.bits, other.columns) == (module.bits, module.columns)


def test_rows_that_do_not_divide_are_named_before_anything_is_read(tmp_path: Path) -> None:
    config = replace(MODELS["dense"], intermediate_size=40)
    save_model(Transformer(config), tmp_path)
    with pytest.raises(ModelError, match=r"layers\.0\.mlp\.down_proj: rows of 40 weights do not divide"):
        load_held(tmp_path, 4)


def test_integers_that_native_code_does_not_know_are_multiplied_out(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantize_folder(folders["float"], tmp_path / "odd", scheme=Scheme(4, 16))
    for part in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "odd" / part).write_bytes((folders["float"] / part).read_bytes())
    assert widths(load(tmp_path / "odd", weights="auto").model) == set()
    assert widths(load(tmp_path / "odd", weights="int4").model) == {4}  # as it is
    monkeypatch.setattr(native, "library", lambda: None)
    assert widths(load(folders["int8"], weights="auto").model) == set()


def test_rows_that_do_not_divide_are_named() -> None:
    model = tiny("dense")
    model.layers[0].mlp.down_proj.weight = torch.nn.Parameter(torch.ones(64, 40))  # type: ignore[union-attr]
    with pytest.raises(ModelError, match=r"layers\.0\.mlp\.down_proj: rows of 40 weights do not divide"):
        hold(model, 4)


def test_a_head_rounded_in_pieces_is_the_head_rounded_at_once() -> None:
    w = torch.randn(70_000, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    codes, wanted = round_bytes(w, torch.float32), quantize(w.float(), Scheme(8, 32))
    assert torch.equal(codes.values, wanted.values) and torch.equal(codes.scale, wanted.scale)
    assert codes.scale.dtype == torch.float32 and (codes.bits, codes.columns) == (8, 64) and codes.minimum is None


@pytest.mark.skipif(native.library() is None, reason="no C compiler: there is no native executor")
def test_the_memory_of_the_cache_counts_what_native_code_keeps() -> None:
    """Half floats beside integers unless told otherwise, so that twice as many tokens fit."""
    plain, held = tiny("dense"), tiny("dense")
    hold(held, 8)
    settings = EngineSettings(memory=1 << 17, max_running=64)
    floats, halves = (Engine(m, None, settings).executor for m in (plain, held))
    assert isinstance(halves, native.NativeExecutor) and halves.cache[0].dtype == torch.float16
    assert floats.blocks == blocks_in(settings, [(plain.config, torch.float32)])
    assert halves.blocks == blocks_in(settings, [(plain.config, torch.float16)]) == 2 * floats.blocks
    bytes_taken = sum(store.nbytes for store in halves.cache)
    assert bytes_taken <= settings.memory
    small = Engine(held, None, EngineSettings(memory=1 << 17, max_running=64, kv_dtype="int8")).executor
    assert isinstance(small, native.NativeExecutor) and small.cache[0].dtype == torch.int8
    assert sum(store.nbytes for store in small.cache) <= settings.memory and small.blocks > halves.blocks
    for store in halves.cache:
        assert store.data_ptr() % 64 == 0 and not store.any()
