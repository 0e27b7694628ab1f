"""What is wrong with an adapter is said in a sentence that names it, before anything is changed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from qwill.base.errors import CheckpointError, ConfigError, ModelError, QwillError
from qwill.model import lora_config
from qwill.model.files import load_model, save_model
from qwill.model.lora import attach, merge, new_adapter, projections
from qwill.model.lora_config import LoraConfig
from qwill.model.lora_files import CONFIG, PREFIX, WEIGHTS, load_adapter
from tests.oracles.lora_cases import STACKED, drawn

from .test_lora import LORA, load

Q0 = "model.layers.0.self_attn.q_proj"


def setting(**changes: object) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        said = json.loads((folder / CONFIG).read_text()) | changes
        (folder / CONFIG).write_text(json.dumps(said))

    return damage


def tensors(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        found = load_file(folder / WEIGHTS)
        change(found)
        save_file(found, folder / WEIGHTS)

    return damage


def renamed(old: str, new: str) -> Callable[[Path], object]:
    def change(found: dict[str, Tensor]) -> None:
        for name in [n for n in found if old in n]:
            found[name.replace(old, new)] = found.pop(name)

    return tensors(change)


A0, B0 = f"{PREFIX}{Q0}.lora_A.weight", f"{PREFIX}{Q0}.lora_B.weight"
DAMAGE: list[tuple[str, Callable[[Path], object], type[QwillError], str]] = [
    ("no config", lambda f: (f / CONFIG).unlink(), ModelError, "holds no adapter_config.json"),
    ("no JSON", lambda f: (f / CONFIG).write_text("{"), ModelError, "adapter_config.json: line 1"),
    ("a list", lambda f: (f / CONFIG).write_text("[]"), ModelError, "peft_type None is not supported"),
    ("another method", setting(peft_type="IA3"), ModelError, "peft_type 'IA3' is not supported"),
    ("dora", setting(use_dora=True), ModelError, "use_dora is 'True', which is not supported"),
    ("bias", setting(bias="all"), ModelError, "bias 'all' is not supported"),
    ("whole modules", setting(modules_to_save=["lm_head"]), ModelError, "modules_to_save is"),
    ("layers repeated", setting(layer_replication=[[0, 2]]), ModelError, "layer_replication is"),
    ("another base", setting(init_lora_weights="pissa_niter_4"), ModelError, "changes the base model, too"),
    ("what is new", setting(use_magic=3), ModelError, "use_magic is '3', which is not supported"),
    ("rank of a wrong type", setting(r="8"), ModelError, "r is '8'; expected a positive whole number"),
    ("pattern", setting(rank_pattern={"(": 3}), ModelError, "rank_pattern is"),
    ("rank", setting(r=4), CheckpointError, r"lora_A.weight has shape \[15, 24\].*rank 4 .* mean \[20, 24\]"),
    ("no weights", lambda f: (f / WEIGHTS).unlink(), CheckpointError, "holds no adapter_model.safetensors"),
    (
        "pickle",
        lambda f: (f / WEIGHTS).rename(f / "adapter_model.bin"),
        CheckpointError,
        "pickle, which Qwill never opens",
    ),
    ("not safetensors", lambda f: (f / WEIGHTS).write_text("hello " * 99), CheckpointError, "not a safetensors file"),
    ("cut off", lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-4]), CheckpointError, "cut off"),
    ("empty", tensors(lambda t: t.clear()), CheckpointError, "holds no tensor"),
    ("A alone", tensors(lambda t: t.pop(B0)), CheckpointError, f"{B0} is missing"),
    ("B alone", tensors(lambda t: t.pop(A0)), CheckpointError, f"{A0} is missing"),
    ("extra", tensors(lambda t: t.update({"zz": torch.ones(1)})), CheckpointError, "tensor zz is no lora_A or lora_B"),
    ("magnitudes", renamed("lora_A.weight", "lora_magnitude_vector"), CheckpointError, "lora_magnitude_vector is no"),
    (
        "shape",
        tensors(lambda t: t.update({A0: torch.ones(3, 25)})),
        CheckpointError,
        rf"{Q0}.lora_A.weight has shape \[3, 25\].*\[3, 24\].*was made for moe",
    ),
    ("integers", tensors(lambda t: t.update({A0: t[A0].int()})), CheckpointError, "of type I32; expected floats"),
    ("more layers", renamed("layers.2.", "layers.3."), CheckpointError, "layers.3.*qwen3_moe model has not.*for moe"),
    ("embedding", renamed(Q0, "model.embed_tokens"), CheckpointError, "adapts model.embed_tokens, which"),
    ("another prefix", renamed(PREFIX, "transformer."), CheckpointError, "is no lora_A or lora_B"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "error", "message"), [d[1:] for d in DAMAGE], ids=[d[0] for d in DAMAGE])
def test_bad_adapters_end_with_a_sentence(
    damage: Callable[[Path], object], error: type[QwillError], message: str, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(LORA / "stacked", tmp_path / "a"))
    model = load("moe")
    load_adapter(model, folder)
    damage(folder)
    with pytest.raises(error, match=message) as raised:
        load_adapter(model, folder)
    assert "\n" not in str(raised.value)


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.lists(st.text(max_size=5))
KNOWN = sorted(json.loads((LORA / "stacked" / CONFIG).read_text()))


@example(key="lora_alpha", value=10**400, cut=None)
@example(key="r", value=float("inf"), cut=None)
@given(
    key=st.sampled_from([*KNOWN, "new"]),
    value=VALUES | st.dictionaries(st.text(max_size=9), VALUES),
    cut=st.none() | st.integers(0, 20_000),
)
def test_any_config_loads_or_says_why(key: str, value: object, cut: int | None) -> None:
    model = load("moe")
    with TemporaryDirectory() as name:
        folder = Path(shutil.copytree(LORA / "stacked", Path(name) / "a"))
        setting(**{key: value})(folder)
        (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:cut])
        try:
            load_adapter(model, folder)
        except QwillError as error:
            assert str(folder) in str(error) and "\n" not in str(error)


def test_an_adapter_of_another_model_is_named(tmp_path: Path) -> None:
    moe, llama = load("moe"), load("llama")
    with pytest.raises(CheckpointError, match=r"experts.base_layer, which this llama model has not; .* made for moe\."):
        load_adapter(llama, LORA / "stacked")
    with pytest.raises(ModelError, match=r"this llama model has no model.layers.0.mlp.experts"):
        attach(llama, load_adapter(moe, LORA / "stacked"))
    narrow = drawn("dense_rslora", load("llama_square"))
    for use in (attach, merge):
        with pytest.raises(ModelError, match=r"A of .*has shape \[4, 24\].*needs \[4, 40\]"):
            use(load("dense"), narrow)
    assert lora_config.named("a.q_proj", ("q_proj",)) and not lora_config.named("a.xq_proj", ("q_proj",))


def test_settings_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    model = load("moe")
    with pytest.raises(ConfigError, match=r"is called 'c_proj'; it has down_proj, gate, "):
        new_adapter(model, LoraConfig(targets=("c_proj",)))
    with pytest.raises(ConfigError, match="rank is 0"):
        LoraConfig(rank=0)
    assert {"model.layers.0.mlp.experts.gate_up_proj", "model.layers.2.mlp.gate"} <= projections(model).keys()
    parts = new_adapter(model, LoraConfig(parameters=STACKED)).parts
    assert not any(name.endswith(("experts.gate_proj", "experts.up_proj")) for name in parts)


def test_an_adapter_does_not_go_into_the_models_files(tmp_path: Path) -> None:
    model = load("moe")
    attach(model, drawn("single_experts", model))
    save_model(model, tmp_path)
    pairs = zip(load_model(tmp_path).parameters(), load("moe").parameters(), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs)
