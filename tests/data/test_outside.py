"""What a corpus is made of outside its recipe counts for its identity."""

from pathlib import Path

from qwill.base.config import identity_of
from qwill.data.settings import CurateConfig, Scoring
from qwill.data.sources import SourceChoice

FILE = (Path(__file__).parents[2] / "src/qwill/data/languages/fr.yaml").read_text(encoding="utf-8")


def told(folder: Path) -> str:
    own = str(folder / "own.yaml")
    config = CurateConfig(
        sources=[SourceChoice("a", str(folder / "pages"))],
        languages=["en", own],
        questions=[str(folder / "questions.jsonl")],
        score=Scoring(quality=str(folder / "quality")),
    )
    outside = identity_of(config)["outside"]
    assert isinstance(outside, str)
    return outside


def test_each_file_that_is_named_counts(tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    (tmp_path / "quality").mkdir()
    (tmp_path / "own.yaml").write_text(FILE, encoding="utf-8")
    (tmp_path / "questions.jsonl").write_text("{}", encoding="utf-8")
    seen = [told(tmp_path)]
    assert told(tmp_path) == seen[0]
    for name, text in (
        ("own.yaml", FILE + "# another"),
        ("questions.jsonl", "[]"),
        ("pages/new.html", "<p>"),
        ("pages/new.html", "<p>x"),
        ("quality/weights", "1"),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
        seen.append(told(tmp_path))
    assert len(set(seen)) == len(seen)


def test_what_is_spread_over_a_machine_does_not(tmp_path: Path) -> None:
    one, other = CurateConfig(workers=1), CurateConfig(workers=8, engine="ray", memory_mb=64)
    assert identity_of(one) == identity_of(other)
