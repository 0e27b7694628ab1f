"""A corpus in a language of the user's own, from the file to the held-out text."""

import random
from pathlib import Path

from made_up_text import english

from qwill.base.progress import Display
from qwill.data import CurateConfig, curate
from qwill.data.sources import SourceChoice
from qwill.data.split import HeldOut

WORDS = [
    "σπίτι", "δρόμος", "θάλασσα", "βιβλίο", "παιδί", "γλώσσα", "χρόνος", "βουνό", "ουρανός", "νερό", "φως",
    "πόλη", "φίλος", "ημέρα", "κήπος", "άνεμος",
]  # fmt: skip
SMALL = ("το", "η", "και", "του", "της", "με", "στο", "για", "από", "είναι")


def greek(rng: random.Random) -> str:
    sentences = []
    for _ in range(6):
        sentences.append(" ".join(f"{rng.choice(SMALL)} {rng.choice(WORDS)}" for _ in range(6)).capitalize() + ".")
    return " ".join(sentences)


def test_a_corpus_in_a_language_of_the_users_own(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/en/languages.md").read_text()
    (tmp_path / "greek.yaml").write_text(page.split("```yaml\n")[1].split("```")[0])
    rng = random.Random(2)
    texts = [greek(rng) for _ in range(40)] + [english(rng) for _ in range(40)]
    (tmp_path / "pages.txt").write_text("\n".join(texts))
    config = CurateConfig(
        sources=[SourceChoice("pages", str(tmp_path / "pages.txt"))],
        languages=["en", str(tmp_path / "greek.yaml")],
        filters=["units"],
        heldout=HeldOut(share=0.2, min_bytes=500, max_share=0.5),
        workers=1,
    )
    corpus = curate(config, tmp_path / "corpus", Display(quiet=True))
    for split in ("train", "heldout"):
        assert {record.language for record in corpus.records(split)} == {"en", "el"}
    assert sum(record.language == "el" for record in corpus) > 30
