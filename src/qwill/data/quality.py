"""A quality classifier trained here: hashed n-grams of units, a linear model, good texts against bad ones.

The model is that of fastText without its hidden layer (Joulin et al. 2016, arXiv 1607.01759; the kind of classifier
that DataComp-LM found best, Li et al. 2024, arXiv 2406.11794, §4.4): a text's logit is a bias plus the mean weight of
its unigrams and bigrams, each hashed into one of 2^bits places. Each language has its own weights. Weights are kept
as whole numbers (multiples of 2^-20), so that a sum of them is exact: a text's score does not depend on what else is in
its batch, on the machine, or on the number of workers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwill.base.errors import ArtifactError, ConfigError, DataError
from qwill.base.files import new_folder, read_json, write_bytes, write_json
from qwill.data.quality_report import held_out_report, recalibration, sigmoid
from qwill.data.unit_hashes import batch_hashes
from qwill.data.units import mix, ngram_hashes

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SCHEMA = 1
SCALE = 1 << 20
LEAST = 50  # documents of each kind and language
TEST, CALIBRATION = 0.2, 0.1  # shares, by hash, that are not trained on
BATCH = 64


@dataclass(frozen=True)
class QualitySettings:
    """`order`: longest n-gram in units. `bits`: 2^bits weights a language (4 bytes each). `rate`: AdaGrad's."""

    order: int = 2
    bits: int = 18
    epochs: int = 4
    rate: float = 3.0

    def __post_init__(self) -> None:
        if not 1 <= self.order <= 5:
            raise ConfigError(f"order is {self.order}; expected 1 to 5.")
        if not 8 <= self.bits <= 26:
            raise ConfigError(f"bits is {self.bits}; expected 8 to 26.")
        if self.epochs < 1 or self.rate <= 0:
            raise ConfigError(f"epochs is {self.epochs} and rate {self.rate}; expected more than 0.")


@dataclass(frozen=True)
class QualityModel:
    """`weights`: language → int32 [2^bits], in units of 2^-20. `bias`: language → logit of a text without any unit.
    `report`: language → what the held-out texts say (quality_report.py). `made_from`: free text on the two sets."""

    settings: QualitySettings
    weights: dict[str, NDArray[np.int32]]
    bias: dict[str, float]
    report: dict[str, dict[str, Any]]
    made_from: dict[str, Any] = field(default_factory=dict)

    @property
    def languages(self) -> list[str]:
        return sorted(self.weights)


def score_batch(model: QualityModel, texts: Sequence[str], language: str) -> Floats:
    """[len(texts)] scores from 0 to 1: how likely each text is of the good set, were both sets equally large.

    Rounded to six places, where two machines' exponentials agree. Raises DataError for a language without weights.
    """
    if language not in model.weights:
        known = ", ".join(model.languages)
        raise DataError(f"the quality model knows {known}, not {language!r}; train it with texts of that language.")
    weights = model.weights[language]
    totals, counts = np.zeros(len(texts), np.int64), np.zeros(len(texts), np.int64)
    for places, offsets in _grams(*batch_hashes(texts), model.settings):
        sums = np.concatenate((np.zeros(1, np.int64), np.cumsum(weights[places], dtype=np.int64)))
        totals += sums[offsets[1:]] - sums[offsets[:-1]]
        counts += np.diff(offsets)
    return np.round(sigmoid(model.bias[language] + totals / (SCALE * np.maximum(counts, 1))), 6)


def _grams(hashes: NDArray[np.uint64], offsets: Ints, settings: QualitySettings) -> Iterator[tuple[Ints, Ints]]:
    """For n = 1 … order: (place of every n-gram of every text, offsets of each text's own)."""
    for n in range(1, settings.order + 1):
        grams = ngram_hashes(hashes, n)
        if n > 1 and len(grams):
            # Those that begin within n - 1 units of their text's end reach into the next text.
            inside = np.ones(len(grams), dtype=bool)
            for back in range(1, n):
                last = offsets[1:] - back
                last = last[(last >= offsets[:-1]) & (last < len(grams))]
                inside[last] = False
            grams = grams[inside]
        counts = np.maximum(np.diff(offsets) - n + 1, 0)
        places = (grams >> np.uint64(64 - settings.bits)).astype(np.int64)
        yield places, np.concatenate((np.zeros(1, np.int64), np.cumsum(counts)))


@dataclass(frozen=True)
class _Set:
    """The texts of one language, in order of `keys` (their hashes): label 1 good, 0 bad; grams as `_grams` gives."""

    keys: NDArray[np.uint64]
    labels: Floats
    grams: list[tuple[Ints, Ints]]
    counts: Ints

    def part(self, low: float, high: float) -> Ints:
        """Indices of the texts whose key lies in this share of all possible keys."""
        place = self.keys.astype(np.float64) / 2.0**64
        return np.flatnonzero((place >= low) & (place < high))

    def rows(self, chosen: Ints) -> tuple[Ints, Ints]:
        """(which of `chosen`, place) of each of their n-grams."""
        owner, places = list[Ints](), list[Ints]()
        for every, offsets in self.grams:
            starts, sizes = offsets[chosen], offsets[chosen + 1] - offsets[chosen]
            before = np.cumsum(sizes) - sizes
            owner.append(np.repeat(np.arange(len(chosen)), sizes))
            places.append(every[np.arange(int(sizes.sum())) + np.repeat(starts - before, sizes)])
        return np.concatenate(owner), np.concatenate(places)


def train_quality(
    good: Sequence[tuple[str, str]],
    bad: Sequence[tuple[str, str]],
    settings: QualitySettings | None = None,
    made_from: Mapping[str, Any] | None = None,
) -> QualityModel:
    """Train on (language, text) pairs; a text that is in both sets, or twice in one, counts for neither or once.

    The order of the pairs does not matter. Of each language 20 % of the texts, by hash, are never trained on: from
    them come AUC and calibration; 10 % set the scale of the scores (Platt 1999). Raises DataError when a language has
    fewer than 50 different texts on a side.
    """
    settings = settings or QualitySettings()
    languages = sorted({language for language, _ in (*good, *bad)})
    if not languages:
        raise DataError("the quality classifier has no texts; name a good and a bad set.")
    weights, bias, report = dict[str, NDArray[np.int32]](), dict[str, float](), dict[str, dict[str, Any]]()
    for language in languages:
        sides = [[text for name, text in pairs if name == language] for pairs in (good, bad)]
        texts = _texts(language, sides[0], sides[1], settings)
        raw, raw_bias = _descend(texts, texts.part(TEST + CALIBRATION, 1.0), settings)

        def logits(chosen: Ints, raw: Floats = raw, raw_bias: float = raw_bias, texts: _Set = texts) -> Floats:
            owner, places = texts.rows(chosen)
            sums = np.bincount(owner, weights=raw[places], minlength=len(chosen))
            return raw_bias + sums / np.maximum(texts.counts[chosen], 1)

        middle, test = texts.part(TEST, TEST + CALIBRATION), texts.part(0.0, TEST)
        scale, shift = recalibration(logits(middle), texts.labels[middle])[:2]
        weights[language] = np.round(raw * (scale * SCALE)).astype(np.int32)
        bias[language] = float(shift + scale * raw_bias)
        report[language] = held_out_report(shift + scale * logits(test), texts.labels[test])
    return QualityModel(settings, weights, bias, report, dict(made_from or {}))


def _texts(language: str, good: Sequence[str], bad: Sequence[str], settings: QualitySettings) -> _Set:
    sides = [{_key(text): text for text in texts} for texts in (good, bad)]
    both = sides[0].keys() & sides[1].keys()
    labelled = sorted((key, label) for label, side in ((1.0, sides[0]), (0.0, sides[1])) for key in side.keys() - both)
    for label, name in ((1.0, "good"), (0.0, "bad")):
        count = sum(own == label for _, own in labelled)
        if count < LEAST:
            raise DataError(
                f"the {name} set has {count} different texts in {language!r}, and the quality classifier needs at "
                f"least {LEAST} good and {LEAST} bad ones in each language; name more."
            )
    grams = list(_grams(*batch_hashes([sides[1 - int(label)][key] for key, label in labelled]), settings))
    counts = sum((np.diff(offsets) for _, offsets in grams), np.zeros(len(labelled), np.int64))
    keys = np.array([key for key, _ in labelled], dtype=np.uint64)
    return _Set(keys, np.array([label for _, label in labelled]), grams, counts)


def _key(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _descend(texts: _Set, chosen: Ints, settings: QualitySettings) -> tuple[Floats, float]:
    """Weights and bias that make the logistic loss small: AdaGrad (Duchi et al. 2011), both sets weighted equally."""
    weights, squares = np.zeros(1 << settings.bits), np.full(1 << settings.bits, 1e-12)
    bias, bias_square = 0.0, 1e-12
    share = texts.labels[chosen].mean()
    importance = np.where(texts.labels > 0, 0.5 / share, 0.5 / (1 - share))
    for epoch in range(settings.epochs):
        order = chosen[np.argsort(mix(texts.keys[chosen] + np.uint64(epoch)), kind="stable")]
        for first in range(0, len(order), BATCH):
            batch = order[first : first + BATCH]
            owner, places = texts.rows(batch)
            touched, slot = np.unique(places, return_inverse=True)
            share_of_text = 1.0 / np.maximum(texts.counts[batch], 1)
            sums = np.bincount(owner, weights=weights[places], minlength=len(batch))
            miss = sigmoid(bias + sums * share_of_text) - texts.labels[batch]
            slope = importance[batch] * miss
            gradient = np.bincount(slot, weights=(slope * share_of_text)[owner], minlength=len(touched))
            squares[touched] += gradient**2
            weights[touched] -= settings.rate * gradient / np.sqrt(squares[touched])
            total = float(slope.sum())
            bias_square += total**2
            bias -= settings.rate * total / bias_square**0.5
    return weights, bias


def save_quality(model: QualityModel, folder: Path) -> None:
    """Write `quality.json` (settings, bias, report, origin) and one `LANGUAGE.int32` of weights for each language."""
    with new_folder(folder) as out:
        for language, weights in model.weights.items():
            write_bytes(out / f"{language}.int32", weights.astype("<i4").tobytes())
        told = {"bias": model.bias, "report": model.report, "made_from": model.made_from}
        write_json(out / "quality.json", {"schema": SCHEMA, "settings": asdict(model.settings), **told})


def load_quality(folder: Path) -> QualityModel:
    """Raises ArtifactError for a folder that `save_quality` did not write, or that lost part of a file."""
    path = folder / "quality.json"
    if not path.is_file():
        raise ArtifactError(f"{folder} holds no quality.json; give a folder that a quality classifier was saved in.")
    told = read_json(path)
    if not isinstance(told, dict) or told.get("schema") != SCHEMA:
        raise ArtifactError(f"{path}: is not version {SCHEMA} of a quality classifier; train it again.")
    settings = QualitySettings(**told["settings"])
    weights: dict[str, NDArray[np.int32]] = {}
    for language in told["bias"]:
        file = folder / f"{language}.int32"
        size = file.stat().st_size if file.is_file() else 0
        if size != 4 << settings.bits:
            raise ArtifactError(f"{file}: {size} bytes, expected {4 << settings.bits}; copy or train it again.")
        weights[language] = np.fromfile(file, dtype="<i4")
    return QualityModel(settings, weights, told["bias"], told["report"], told["made_from"])
