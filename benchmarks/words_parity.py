"""Claim: words and sentence counts of real English and Chinese text are datatrove's, to the last word.

    python benchmarks/words_parity.py --peer-python PYTHON_WITH_DATATROVE [--characters 4000000]

The texts are the registry's English and Chinese sources, fetched at run time, so many characters of each language,
spread over all of its sources; every text is cut by the C files and by the definitions.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

from compare import verdict, write_section

PEER = Path(__file__).parent / "peers" / "datatrove_words.py"
RULES = {"en": ("english", "en"), "zh": ("chinese", "cmn_Hani")}


def texts_of(language: str, characters: int) -> list[str]:
    """Whole texts of each of the language's sources in turn, until there are enough characters."""
    from qwill.base.packages import open_member
    from qwill.data.readers import Bad
    from qwill.data.registry_sources import TEXT_SOURCES

    found: list[str] = []
    sources = [s for s in TEXT_SOURCES if s.language == language and not s.many and s.reader is not None]
    for source in sources:
        assert source.reader is not None
        size = 0
        for record in source.reader(open_member(source.package.archive(), source.member), source.name):
            if not isinstance(record, Bad) and size < characters // len(sources):
                found.append(record.text)
                size += len(record.text)
    return found


def compare(language: str, characters: int, peer_python: str) -> tuple[str, int]:
    from qwill.data import native_words
    from qwill.data.words import count_sentences, split_words

    rule, code = RULES[language]
    texts = texts_of(language, characters)
    with tempfile.TemporaryDirectory() as name:
        given, said = Path(name) / "texts.jsonl", Path(name) / "said.jsonl"
        given.write_text("".join(json.dumps(text) + "\n" for text in texts), encoding="utf-8")
        subprocess.run([peer_python, str(PEER), str(given), str(said), code], check=True)
        theirs = [json.loads(line) for line in said.open(encoding="utf-8")]
    total, wrong = 0, {"C": 0, "definition": 0}
    for text, (words, sentences) in zip(texts, theirs, strict=True):
        total += len(words)
        for how in wrong:
            native_words.enable(how == "C")
            if split_words(text, rule) != words or count_sentences(text, rule) != sentences:
                wrong[how] += 1
    native_words.enable(True)
    return (
        f"{language}: {len(texts):,} texts of {total:,} words; texts with a difference in a word or in the number of "
        f"sentences: {wrong['C']} by C, {wrong['definition']} by the definition."
    ), sum(wrong.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", required=True)
    parser.add_argument("--characters", type=int, default=4_000_000)
    given = parser.parse_args()
    found = [compare(language, given.characters, given.peer_python) for language in RULES]
    told = [text for text, _ in found]
    told.append(verdict("every word and every sentence count the same", not any(wrong for _, wrong in found)))
    write_section("Curation: words against datatrove", "\n\n".join(told))


if __name__ == "__main__":
    main()
