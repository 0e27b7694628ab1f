"""Records spaCy's tokenizer tables, expressions and special cases by language, as src/qwill/data/word_rules.json.

requirements: spacy==3.8.18

The character classes that the expressions share are written once, as <<NAME>>; a list that equals the one of
the language-neutral tokenizer ("spaces", spaCy's `xx`) is left out. A special case is its tokens joined by one
space; one that holds a space itself is a list.
"""

import json
from pathlib import Path

import spacy
from spacy.lang import char_classes
from spacy.pipeline.sentencizer import Sentencizer

LANGUAGES = {
    "spaces": "xx", "english": "en", "arabic": "ar", "german": "de", "spanish": "es", "french": "fr",
    "italian": "it", "portuguese": "pt", "russian": "ru", "greek": "el",
}  # fmt: skip
CLASSES = {
    "alpha": char_classes.ALPHA,
    "lower": char_classes.ALPHA_LOWER,
    "upper": char_classes.ALPHA_UPPER,
    "quotes": char_classes.CONCAT_QUOTES,
    "icons": char_classes.CONCAT_ICONS,
    "units": char_classes.UNITS,
    "currency": char_classes.CURRENCY,
    "hyphens": char_classes.HYPHENS,
    "punctuation": char_classes.PUNCT,
}
# The part of an address that names a user. It is any text before an @, and matched so, in linear time, by us.
USER = r"(?:\S+(?::\S*)?@)?"


def shortened(pattern: str) -> str:
    for name, text in sorted(CLASSES.items(), key=lambda item: -len(item[1])):
        pattern = pattern.replace(text, f"<<{name}>>")
    return pattern


def rules(code: str) -> dict:
    nlp = spacy.blank(code)
    defaults = nlp.Defaults
    found = {
        kind: [shortened(p if isinstance(p, str) else p.pattern) for p in getattr(defaults, kind)]
        for kind in ("prefixes", "suffixes", "infixes")
    }
    assert defaults.url_match is spacy.blank("xx").Defaults.url_match
    cases = {case: [t[spacy.symbols.ORTH] for t in tokens] for case, tokens in nlp.tokenizer.rules.items()}
    assert all("".join(tokens) == case for case, tokens in cases.items())
    found["cases"] = sorted(" ".join(t) for t in cases.values() if not any(" " in x for x in t))
    found["spaced"] = sorted(t for t in cases.values() if any(" " in x for x in t))
    return found


def main() -> None:
    recorded = {name: rules(code) for name, code in LANGUAGES.items()}
    base = recorded["spaces"]
    for name, found in recorded.items():
        if name != "spaces":
            for kind in ("prefixes", "suffixes", "infixes", "spaced"):
                if found[kind] == base[kind]:
                    del found[kind]
            missing = set(base["cases"]) - set(found["cases"])
            found["cases"] = sorted(set(found["cases"]) - set(base["cases"]))
            found["without"] = sorted(missing)
    url = shortened(spacy.blank("xx").Defaults.url_match.__self__.pattern)
    protocol, host = url.split(USER)
    assert protocol == r"(?u)^(?:(?:[\w\+\-\.]{2,})://)?" and host.endswith("$")
    everything = {"classes": CLASSES, "protocol": r"[\w\+\-\.]{2,}://", "host": host, "rules": recorded}
    everything["sentence_ends"] = "".join(Sentencizer.default_punct_chars)
    target = Path(__file__).parents[2] / "src" / "qwill" / "data" / "word_rules.json"
    target.write_text(json.dumps(everything, ensure_ascii=False, indent=0) + "\n")
    print(target.stat().st_size)


if __name__ == "__main__":
    main()
