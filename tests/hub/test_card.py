from pathlib import Path

import pytest
import yaml
from family import make_family

from qwill.base.artifact import content_id, read_manifest
from qwill.base.errors import ArtifactError
from qwill.hub.card import model_card, refresh_cards
from qwill.hub.headline import headline, headline_text, spelled


@pytest.fixture
def life(tmp_path: Path) -> Path:
    return make_family(tmp_path, "ab" * 32)


def score(right: int) -> dict[str, object]:
    return {"all": {"correct": right, "total": 200, "accuracy": right / 200, "lower": 0.375, "upper": 0.625}}


def test_a_card_says_what_the_model_is_where_it_comes_from_and_what_it_was_measured_at(life: Path) -> None:
    card = model_card(life / "sft")
    manifest = read_manifest(life / "sft")
    assert manifest is not None
    for words in ("qwen3_moe", "8 experts", manifest.content_id, manifest.recipe_id, "loss", "1.5", "seed 7"):
        assert words in card
    # The source is that of an ancestor two steps back.
    assert "| texts 1.2: a, b | CC-BY | `abababababababab` |" in card
    assert "Accuracy" not in card and "quantisation" not in card


def test_the_first_block_is_what_a_hub_reads(life: Path) -> None:
    _, front, rest = model_card(life / "int8").split("---\n", 2)
    fields = yaml.safe_load(front)
    assert fields["language"] == ["en", "zh"] and fields["library_name"] == "transformers"
    assert "compressed-tensors" in fields["tags"] and rest.startswith("\n# int8")


def test_a_quantised_models_card_sets_both_sides_beside_each_other(life: Path) -> None:
    card = model_card(life / "int8")
    for row in (
        "| size of the weights, bytes | 4,000 | 1,000 |",
        "| bits per byte, Chinese | 2.5 | 2.5 |",
        "| problems solved, English | 0.5 | 0.5 |",
        "| tokens per second (where it was made) | 123.4 | 234.5 |",
    ):
        assert row in card


def test_an_evaluation_goes_into_the_cards_and_not_into_the_content(life: Path) -> None:
    before = content_id(life / "sft")
    summary = {"accuracy": {"sft": {"en": score(100), "zh": score(90)}, "aligned": {"en": score(1)}}}
    refresh_cards([life / "sft", life / "base"], summary)
    card = (life / "sft/README.md").read_text()
    assert "| English | 200 | 50.0% | 37.5% to 62.5% |" in card and "| Chinese | 200 | 45.0% |" in card
    assert "Accuracy" not in (life / "base/README.md").read_text()
    assert content_id(life / "sft") == before


def test_a_folder_without_a_manifest_has_no_card(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError):
        model_card(tmp_path)


def test_headlines_are_few_flat_and_readable() -> None:
    metrics = {"tokens": 1234567, "bits_per_byte": {"en": 2.34567, "zh": 2.5}, "other": 1, "list": [1]}
    assert list(headline("base", metrics)) == ["bits_per_byte.en", "bits_per_byte.zh", "tokens"]
    assert headline_text("base", metrics) == "bits per byte en 2.346 · bits per byte zh 2.5 · tokens 1,234,567"
    nine = {"bits_per_byte": {"ar": 2.5, "en": 2.1, "zh": 2.9}, "tokens": 7, "xz": {"ar": 2.0}}
    assert list(headline("base", nine)) == ["bits_per_byte.ar", "bits_per_byte.en", "bits_per_byte.zh", "tokens"]
    assert headline("unknown", {"a": 1, "b": 2, "c": {"d": 3, "e": 4}}) == {"a": 1, "b": 2, "c.d": 3}
    assert [spelled(value) for value in (True, 12345.6, 0.00012345, "x")] == ["True", "12,346", "0.0001234", "x"]
