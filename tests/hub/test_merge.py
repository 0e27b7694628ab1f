"""`qwill merge`: the folder is a whole model, it computes what model and adapter do, and its lineage goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.engine.tiny import byte_tokenizer, tiny_model

from qwill.base.artifact import content_id, need_manifest, seal, verify
from qwill.cli.main import main
from qwill.hub.lineage import trace
from qwill.model.files import load_model, save_model
from qwill.model.lora import attach, merge, new_adapter
from qwill.model.lora_config import LoraConfig
from qwill.model.lora_files import load_adapter, save_adapter
from qwill.model.quantize import quantize_folder

TOKENS = torch.arange(2, 40).view(2, 19)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path, torch.Tensor]:
    """A model folder, an adapter for it, and the logits of the two."""
    tokenizer = byte_tokenizer("{{ messages }}")
    model = tiny_model("moe", tokenizer.padded_vocab_size)
    save_model(model, tmp_path / "model", tokenizer)
    adapter = new_adapter(model, LoraConfig(rank=2), torch.Generator().manual_seed(1))
    for part in adapter.parts.values():
        torch.nn.init.normal_(part.b, generator=torch.Generator().manual_seed(2), std=0.3)
    save_adapter(adapter, tmp_path / "adapter")
    attach(model, adapter)
    return tmp_path / "model", tmp_path / "adapter", model.logits(TOKENS).detach()


def test_the_folder_is_a_whole_model(pair: tuple[Path, Path, torch.Tensor], capsys: pytest.CaptureFixture[str]) -> None:
    model, adapter, logits = pair
    out = model.parent / "new" / "merged"
    assert main(["merge", str(model), str(adapter), "--out", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    merged = load_model(out)
    assert said == {"folder": str(out), "projections": 12, "bytes": (out / "model.safetensors").stat().st_size}
    assert float((merged.logits(TOKENS) - logits).abs().max().detach()) <= 1e-5 * float(logits.abs().max())
    files = {path.name for path in model.iterdir()}
    assert {path.name for path in out.iterdir()} == files | {"qwill.json"}
    assert need_manifest(out).inputs == {"model": content_id(model)[0]} and verify(out) == []
    assert (out / "tokenizer.json").read_bytes() == (model / "tokenizer.json").read_bytes()
    assert json.loads((out / "config.json").read_text()) == json.loads((model / "config.json").read_text())


def test_weights_keep_the_type_that_they_are_stored_in(pair: tuple[Path, Path, torch.Tensor]) -> None:
    model, adapter, _ = pair
    half = load_model(model, "bfloat16")
    save_model(half, model)
    assert main(["merge", str(model), str(adapter), "--out", str(model.parent / "merged")]) == 0
    merge(half, load_adapter(half, adapter))
    stored = load_file(model.parent / "merged" / "model.safetensors")
    assert {t.dtype for t in stored.values()} == {torch.bfloat16}
    pairs = zip(load_model(model.parent / "merged", "bfloat16").parameters(), half.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_lineage_goes_on_through_the_model(pair: tuple[Path, Path, torch.Tensor]) -> None:
    model, adapter, _ = pair
    made = seal(
        model, kind="model", stage="base", stage_version=1, recipe="qw1-r", inputs={}, config={}, seed=0, libraries={},
        threads=1, dtype="float32", metrics={},
    )  # fmt: skip
    out = model.parent / "merged"
    assert main(["merge", str(model), str(adapter), "--out", str(out)]) == 0
    manifest = need_manifest(out)
    assert manifest.inputs == {"model": made.content_id} and verify(out) == []
    assert manifest.config == {"adapter": content_id(adapter)[0]}
    assert [ancestor.stage for ancestor in trace(out, [model.parent])] == ["merge", "base"]


def test_what_cannot_be_merged_is_one_sentence_and_leaves_nothing(
    pair: tuple[Path, Path, torch.Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    model, adapter, _ = pair
    other = model.parent / "other"
    save_model(tiny_model("dense"), other)
    quantize_folder(model, model.parent / "int8")
    for words, says in (
        ([str(other), str(adapter), "--out", "x"], "which this qwen3 model has not"),
        ([str(model), str(model), "--out", "x"], "holds no adapter_config.json"),
        ([str(model), str(adapter), "--out", str(model)], "choose another folder"),
        (["nothing", str(adapter), "--out", "x"], "no such model"),
    ):
        assert main(["merge", *words]) == 2
        said = capsys.readouterr().err
        assert says in said and said.count("\n") == 1, said
    assert not Path("x").exists()
    # A quantised model is merged as the floats that it stands for.
    assert main(["merge", str(model.parent / "int8"), str(adapter), "--out", str(model.parent / "m8")]) == 0
    assert load_model(model.parent / "m8").config.quantization_config is None
