"""Parameter counts from config.json: the released models' exact numbers, and every tiny model that can be built."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qwill.base.errors import ModelError
from qwill.model.config import ModelConfig
from qwill.model.hf_config import ARCHITECTURES
from qwill.model.shipped import find_config, shipped_names
from qwill.model.size import ParameterCount, count, count_parameters, layer_sizes
from qwill.model.transformer import Transformer

# What transformers' classes have on the meta device (tests/oracles/make_size_oracle.py).
ORACLE = json.loads((Path(__file__).parents[1] / "oracles" / "size.json").read_text())


def released(layers: int, hidden: int, heads: int, kv: int, wide: int, tied: bool = False, **more: Any) -> dict:
    return {
        "model_type": "qwen3_moe" if "num_experts" in more else "qwen3",
        "vocab_size": 151936, "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv, "head_dim": 128, "tie_word_embeddings": tied,
        "moe_intermediate_size" if "num_experts" in more else "intermediate_size": wide, **more,
    }  # fmt: skip


# Source: the released config.json files and parameter counts.
RELEASED = {
    "Qwen3-0.6B": (released(28, 1024, 16, 8, 3072, True), 596_049_920, None),
    "Qwen3-1.7B": (released(28, 2048, 16, 8, 6144, True), 1_720_574_976, None),
    "Qwen3-4B": (released(36, 2560, 32, 8, 9728, True), 4_022_468_096, None),
    "Qwen3-8B": (released(36, 4096, 32, 8, 12288), 8_190_735_360, None),
    "Qwen3-32B": (released(64, 5120, 64, 8, 25600), 32_762_123_264, None),
    "Qwen3-30B-A3B": (
        # The released file carries a dense width too (no layer is dense).
        released(48, 2048, 32, 4, 768, num_experts=128, num_experts_per_tok=8, intermediate_size=6144),
        30_532_122_624, 3_353_032_704,
    ),
    "Qwen3-Coder-480B-A35B": (
        released(62, 6144, 96, 8, 2560, num_experts=160, num_experts_per_tok=8, intermediate_size=8192),
        480_154_875_392, 35_474_765_312,
    ),
    "one trillion": (
        released(78, 7168, 64, 4, 2304, num_experts=256, num_experts_per_tok=8), 1_001_374_185_984, 42_971_527_680,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RELEASED)
def test_released_models(name: str, tmp_path: Path) -> None:
    config, total, active = RELEASED[name]
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    tables = 1 if config["tie_word_embeddings"] else 2
    expected = ParameterCount(total, active or total, tables * 151_936 * config["hidden_size"])
    assert count_parameters(path) == expected
    assert count_parameters(tmp_path) == expected


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_configurations_equal_transformers(name: str) -> None:
    assert count(find_config(name)[1]) == ParameterCount(**ORACLE["shipped"][name])


def test_the_oracle_knows_no_other() -> None:
    assert sorted(ORACLE["shipped"]) == shipped_names()


@pytest.mark.parametrize("case", ORACLE["odd"], ids=lambda case: case["config"]["model_type"])
def test_odd_configurations_equal_transformers(case: dict) -> None:
    expected = ParameterCount(case["total"], case["active"], case["embedding"])
    assert count(ModelConfig.from_hf(case["config"])) == expected


@pytest.mark.parametrize(("name", "of_ours"), [
    ("Qwen3-0.6B", "qwen3-0.6b"), ("Qwen3-1.7B", "qwen3-1.7b"), ("Qwen3-4B", "qwen3-4b"), ("Qwen3-8B", "qwen3-8b"),
    ("Qwen3-32B", "qwen3-32b"), ("Qwen3-30B-A3B", "qwen3-30b-a3b"), ("one trillion", "qwen3-1t-plan"),
    ("Qwen3-Coder-480B-A35B", "qwen3-coder-480b-a35b"),
])  # fmt: skip
def test_shipped_configurations_have_the_released_counts(name: str, of_ours: str) -> None:
    _, total, active = RELEASED[name]
    counted = count(find_config(of_ours)[1])
    assert (counted.total, counted.active) == (total, active or total)


def test_the_text_part_of_qwen3_5() -> None:
    assert count(find_config("qwen3.5-35b-a3b")[1]).total == 34_660_610_688


@st.composite
def configs(draw: st.DrawFn) -> dict:
    kind = draw(st.sampled_from(sorted(ARCHITECTURES)))
    small = st.integers(1, 6)
    layers, experts, kv = draw(small), draw(small), draw(st.integers(1, 3))
    return {
        "model_type": kind, "vocab_size": draw(st.integers(1, 50)), "hidden_size": draw(small),
        "num_hidden_layers": layers, "num_attention_heads": kv * draw(st.integers(1, 3)), "num_key_value_heads": kv,
        "head_dim": 4 * draw(small), "intermediate_size": draw(small), "moe_intermediate_size": draw(small),
        "partial_rotary_factor": 0.5, "shared_expert_intermediate_size": draw(small),
        "num_experts": experts, "num_experts_per_tok": draw(st.integers(1, experts)),
        "decoder_sparse_step": draw(st.integers(1, 3)),
        "mlp_only_layers": draw(st.lists(st.integers(0, layers - 1), unique=True)),
        "tie_word_embeddings": draw(st.booleans()), "attention_bias": draw(st.booleans()),
        "full_attention_interval": draw(small), "linear_num_key_heads": kv,
        "linear_num_value_heads": kv * draw(small), "linear_key_head_dim": draw(small),
        "linear_value_head_dim": draw(small), "linear_conv_kernel_dim": draw(small),
    }  # fmt: skip


@settings(deadline=None)
@given(configs(), st.integers(0, 2))
def test_equals_the_model_itself(raw: dict, mtp_layers: int) -> None:
    config = ModelConfig.from_hf(raw)
    # A multi-token-prediction head counts in nothing.
    assert count(config.with_(mtp_layers=mtp_layers)) == count(config)
    with torch.device("meta"):
        model = Transformer(config)
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    # A token leaves E - k of the E experts of every sparse layer alone.
    stacked = sum(n for name, n in sizes.items() if name.endswith((".mlp.gate_up", ".mlp.down")))
    idle = stacked // config.num_experts * (config.num_experts - config.num_experts_per_tok) if stacked else 0
    tables = sum(n for name, n in sizes.items() if name in ("embed_tokens.weight", "lm_head.weight"))
    total = sum(sizes.values())
    assert count(config) == ParameterCount(total, total - idle, tables)
    for i, (layer, size) in enumerate(zip(model.layers, layer_sizes(config), strict=True)):
        assert sum(p.numel() for p in layer.parameters()) == size.whole
        assert (size.experts > 0) == config.is_sparse(i)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no such file"),
        ("{", "config.json"),
        ("[1]", "expected a JSON object"),
        ('{"model_type": "gpt2"}', "model_type 'gpt2' is not supported"),
        ('{"model_type": "qwen3"}', "'vocab_size' is missing"),
    ],
)
def test_bad_files_are_one_sentence(content: str | None, says: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ModelError, match=says) as caught:
        count_parameters(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
