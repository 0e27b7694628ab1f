"""Model folders: what is saved is what was held, every form that others write is read, damage is one sentence."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from qwill.base.artifact import content_id
from qwill.base.errors import CheckpointError, ModelError, QwillError
from qwill.model import load_model, save_model
from qwill.model.config import ModelConfig
from qwill.model.quantize import quantize, quantize_folder
from qwill.model.transformer import Transformer

from .parity import RECORD

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def equal(a: Transformer, b: Transformer) -> bool:
    mine, theirs = dict(a.named_parameters()), dict(b.named_parameters())
    return mine.keys() == theirs.keys() and all(torch.equal(p, theirs[n]) for n, p in mine.items())


@pytest.fixture
def moe(tmp_path: Path) -> Path:
    """A copy of a small sound folder, to be changed."""
    return Path(shutil.copytree(RECORD / "moe", tmp_path / "moe"))


@pytest.fixture
def tied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(RECORD / "dense_tied_bias", tmp_path / "tied"))


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def reconfigure(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# -- saving and reading


@st.composite
def models(draw: st.DrawFn) -> Transformer:
    kind = draw(st.sampled_from(["qwen3", "qwen3_moe", "llama"]))
    layers, kv, experts = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 3))
    moe = kind == "qwen3_moe"
    config = ModelConfig(
        kind, draw(st.integers(1, 9)), draw(st.integers(1, 9)), layers, kv * draw(st.integers(1, 2)), kv,
        2 * draw(st.integers(1, 3)), draw(st.integers(1, 9)), tie_word_embeddings=draw(st.booleans()),
        attention_bias=draw(st.booleans()), num_experts=experts if moe else 0,
        num_experts_per_tok=draw(st.integers(1, experts)) if moe else 0,
        moe_intermediate_size=draw(st.integers(1, 5)) if moe else 0, norm_topk_prob=moe and draw(st.booleans()),
        decoder_sparse_step=draw(st.integers(1, 2)) if moe else 1,
        mlp_only_layers=tuple(draw(st.lists(st.integers(0, layers - 1), unique=True))) if moe else (),
        eos_token_id=draw(st.sampled_from([None, 3, (1, 2)])), rope_theta=draw(st.sampled_from([1e4, 5e6])),
    )  # fmt: skip
    model = Transformer(config).to(draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16])))
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
    return model


@settings(max_examples=30)  # each waits for the disk
@given(model=models(), shard_bytes=st.sampled_from([1.0, 300.0, 5e9]))
def test_what_is_saved_is_read_back(model: Transformer, shard_bytes: float) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        save_model(model, folder, shard_bytes=shard_bytes)
        dtype = next(model.parameters()).dtype
        back = load_model(folder, dtype=dtype)
        assert equal(back, model) and back.config == model.config and not back.training
        assert all(p.dtype == torch.float32 for p in load_model(folder).parameters())
        files = sorted(p.name for p in folder.glob("*.safetensors"))
        where = json.loads((folder / INDEX).read_text())["weight_map"] if (folder / INDEX).exists() else {}
        for file in files if where else ():
            with safe_open(folder / file, "pt") as f:
                held = list(f.keys())
                assert {where.pop(n) for n in held} == {file}
                assert len(held) == 1 or sum(f.get_tensor(n).nbytes for n in held) <= shard_bytes
        assert where == {} and (len(files) == 1) == (files == [WEIGHTS])
        if shard_bytes == 5e9:
            identity = content_id(folder)
            save_model(model, folder, shard_bytes=300)
            assert content_id(folder) == identity
            save_model(model, folder)
            assert sorted(p.name for p in folder.iterdir()) == ["config.json", "generation_config.json", WEIGHTS]


def test_metadata_sampling_and_tokenizer_go_with_the_weights(tmp_path: Path) -> None:
    class FakeTokenizer:
        def save(self, folder: Path) -> None:
            (folder / "tokenizer.json").write_text("{}")

    model = load_model(RECORD / "dense")
    model.config = model.config.with_(eos_token_id=(5, 6), pad_token_id=6)
    save_model(model, tmp_path / "a", FakeTokenizer(), {"recipe_id": "qw1-12"}, shard_bytes=9e4)
    assert (tmp_path / "a" / "tokenizer.json").exists()
    for path in (tmp_path / "a").glob("*.safetensors"):
        with safe_open(path, "pt") as f:
            assert f.metadata() == {"format": "pt", "recipe_id": "qw1-12"}
        assert path.stat().st_mode & 0o777 == 0o644
    released = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20}
    written = json.loads((tmp_path / "a" / "generation_config.json").read_text())
    assert written == released | {"eos_token_id": [5, 6], "pad_token_id": 6}
    save_model(model, tmp_path / "a", generation_config={"temperature": 0.6})
    assert json.loads((tmp_path / "a" / "generation_config.json").read_text()) == {"temperature": 0.6}


def test_a_save_that_fails_leaves_the_old_model(moe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import qwill.model.files as files

    model, before = load_model(moe), content_id(moe)
    real, calls = files.save_file, iter(range(9))

    def full(*a: Any) -> None:
        real(*a)
        if next(calls) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_model(model, moe, shard_bytes=2e4)
    assert content_id(moe) == before and not list(moe.glob(".*"))


def stack(tensors: dict[str, Tensor]) -> None:
    for layer in range(3):
        stem = f"model.layers.{layer}.mlp.experts"
        parts = [[tensors.pop(f"{stem}.{e}.{n}_proj.weight") for n in ("gate", "up", "down")] for e in range(5)]
        tensors[f"{stem}.gate_up_proj"] = torch.stack([torch.cat([gate, up]) for gate, up, _ in parts])
        tensors[f"{stem}.down_proj"] = torch.stack([down for *_, down in parts])


def test_stacked_experts(moe: Path, tmp_path: Path) -> None:
    quantize_folder(moe, tmp_path / "from_single")
    rewrite(moe, stack)
    assert equal(load_model(moe), load_model(RECORD / "moe"))
    quantize_folder(moe, tmp_path / "from_stacked")
    assert content_id(tmp_path / "from_stacked") == content_id(tmp_path / "from_single")


def test_a_head_beside_a_tied_embedding(tied: Path, tmp_path: Path) -> None:
    """As transformers 5.23.0: equal ones are tied, different ones are not, and either may stand for both."""
    plain = load_model(tied)
    rewrite(tied, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    assert equal(load_model(tied), plain)
    rewrite(tied, lambda t: t.pop("model.embed_tokens.weight"))
    assert equal(load_model(tied), plain)
    rewrite(tied, lambda t: t.update({"model.embed_tokens.weight": t["lm_head.weight"] * 2}))
    apart = load_model(tied)
    assert not apart.config.tie_word_embeddings and apart.lm_head is not None
    assert torch.equal(apart.lm_head.weight, plain.embed_tokens.weight)
    quantize_folder(tied, tmp_path / "int8")
    assert load_model(tmp_path / "int8").lm_head is not None


@pytest.mark.parametrize("stored", [torch.float64, torch.bfloat16, torch.float16])
def test_other_float_types_in_the_file(stored: torch.dtype, moe: Path) -> None:
    rewrite(moe, lambda t: t.update({k: v.to(stored) for k, v in t.items()}))
    expected = load_model(RECORD / "moe").to(stored).to(torch.float32)
    assert equal(load_model(moe), expected)


@pytest.mark.parametrize("scale_shape", [(-1, 1), (-1,)])
def test_int_quantized(scale_shape: tuple[int, ...], tied: Path) -> None:
    """compressed-tensors' other int8 form: one byte a weight. The numbers are those of the packed form."""

    def change(tensors: dict[str, Tensor]) -> None:
        for name in [n for n in tensors if n.endswith("_proj.weight")]:
            codes = quantize(tensors[name])
            tensors[name], tensors[f"{name}_scale"] = codes.values, codes.scale.reshape(scale_shape)

    quantize_folder(tied, tied.parent / "packed")
    rewrite(tied, change)
    said = json.loads((tied.parent / "packed" / "config.json").read_text())["quantization_config"]
    reconfigure(tied, quantization_config=said | {"format": "int-quantized"})
    assert equal(load_model(tied), load_model(tied.parent / "packed"))


def test_old_llama_constants_and_other_files_are_no_matter(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(RECORD / "llama", tmp_path / "m"))
    rewrite(folder, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(5)}))
    save_file({"x": torch.ones(1)}, folder / "adapter_model.safetensors")
    assert equal(load_model(folder), load_model(RECORD / "llama"))


# -- what is wrong with a folder

Q0 = "model.layers.0.self_attn.q_proj.weight"


def sharded(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        save_model(load_model(folder), folder, shard_bytes=2e4)
        index = json.loads((folder / INDEX).read_text())
        change(index)
        (folder / INDEX).write_text(json.dumps(index))

    return damage


def quantized(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        quantize_folder(folder, folder)
        rewrite(folder, change)

    return damage


def tensors(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], object]:
    return lambda folder: rewrite(folder, change)


def cut(folder: Path) -> None:
    os.truncate(folder / WEIGHTS, (folder / WEIGHTS).stat().st_size - 10)


EXPERT = "model.layers.0.mlp.experts.0.up_proj.weight"
DAMAGE: list[tuple[str, Callable[[Path], object], type[QwillError], str]] = [
    ("no config", lambda f: (f / "config.json").unlink(), ModelError, "holds no config.json"),
    ("config no JSON", lambda f: (f / "config.json").write_text("{"), ModelError, "config.json: line 1"),
    ("config a list", lambda f: (f / "config.json").write_text("[]"), ModelError, "expected a JSON object"),
    ("type", lambda f: reconfigure(f, model_type="mamba"), ModelError, "model_type 'mamba' is not supported"),
    ("activation", lambda f: reconfigure(f, hidden_act="relu"), ModelError, "hidden_act 'relu'"),
    ("field of a wrong type", lambda f: reconfigure(f, hidden_size="24"), ModelError, "hidden_size is '24'"),
    ("field missing", lambda f: reconfigure(f, num_key_value_heads=None), ModelError, "key_value_heads' is missing"),
    ("heads", lambda f: reconfigure(f, num_key_value_heads=3), ModelError, "4 heads of 10 do not go with 3"),
    ("top-k", lambda f: reconfigure(f, num_experts_per_tok=6), ModelError, "more than the 5 experts"),
    ("yarn", lambda f: reconfigure(f, rope_scaling={"rope_type": "yarn"}), ModelError, "rope type 'yarn'"),
    ("many layers", lambda f: reconfigure(f, num_hidden_layers=10**9), CheckpointError, r"model.layers.3.*is missing"),
    ("vocabulary", lambda f: reconfigure(f, vocab_size=10**12), CheckpointError, r"embed_tokens.weight has shape"),
    ("no weights", lambda f: (f / WEIGHTS).unlink(), CheckpointError, "holds no \\*.safetensors"),
    ("cut off", cut, CheckpointError, f"{WEIGHTS}: cut off within tensor"),
    ("not safetensors", lambda f: (f / WEIGHTS).write_text("hello " * 99), CheckpointError, "not a safetensors file"),
    ("missing", tensors(lambda t: t.pop(Q0)), CheckpointError, rf"{Q0} is missing.*\[40, 24\]"),
    ("missing expert", tensors(lambda t: t.pop(EXPERT)), CheckpointError, f"{EXPERT} is missing"),
    ("extra", tensors(lambda t: t.update({"zz": torch.ones(1)})), CheckpointError, "zz is not part of the qwen3_moe"),
    (
        "misshapen",
        tensors(lambda t: t.update({Q0: t[Q0].T.contiguous()})),
        CheckpointError,
        rf"{Q0} has shape \[24, 40\], but config.json means \[40, 24\]",
    ),
    ("of integers", tensors(lambda t: t.update({Q0: t[Q0].int()})), CheckpointError, f"{Q0} is of type I32"),
    ("int8, no scale", tensors(lambda t: t.update({Q0: t[Q0].char()})), CheckpointError, f"{Q0}_scale is missing"),
    ("both layouts", tensors(lambda t: (u := dict(t), stack(t), t.update(u))), CheckpointError, "is not part of"),
    ("no map", sharded(lambda i: i.pop("weight_map")), CheckpointError, "holds no weight_map"),
    ("map of numbers", sharded(lambda i: i.update(weight_map={"a": 1})), CheckpointError, "holds no weight_map"),
    ("shard missing", sharded(lambda i: i["weight_map"].update(a="b.saf")), CheckpointError, "b.saf is missing"),
    ("shard elsewhere", sharded(lambda i: i["weight_map"].update(a="../m")), CheckpointError, "is missing, but"),
    ("scale missing", quantized(lambda t: t.pop(f"{Q0}_scale")), CheckpointError, f"{Q0}_scale is missing"),
    ("size missing", quantized(lambda t: t.pop(f"{Q0}_shape")), CheckpointError, f"{Q0}_shape is missing"),
    (
        "other size",
        quantized(lambda t: t.update({f"{Q0}_shape": torch.tensor([40, 23])})),
        CheckpointError,
        r"holds \[40, 23\]; expected \[40, 24\]",
    ),
    (
        "scale for groups",
        quantized(lambda t: t.update({f"{Q0}_scale": torch.ones(40, 2)})),
        CheckpointError,
        "expected one float for each of the 40 rows",
    ),
    (
        "4 bits",
        lambda f: reconfigure(f, quantization_config={
            "quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"num_bits": 2}}},
        }),
        ModelError,
        "num_bits 2 are not supported",
    ),
    ("gptq", lambda f: reconfigure(f, quantization_config={"quant_method": "gptq"}), ModelError, "'gptq' is not"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "kind", "says"), [d[1:] for d in DAMAGE], ids=[d[0] for d in DAMAGE])
def test_damage_is_one_sentence(damage: Callable[[Path], object], kind: type[QwillError], says: str, moe: Path) -> None:
    damage(moe)
    with pytest.raises(kind, match=says) as caught:
        load_model(moe)
    assert str(moe) in str(caught.value) and "\n" not in str(caught.value)


def test_a_dtype_that_is_none() -> None:
    with pytest.raises(ModelError, match="'int8' is not one to compute with"):
        load_model(RECORD / "dense", dtype="int8")


def loads_or_says_why(folder: Path) -> None:
    try:
        load_model(folder)
    except QwillError as error:
        assert str(folder) in str(error) and "\n" not in str(error)


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    """Folders to damage again and again: float and quantised."""
    with TemporaryDirectory() as name:
        shutil.copytree(RECORD / "moe_mixed", Path(name) / "float")
        quantize_folder(RECORD / "moe_mixed", Path(name) / "int8")
        yield Path(name)


@given(data=st.data(), kind=st.sampled_from(["float", "int8"]))
def test_any_cut_is_noticed(data: st.DataObject, kind: str, scratch: Path) -> None:
    path = scratch / kind / WEIGHTS
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
        with pytest.raises(CheckpointError, match=WEIGHTS) as caught:
            load_model(scratch / kind)
        assert "\n" not in str(caught.value)
    finally:
        path.write_bytes(whole)


@given(data=st.data(), kind=st.sampled_from(["float", "int8"]))
def test_a_damaged_header_never_ends_in_another_error(data: st.DataObject, kind: str, scratch: Path) -> None:
    path = scratch / kind / WEIGHTS
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, header - 1))
        damaged[at] = data.draw(st.sampled_from(b'0123456789"[]{},:-.eFIU\x00\xff'))
    try:
        path.write_bytes(damaged)
        loads_or_says_why(scratch / kind)
    finally:
        path.write_bytes(whole)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10**18) | st.floats() | st.sampled_from(["", "24", "default"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["rope_type", "type", "x"]), inner),
    max_leaves=4,
)


@given(data=st.data(), kind=st.sampled_from(["float", "int8"]))
def test_a_damaged_config_never_ends_in_another_error(data: st.DataObject, kind: str, scratch: Path) -> None:
    path = scratch / kind / "config.json"
    whole = path.read_text()
    config = json.loads(whole)
    for _ in range(data.draw(st.integers(1, 2))):
        config[data.draw(st.sampled_from(sorted(config)))] = data.draw(json_values)
    try:
        path.write_text(json.dumps(config))
        loads_or_says_why(scratch / kind)
    finally:
        path.write_text(whole)
