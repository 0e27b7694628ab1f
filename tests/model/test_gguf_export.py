"""GGUF files that Qwill writes, against the record of a real llama.cpp: file, tokens, ids, quantised tensors."""

import hashlib
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from qwill.base.artifact import seal
from qwill.base.errors import ArtifactError, ConfigError, ModelError
from qwill.model import save_model
from qwill.model.ggml_blocks import quantize
from qwill.model.gguf import export_gguf, load_gguf, save_gguf
from qwill.model.gguf_file import GGUFFile, read_gguf
from qwill.model.rope import RopeScaling
from qwill.model.transformer import Transformer
from qwill.text.tokenizer import Tokenizer
from qwill.text.vocabulary import ended

from .gguf_models import AWKWARD, CASES, tiny
from .gguf_weights import awkward_weights

ORACLES = Path(__file__).parent.parent / "oracles"
RECORD = json.loads((ORACLES / "llama_cpp.json").read_text(encoding="utf-8"))
QUANTIZED = ("F16", "BF16", "Q8_0", "Q4_0")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("gguf")
    for case in CASES:
        save_gguf(*tiny(case), folder / f"{case}.gguf", "f32", case)
    return {case: folder / f"{case}.gguf" for case in CASES}


def text_strings() -> ModuleType:
    spec = importlib.util.spec_from_file_location("text_strings", ORACLES / "text_strings.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def hashes(file: GGUFFile) -> dict[str, str]:
    return {
        name: f"{t.kind} {hashlib.sha256(file.data[t.start : t.end].tobytes()).hexdigest()[:16]}"
        for name, t in file.tensors.items()
    }


def one_hash(tensors: dict[str, str]) -> str:
    return hashlib.sha256("\n".join(sorted(f"{n} {said}" for n, said in tensors.items())).encode()).hexdigest()


# -- what llama.cpp said


@pytest.mark.parametrize("case", CASES)
def test_the_file_is_the_one_that_llama_cpp_read(case: str, files: dict[str, Path]) -> None:
    assert hashlib.sha256(files[case].read_bytes()).hexdigest() == RECORD["cases"][case]["sha256"]


@pytest.mark.parametrize("case", [*CASES, "q4_k_m"])
def test_greedy_tokens_are_llama_cpps(case: str, files: dict[str, Path]) -> None:
    record = RECORD["q4_k_m"] if case == "q4_k_m" else RECORD["cases"][case]
    path = ORACLES / "llama_cpp_q4_k_m.gguf" if case == "q4_k_m" else files[case]
    model, _ = load_gguf(path)
    for prompt in record["prompts"]:
        ids, greedy = prompt["ids"], prompt["greedy"]
        with torch.inference_mode():
            logits_TV = model.logits(torch.tensor([ids + greedy[:-1]]))[0, len(ids) - 1 :]
        assert logits_TV.argmax(-1).tolist() == greedy, prompt["prompt"]
        assert float(logits_TV[0].abs().max()) == pytest.approx(prompt["largest"], rel=1e-5)
        for i, expected in prompt["logits"].items():
            assert abs(float(logits_TV[0, int(i)]) - expected) <= 1e-5 * prompt["largest"], i


@pytest.mark.parametrize("case", CASES)
def test_ids_are_llama_cpps(case: str, files: dict[str, Path]) -> None:
    record = RECORD["cases"][case]
    tokenizer = tiny(case)[1]
    back = load_gguf(files[case])[1]
    assert [tokenizer.encode(text) for text in AWKWARD] == record["awkward"]
    drawn = text_strings().random_strings(7, 300)
    ids = [tokenizer.encode(drawn[i]) for i in record["drawn"] if drawn[i]]
    assert len(ids) > 200 and hashlib.sha256(json.dumps(ids).encode()).hexdigest() == record["drawn_ids"]
    assert [back.encode(text) for text in [*AWKWARD, *drawn]] == [tokenizer.encode(text) for text in [*AWKWARD, *drawn]]


@pytest.mark.parametrize("kind", QUANTIZED)
@pytest.mark.parametrize("case", CASES)
def test_tensors_are_what_llama_cpps_quantiser_makes(case: str, kind: str, tmp_path: Path) -> None:
    save_gguf(*tiny(case), tmp_path / "m.gguf", kind)
    mine, theirs = hashes(read_gguf(tmp_path / "m.gguf")), RECORD["cases"][case]["quantized"][kind]
    assert (mine if isinstance(theirs, dict) else one_hash(mine)) == theirs


@pytest.mark.parametrize("kind", QUANTIZED)
def test_blocks_are_those_of_the_gguf_package(kind: str) -> None:
    made = quantize(awkward_weights().ravel(), kind)
    assert hashlib.sha256(made.tobytes()).hexdigest() == RECORD["blocks"][kind]


def test_what_llama_cpp_quantised_is_read_as_llama_cpp_reads_it() -> None:
    file = read_gguf(ORACLES / "llama_cpp_q4_k_m.gguf")
    assert {t.kind for t in file.tensors.values()} == {"Q4_K", "Q6_K", "F32"}
    mine = {n: f"F32 {hashlib.sha256(file.weights(n).tobytes()).hexdigest()[:16]}" for n in file.tensors}
    assert mine == RECORD["q4_k_m"]["as_f32"]


# -- there and back


def same(a: Transformer, b: Transformer) -> bool:
    mine, theirs = dict(a.named_parameters()), dict(b.named_parameters())
    return mine.keys() == theirs.keys() and all(torch.equal(p, theirs[n]) for n, p in mine.items())


@pytest.mark.parametrize("case", CASES)
def test_there_and_back(case: str, files: dict[str, Path]) -> None:
    model, tokenizer = tiny(case)
    back, words = load_gguf(files[case])
    assert same(model, back)
    assert back.config == model.config
    assert words.vocab_size == tokenizer.vocab_size < model.config.vocab_size
    assert words.specials == tokenizer.specials and words.chat_template == tokenizer.chat_template
    ids = range(tokenizer.vocab_size)
    assert [words.decode([i]) for i in ids] == [tokenizer.decode([i]) for i in ids]


@pytest.mark.parametrize("kind", ["F32", *QUANTIZED])
@pytest.mark.parametrize("case", CASES)
def test_a_folder_and_its_model_give_the_same_file(case: str, kind: str, tmp_path: Path) -> None:
    model, tokenizer = tiny(case)
    folder = tmp_path / case
    save_model(model, folder, tokenizer, shard_bytes=60_000)
    report = export_gguf(folder, tmp_path / "folder.gguf", kind.lower())
    save_gguf(model, tokenizer, tmp_path / "model.gguf", kind, case)
    assert (tmp_path / "folder.gguf").read_bytes() == (tmp_path / "model.gguf").read_bytes()
    assert report.bytes == (tmp_path / "folder.gguf").stat().st_size
    kinds = [t.kind for t in read_gguf(report.path).tensors.values()]
    assert report.types == {t: kinds.count(t) for t in kinds}
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([case, "folder.gguf", "model.gguf"])


def test_stacked_experts_bfloat16_and_a_head_that_stands_for_the_embedding(tmp_path: Path) -> None:
    """Layouts that other programs write give the file of the plain one."""
    from safetensors.torch import load_file, save_file

    model, tokenizer = tiny("qwen3_moe")
    save_model(model.bfloat16(), tmp_path, tokenizer)
    export_gguf(tmp_path, tmp_path / "plain.gguf", "q8_0")
    tensors = load_file(tmp_path / "model.safetensors")
    for layer in range(model.config.num_hidden_layers):
        stem = f"model.layers.{layer}.mlp.experts"
        parts = [[tensors.pop(f"{stem}.{e}.{n}_proj.weight") for n in ("gate", "up", "down")] for e in range(6)]
        tensors[f"{stem}.gate_up_proj"] = torch.stack([torch.cat(p[:2]) for p in parts])
        tensors[f"{stem}.down_proj"] = torch.stack([p[2] for p in parts])
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, tmp_path / "model.safetensors")
    export_gguf(tmp_path, tmp_path / "stacked.gguf", "q8_0")
    assert (tmp_path / "stacked.gguf").read_bytes() == (tmp_path / "plain.gguf").read_bytes()


def test_loading_as_another_type_rounds_once(files: dict[str, Path]) -> None:
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        model, _ = load_gguf(files["qwen3_moe"], dtype)
        assert same(model, tiny("qwen3_moe")[0].to(dtype))


# -- what can't be written


def refusal(case: str, folder: Path, kind: str = "F32", **changes: Any) -> str:
    model, tokenizer = tiny(case)
    model.config = model.config.with_(**changes)
    with pytest.raises((ModelError, ConfigError, ArtifactError)) as caught:
        save_gguf(model, tokenizer, folder / "m.gguf", kind, "some/model")
    assert "\n" not in str(caught.value) and list(folder.iterdir()) == []
    return str(caught.value)


def test_what_llama_cpp_has_no_words_for(tmp_path: Path) -> None:
    assert "norm_topk_prob is false" in refusal("qwen3_moe", tmp_path, norm_topk_prob=False)
    assert "layers without experts" in refusal("qwen3_moe", tmp_path, decoder_sparse_step=2)
    assert "attention_bias is true" in refusal("qwen3", tmp_path, attention_bias=True)
    assert "as wide as the model" in refusal("qwen2", tmp_path, head_dim=32)
    assert "a qwen3_next model can't be written" in refusal("qwen3", tmp_path, model_type="qwen3_next")
    assert "rope scaling" in refusal("qwen3", tmp_path, rope_scaling=RopeScaling("yarn", 4.0, 32, attention_factor=1.3))
    assert "rope scaling" in refusal("qwen3", tmp_path, rope_scaling=RopeScaling("llama3", 8.0, 32))
    assert "Q5_1 is no type that Qwill writes; expected one of F32" in refusal("qwen3", tmp_path, "q5_1")
    assert "the tokenizer has" in refusal("qwen3", tmp_path, vocab_size=300)


def test_a_tokenizer_that_splits_otherwise(tmp_path: Path) -> None:
    model, tokenizer = tiny("qwen3")
    document = json.loads(json.dumps(tokenizer._document))
    document["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\s+"
    with pytest.raises(ModelError, match=r"^m: its tokenizer splits text neither as Qwen's"):
        save_gguf(model, Tokenizer(document), tmp_path / "m.gguf", "F32", "m")


def test_an_end_that_the_tokenizer_gives_every_text_stays(tmp_path: Path) -> None:
    """Qwen3-Embedding's, in llama.cpp's words: add_eos_token, and that end as the eos."""
    model, tokenizer = tiny("qwen3")
    document = json.loads(json.dumps(tokenizer._document))
    end = tokenizer.special("<|endoftext|>")
    document["post_processor"] = ended(document["post_processor"], "<|endoftext|>", end)
    save_gguf(model, Tokenizer(document), tmp_path / "m.gguf", "F32")
    said = read_gguf(tmp_path / "m.gguf").metadata
    assert said["tokenizer.ggml.add_eos_token"] is True and said["tokenizer.ggml.eos_token_id"] == end
    _, back = load_gguf(tmp_path / "m.gguf")
    assert back.around == ([], [end]) and back.encode("ab") == tokenizer.encode("ab")
    assert back.stop_ids == tokenizer.stop_ids
    back.save(tmp_path / "folder")
    assert Tokenizer.load(tmp_path / "folder").around == ([], [end])


@pytest.mark.parametrize(("value", "kind", "says"), [
    (float("nan"), "F32", "tensor model.layers.1.self_attn.k_proj.weight holds numbers that are not finite"),
    (float("-inf"), "Q8_0", "tensor model.layers.1.self_attn.k_proj.weight holds numbers that are not finite"),
    (1e5, "F16", "k_proj.weight holds 1e+05, more than F16 can"),
    (1e6, "Q4_0", "k_proj.weight holds 1e+06, more than Q4_0 can"),
    (1e7, "Q8_0", "k_proj.weight holds 1e+07, more than Q8_0 can"),
])  # fmt: skip
def test_weights_that_a_type_cannot_hold(value: float, kind: str, says: str, tmp_path: Path) -> None:
    model, tokenizer = tiny("qwen3")
    with torch.no_grad():
        first_of_k = model.config.num_attention_heads * model.config.head_dim
        model.layers[1].self_attn.qkv_proj.weight[first_of_k + 3, 7] = value
    with pytest.raises(ModelError) as caught:
        save_gguf(model, tokenizer, tmp_path / "m.gguf", kind, "m")
    assert says in str(caught.value) and list(tmp_path.iterdir()) == []


def test_a_place_that_is_none(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "no" / "m.gguf"):
        with pytest.raises(ArtifactError, match="not the name of a file"):
            save_gguf(*tiny("qwen3"), path, "F32")


def test_the_content_id_goes_along(tmp_path: Path) -> None:
    model, tokenizer = tiny("qwen3")
    save_model(model, tmp_path / "a", tokenizer)
    manifest = seal(
        tmp_path / "a", kind="model", stage="base", stage_version=1, recipe="qw1-1", inputs={}, config={}, seed=1,
        libraries={}, threads=1, dtype="float32", metrics={},
    )  # fmt: skip
    export_gguf(tmp_path / "a", tmp_path / "a.gguf", "f16")
    assert read_gguf(tmp_path / "a.gguf").metadata["qwill.content_id"] == manifest.content_id


def test_numbers_are_not_a_matter_of_the_compiler(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from qwill.model import native_library

    path = ORACLES / "llama_cpp_q4_k_m.gguf"
    native, _ = load_gguf(path)
    monkeypatch.setattr(native_library, "_enabled", False)
    plain, _ = load_gguf(path)
    assert same(native, plain)
    assert np.isfinite(native.embed_tokens.weight.detach().numpy()).all()
