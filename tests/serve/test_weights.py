"""`qwill serve --weights` and `--kv-cache` reach the engine, in what they hold and in the bytes of its cache."""

from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from tests.oracles.tiny_models import tiny

from qwill.base.errors import QwillError
from qwill.cli import serve as serve_command
from qwill.cli.main import qwill
from qwill.engine import native
from qwill.engine.request import Request
from qwill.engine.sampling import Sampling
from qwill.model.files import save_model
from qwill.model.project import Quantized
from qwill.model.quantize import Scheme, quantize_folder
from qwill.serve.engine_process import EngineOptions, load_engine
from qwill.text.tokenizer import Tokenizer
from qwill.text.vocabulary import to_characters

pytestmark = pytest.mark.skipif(native.library() is None, reason="no C compiler: there is no native executor")


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    tokenizer = Tokenizer.from_trained({to_characters(bytes([b])): b for b in range(256)}, [])
    save_model(tiny("dense"), tmp_path / "float", tokenizer)
    quantize_folder(tmp_path / "float", tmp_path / "stored", scheme=Scheme(4, 32))
    return {name: tmp_path / name for name in ("float", "stored")}


@pytest.mark.parametrize(
    ("folder", "weights", "kv", "bits", "kept"),
    [
        ("float", "auto", None, set(), torch.float32),
        ("float", "auto", "float16", set(), torch.float16),
        ("float", "int8", None, {8}, torch.float16),
        ("float", "int4", "int8", {4}, torch.int8),
        ("stored", "auto", None, {4}, torch.float16),
        ("stored", "auto", "float32", {4}, torch.float32),
        ("stored", "float", None, set(), torch.float32),
    ],
)
def test_the_engine_holds_what_the_options_say(
    folders: dict[str, Path], folder: str, weights: str, kv: str | None, bits: set[int], kept: torch.dtype
) -> None:
    options = EngineOptions(str(folders[folder]), weights=weights, engine={"kv_dtype": kv, "memory": 1 << 20})
    engine, info = load_engine(options)
    assert {m.bits for m in engine.model.modules() if isinstance(m, Quantized)} == bits  # type: ignore[attr-defined]
    assert engine.executor.cache[0].dtype == kept  # type: ignore[attr-defined]
    engine.add(Request("a", [1, 2, 3], Sampling(max_tokens=3, temperature=0)))
    tokens = []
    while engine.has_work:
        tokens += [token for event in engine.step() for token in event.token_ids]
    assert len(tokens) == 3 and info.vocab_size == 61


def options_of(makers: dict[str, Any]) -> EngineOptions:
    """Of the one model: what its engine's process gets."""
    (maker,) = makers.values()
    (build,) = maker.args
    (options,) = build.args
    assert isinstance(options, EngineOptions)
    return options


def test_the_command_passes_them_on(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(serve_command, "start", lambda makers, *_: given.update(makers) or 0)
    result = CliRunner().invoke(qwill, ["serve", str(folders["float"]), "--weights", "int4", "--kv-cache", "int8"])
    assert result.exit_code == 0, result.output
    options = options_of(given)
    assert (options.weights, options.engine["kv_dtype"]) == ("int4", "int8")
    given.clear()
    CliRunner().invoke(qwill, ["serve", str(folders["float"])])
    options = options_of(given)
    assert (options.weights, options.engine["kv_dtype"]) == ("auto", None)


def test_rows_that_do_not_divide_are_a_sentence(tmp_path: Path) -> None:
    from tests.engine.tiny import byte_tokenizer, tiny_model

    save_model(tiny_model("dense"), tmp_path, byte_tokenizer())
    with pytest.raises(QwillError, match=r"mlp\.down_proj: rows of 48 weights do not divide into groups of 32"):
        load_engine(EngineOptions(str(tmp_path), weights="int4"))
