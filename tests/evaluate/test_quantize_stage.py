from pathlib import Path

import pytest
import torch
from test_results import context, inputs

from qwill.base.config import parse
from qwill.base.errors import ConfigError
from qwill.base.files import read_json, write_json
from qwill.evaluate.quantize_stage import QuantizeConfig, run
from qwill.model import load_model

__all__ = ["inputs"]  # a fixture: the tiny models, problems and corpus that evaluation is tested with

CONFIG = QuantizeConfig(problems=3, max_tokens=4, heldout_documents=2, window=32, speed_tokens=4, speed_rounds=2)


def test_the_cost_is_measured_on_both_sides_and_belongs_to_the_models(inputs: dict[str, Path], tmp_path: Path) -> None:
    aligned = inputs["sft"]
    ctx = context(inputs | {"aligned": aligned}, tmp_path)
    metrics = run(CONFIG, ctx)
    cost = read_json(ctx.out / "cost.json")
    for side, folder in (("original", aligned), ("quantized", ctx.out)):
        assert cost[side]["bytes"] == sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        assert cost[side]["problems"] == 3 and set(cost[side]["accuracy"]) == {"en", "zh"}
    # int8 moves every weight a little: the two sides agree closely, and not to the last digit.
    for language in ("en", "zh"):
        before, after = (cost[side]["bits_per_byte"][language] for side in ("original", "quantized"))
        assert before != after and before == pytest.approx(after, rel=0.01)
        assert metrics["bits_per_byte_change"][language] == pytest.approx(after - before, abs=1e-5)
    assert metrics["times_smaller"] > 1.2
    speeds = read_json(ctx.out / "run.json")["tokens_per_second"]
    assert set(speeds) == {"original", "quantized"} and min(speeds.values()) > 0
    assert "tokens_per_second" not in str(cost) + str(metrics)
    original, quantized = load_model(aligned), load_model(ctx.out)
    gap = original.head_weight_VD - quantized.head_weight_VD
    assert torch.equal(gap, torch.zeros_like(gap)), "the head is not one of the matrices that int8 applies to"


def test_an_interrupted_run_measures_only_what_is_missing(inputs: dict[str, Path], tmp_path: Path) -> None:
    given = inputs | {"aligned": inputs["sft"]}
    whole, cut = context(given, tmp_path / "whole"), context(given, tmp_path / "cut")
    run(CONFIG, whole)
    kept = read_json(whole.work / "original.json") | {"problems": 77}
    write_json(cut.work / "original.json", kept)
    run(CONFIG, cut)
    first, second = read_json(whole.out / "cost.json"), read_json(cut.out / "cost.json")
    assert second["original"] == kept and second["quantized"] == first["quantized"]


@pytest.mark.parametrize("name", ["problems", "speed_rounds", "window"])
def test_a_setting_that_makes_no_sense_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"int8: {name} must be 1 or more, and 0 was given"):
        parse(QuantizeConfig, {name: 0}, "r.yaml: int8")
