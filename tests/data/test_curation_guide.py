"""The guides in both languages say all that there is to set, and nothing that is not there."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from qwill.data.settings import CurateConfig

DOCS = Path(__file__).parents[2] / "docs"
GUIDES = [DOCS / "en" / "curation.md", DOCS / "zh" / "curation.md"]


def rows(text: str) -> list[str]:
    """The table of settings."""
    table = next(part for part in text.split("\n\n") if "| `sources` |" in part)
    return table.splitlines()[2:]


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.parent.name)
def test_every_setting_is_explained(guide: Path) -> None:
    explained = [
        name for row in rows(guide.read_text(encoding="utf-8")) for name in re.findall(r"`(\w+)`", row.split("|")[1])
    ]
    assert sorted(explained) == sorted(field.name for field in fields(CurateConfig))


def test_both_guides_have_the_same_parts_and_the_same_examples() -> None:
    english, chinese = (guide.read_text(encoding="utf-8") for guide in GUIDES)
    assert re.findall(r"^#+", english, re.M) == re.findall(r"^#+", chinese, re.M)
    assert re.findall(r"^\| `[^|]*\|", english, re.M) == re.findall(r"^\| `[^|]*\|", chinese, re.M)
    yaml = [re.findall(r"```yaml\n(.*?)```", text, re.S) for text in (english, chinese)]
    bare = [[re.sub(r" *#.*", "", block) for block in blocks] for blocks in yaml]
    assert bare[0] == bare[1]


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.parent.name)
def test_links_lead_somewhere(guide: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", guide.read_text(encoding="utf-8")):
        assert (guide.parent / target).exists(), target
