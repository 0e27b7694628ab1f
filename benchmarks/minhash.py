"""MinHash: signatures a second against datatrove's, and recall against the law of its bands.

    .venv/bin/python benchmarks/minhash.py --peer-python PYTHON_WITH_DATATROVE

From words to signature, one thread each, word splitting in neither: each side has the words as its own splitter gives
them, lists of strings there, code points with bounds here. 2,000 documents of 50 to 1,000 words, drawn from 50,000
words by Zipf's law, English and Chinese. Before the rounds, which alternate in one process tree, parity mode's
signatures must be datatrove's to the last bit. Claims: fast mode at least 10 times datatrove's speed; the share of
pairs that meet within one point of 1 - (1 - s^8)^14, in both modes, on pairs whose Jaccard similarity s is known.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Literal

import numpy as np
from compare import Worker, spread, take_turns, verdict, write_section

from qwill.base.files import write_text
from qwill.data.letter_hashes import word_hashes
from qwill.data.minhash import MinHash, exact_signatures, fast_signatures, keys_of
from qwill.data.split_texts import SplitTexts, from_words

PEER = Path(__file__).parent / "peers" / "datatrove_minhash.py"
Mode = Literal["parity", "fast"]
LETTERS = str.maketrans("0123456789", "ghijklmnop")  # fast mode takes all numbers for one
UNION = 40  # shingles of a pair together: every similarity below is a fraction of it
SHARED = {0.5: 20, 0.6: 24, 0.7: 28, 0.75: 30, 0.8: 32, 0.85: 34, 0.9: 36, 0.95: 38}


def make_documents(count: int) -> list[list[str]]:
    rng = np.random.default_rng(1)
    letters, han = np.array(list("abcdefghijklmnopqrstuvwxyz")), np.array([chr(c) for c in range(0x4E00, 0x5200)])
    kinds = [
        ["".join(rng.choice(alphabet, size)) for size in rng.integers(least, most, 50_000)]
        for alphabet, least, most in ((letters, 2, 11), (han, 1, 4))
    ]
    sizes = rng.integers(50, 1000, count)
    return [[kinds[i % 2][k] for k in rng.zipf(1.1, size) % 50_000] for i, size in enumerate(sizes.tolist())]


def sign(split: SplitTexts, mode: Mode) -> tuple[np.ndarray, np.ndarray]:
    if mode == "parity":
        return exact_signatures(split, MinHash(mode=mode))
    return fast_signatures(*word_hashes(split), MinHash(mode=mode))


def work(path: str, mode: Mode) -> None:
    """Our side: each line on standard input is a round, answered with its seconds."""
    documents = json.loads(Path(path).read_text())
    # As many at a time as a chunk of a curation holds.
    chunks = [from_words(documents[first : first + 512]) for first in range(0, len(documents), 512)]
    digest = hashlib.sha256(b"".join(sign(chunk, mode)[0].tobytes() for chunk in chunks)).hexdigest()
    print(json.dumps({"sha256": digest}), flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        for chunk in chunks:
            sign(chunk, mode)
        print(json.dumps({"seconds": time.perf_counter() - started}), flush=True)


def recall(mode: Mode, pairs: int) -> list[tuple[float, float, float, float]]:
    """(similarity, share of pairs that meet, its 95 % half-width, what the law says) at each similarity."""
    settings, rng, rows = MinHash(mode=mode), np.random.default_rng(2), []
    for s, shared in SHARED.items():
        own, met = (UNION - shared) // 2, 0
        for first in range(0, pairs, 2000):
            documents = []
            for _ in range(min(2000, pairs - first)):
                # Words that occur once: `shared` common shingles of 5 words, then `own` that each has alone.
                drawn = rng.integers(1 << 59, 1 << 62, shared + 4 + 2 * own).tolist()
                words = [f"{number:x}".translate(LETTERS) for number in drawn]
                documents += [words[: shared + 4 + own], words[: shared + 4] + words[shared + 4 + own :]]
            found = keys_of(*sign(from_words(documents), mode), settings)
            met += int((found.keys[0::2] == found.keys[1::2]).any(axis=1).sum())
        share, law = met / pairs, 1 - (1 - s**settings.rows) ** settings.bands
        rows.append((s, share, 1.96 * (law * (1 - law) / pairs) ** 0.5, law))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--documents", type=int, default=2000)
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--dry", action="store_true", help="print, but leave RESULTS.md alone")
    parser.add_argument("--worker", nargs=2, metavar=("FILE", "MODE"))
    arguments = parser.parse_args()
    if arguments.worker:
        work(*arguments.worker)
        return
    if not arguments.peer_python:
        parser.error("--peer-python is needed: a Python that has datatrove, spacy and xxhash")
    documents = make_documents(arguments.documents)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "documents.json")
        write_text(Path(path), json.dumps(documents))
        commands = {mode: [sys.executable, __file__, "--worker", path, mode] for mode in ("parity", "fast")}
        commands["datatrove"] = [arguments.peer_python, str(PEER), path]
        with Worker(commands["parity"]) as parity, Worker(commands["fast"]) as fast:  # noqa: SIM117
            with Worker(commands["datatrove"]) as peer:
                assert parity.first["sha256"] == peer.first["sha256"], "signatures differ from datatrove's"
                workers = {"parity": parity, "fast": fast, "datatrove": peer}
                seconds, stolen, dropped = take_turns(workers, arguments.rounds)
                version = peer.first["version"]
    speed = {name: len(documents) / statistics.median(times) for name, times in seconds.items()}
    ratios = {
        mode: [theirs / ours for ours, theirs in zip(seconds[mode], seconds["datatrove"], strict=True)]
        for mode in ("parity", "fast")
    }
    words = sum(map(len, documents)) / len(documents)
    body = (
        f"{len(documents)} documents of {words:.0f} words on average, from words to signature, one thread, against "
        f"datatrove {version}; parity mode's signatures equal its own to the last bit.\n\n"
        + "".join(f"- {name}: {value:.0f} signatures/s\n" for name, value in speed.items())
        + f"\nParity {spread(ratios['parity'])}; fast {spread(ratios['fast'])}. {dropped} rounds dropped for stolen "
        f"CPU, at most {100 * stolen:.1f} % stolen in the rest. "
        + verdict("10× in fast mode", statistics.median(ratios["fast"]) >= 10)
        + f"\n\nOf {arguments.pairs} pairs of known similarity: the share that meets less 1 - (1 - s⁸)¹⁴, points:\n\n"
        "| similarity | law | parity | fast | 95 % of samples within |\n|---|---|---|---|---|\n"
    )
    worst = 0.0
    for one, other in zip(recall("parity", arguments.pairs), recall("fast", arguments.pairs), strict=True):
        s, _, width, law = one
        off = [100 * (share - law) for share in (one[1], other[1])]
        worst = max(worst, *map(abs, off))
        body += f"| {s:.2f} | {100 * law:.2f} % | {off[0]:+.2f} | {off[1]:+.2f} | ±{100 * width:.2f} |\n"
    body += f"\nLargest difference {worst:.2f} points. " + verdict("within one point of the law", worst <= 1)
    print(body)
    if not arguments.dry:
        write_section("MinHash", body)


if __name__ == "__main__":
    main()
