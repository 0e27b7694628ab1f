"""Language of a document and of its paragraphs, among the languages asked for: from the scripts of its letters and from
py3langid's classifier.

py3langid knows 142 languages, of which most are small neighbours of a big one, so that on a short text probability
leaks to labels like Crimean Tatar or Wu. Two measures make its posterior usable as a threshold:

- it is restricted to the languages asked for and 44 others, which share a script or many words with English or Chinese
  or are simply common; the varieties that it tells apart count together (Mandarin, Cantonese and Wu as `zh`);
- the scripts of the letters have the last word: no score makes a Cyrillic text English, or a text full of kana Chinese.

Measured with all twelve shipped languages asked for: % recognised of pages and paragraphs (40 bytes or more, not those
left in English) of Debian's LibreOffice 7.4 help and handbook, Arabic and Hebrew in LibreOffice's menus too, and of
chatterbot-corpus 1.3.3's sentences of at least 15 bytes (many of them a name alone):

              en    zh  zh-Hant   fr    de    es    it    pt    ru    ja    ko     ar    he
pages       99.7  97.0   97.2   99.9  99.6  97.7  99.6  99.5  98.8  98.6  96.6  100.0    -
paragraphs  86.9  97.4   94.8   97.3  97.6  93.6  97.4  96.4  86.4  96.9  95.8   98.0  99.9
sentences   93.8  99.5   99.2   79.8  95.7  89.2  89.8  92.0  68.9  98.8  99.2     -   100.0

The rest is "other" nearly everywhere: short paragraphs are menu paths and formulas, and what is taken for another
language asked for is English that was left untranslated. Of Persian, Vietnamese, Hindi, Thai, Turkish, Indonesian,
Dutch and Ukrainian (10,000 paragraphs and sentences), which were not asked for, none but such English and 2 more.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qwill.data.language_classifier import classifier
from qwill.data.languages import OTHER, Language, languages
from qwill.data.scripts import BLOCKS, TOGETHER, shares

_ORDER = {script: place for place, script in enumerate(BLOCKS)}
_NOT_LATIN = re.compile(r"[^\W\d_A-Za-z\u00c0-\u024f\u1e00-\u1eff]+")

SAMPLE = 90  # characters of a document's beginning, middle and end that are looked at
_LATIN = 0.8  # least share of Latin letters in a language written with them: names abound in all others
_OWN = 0.3  # of the own script in another: technical text is full of Latin names
_KANA = 0.05  # above, Han characters are Japanese


@dataclass(frozen=True)
class Identified:
    """`code`: one of the languages asked for, or "other"; `score`: posterior (0..1) of it, of the best of them for
    "other"; `detail`: py3langid's own label."""

    code: str
    score: float
    detail: str


def script_shares(text: str) -> dict[str, float]:
    """Share of the letters of `text` in each script of `scripts.BLOCKS` (all 0 for a text without letters)."""
    return dict(zip(BLOCKS, shares([text])[0][0].tolist(), strict=True))


def excerpt(text: str, size: int) -> str:
    """Beginning, middle and end of `text`, `size` characters each: a document that changes language shows
    it."""
    if len(text) <= 3 * size:
        return text
    middle = (len(text) - size) // 2
    return "\n".join((text[:size], text[middle : middle + size], text[-size:]))


def identify(text: str, codes: Sequence[str] = ("en", "zh"), minimum: float | None = None) -> Identified:
    """The language of a document among `codes`: see `identify_all`."""
    return identify_all([text], codes, minimum)[0]


def identify_all(
    texts: Sequence[str], codes: Sequence[str] = ("en", "zh"), minimum: float | None = None
) -> list[Identified]:
    """The language of each text among `codes` (or paths of language files), "other" when none reaches its score.

    `minimum`: posterior probability asked of every language, instead of each file's `language_score`.
    Raises ConfigError for an unknown code or label.
    """
    asked = languages(codes)
    samples, letters_in, own = _samples(texts)
    told = classifier(frozenset(label for one in asked for label in one.known_as))
    posteriors = told.posteriors(samples)
    columns = {label: column for column, label in enumerate(told.labels)}
    scores = np.stack([_scores(one, posteriors, columns, letters_in) for one in asked], axis=1)
    least = np.array([one.language_score if minimum is None else minimum for one in asked])
    passes = (scores >= least) & np.stack([_written(one.script, letters_in) for one in asked], axis=1)
    best = np.where(passes, scores, -1.0).argmax(axis=1)
    result = []
    for i in range(len(texts)):
        if not own[i]:
            result.append(Identified(OTHER, 0.0, "no letters"))
            continue
        detail = told.labels[int(posteriors[i].argmax())]
        chosen = int(best[i])
        if passes[i, chosen]:
            result.append(Identified(asked[chosen].code, float(scores[i, chosen]), detail))
        else:
            result.append(Identified(OTHER, float(scores[i].max()), detail))
    return result


def _samples(texts: Sequence[str]) -> tuple[list[str], NDArray[np.float64], NDArray[np.int64]]:
    """What the classifier is shown of each text; the shares of its scripts [texts, scripts]; its letters."""
    samples = [excerpt(text, SAMPLE) for text in texts]
    found, letters = shares(samples)
    for i in np.flatnonzero((found[:, _ORDER["Latn"]] >= _LATIN) & (found[:, _ORDER["Latn"]] < 1)).tolist():
        # The Thai or Arabic name in an English article's first line outweighs its words, each letter being a feature.
        samples[i] = _NOT_LATIN.sub(" ", samples[i])
    for i in np.flatnonzero(found[:, _ORDER["Hani"]] >= 0.5).tolist():
        samples[i] = excerpt(texts[i], 35)  # in UTF-8, whose bytes are what takes the time, as long as the English one
    return samples, found, letters


def _scores(
    one: Language, posteriors: NDArray[np.float64], columns: dict[str, int], found: NDArray[np.float64]
) -> NDArray[np.float64]:
    if not one.known_as:
        return _share(one.script, found)
    return np.minimum(posteriors[:, [columns[label] for label in one.known_as]].sum(axis=1), 1.0)


def _share(script: str, found: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(found[:, [_ORDER[part] for part in TOGETHER.get(script, (script,))]].sum(axis=1))


def _written(script: str, found: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which texts have enough letters of `script` to be in a language that is written with it."""
    share, kana = _share(script, found), found[:, _ORDER["Kana"]]
    if script == "Latn":
        return share >= _LATIN
    if "Hani" in (script, *TOGETHER.get(script, ())):
        return (share >= _OWN) & ((kana > _KANA) if script == "Jpan" else (kana <= _KANA))
    return share >= _OWN
