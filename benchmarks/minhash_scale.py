"""Near duplicates among 10 million synthetic documents: memory and time.

    .venv/bin/python benchmarks/minhash_scale.py [--documents 10000000]

A document is 36 words, given as their hashes. One in ten is a copy of another, its words and all; one in ten a copy
with its last word changed (Jaccard similarity of shingles 31 / 33), which shares a band with probability 1 - 10^-6. The
best of each pair stays by a quality drawn at random. Signing and clustering run in one process of one thread, whose
peak of resident memory is told. Claim: under 4 GB. All copies, and nothing else, must be found.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from compare import verdict, write_section

from qwill.base.device import cpu_steal
from qwill.data.clusters import near_duplicates
from qwill.data.minhash import BandKeys, MinHash, fast_signatures, keys_of

WORDS, CHUNK = 36, 50_000
SETTINGS = MinHash(mode="fast")


def chunks(count: int) -> Iterator[BandKeys]:
    """Documents 10 k + 8 are copies of 10 k, documents 10 k + 9 nearly copies of 10 k + 1."""
    rng = np.random.default_rng(1)
    for first in range(0, count, CHUNK):
        words = rng.integers(0, 1 << 63, size=(min(CHUNK, count - first), WORDS), dtype=np.uint64)
        words[8::10] = words[0 : len(words[8::10]) * 10 : 10]
        words[9::10, :-1] = words[1 : len(words[9::10]) * 10 : 10, :-1]
        offsets = np.arange(0, words.size + 1, WORDS)
        yield keys_of(*fast_signatures(words.reshape(-1), offsets, SETTINGS), SETTINGS)


def work(count: int, memory_mb: int, folder: str) -> None:
    quality = np.random.default_rng(2).random(count, dtype=np.float32)
    signing, started = 0.0, time.perf_counter()

    def timed() -> Iterator[BandKeys]:
        nonlocal signing
        source, done = chunks(count), False
        while not done:
            before = time.perf_counter()
            keys = next(source, None)
            signing += time.perf_counter() - before
            done = keys is None
            if keys is not None:
                yield keys

    answer = near_duplicates(timed(), quality, np.full(count, WORDS), SETTINGS, Path(folder), memory_mb)
    seconds = time.perf_counter() - started
    place, index = np.arange(count) % 10, np.arange(count)
    partner = index + np.choose(place, [8, 8, 0, 0, 0, 0, 0, 0, -8, -8])
    partner = np.where(partner < count, partner, index)
    expected = np.where(quality[partner] > quality, partner, index)
    ties = (quality[partner] == quality) & (partner < index)
    expected[ties] = partner[ties]
    wrong = int((answer.representative != expected).sum())
    found = len(answer.gone())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"signing": signing, "seconds": seconds, "found": found, "wrong": wrong, "peak": peak}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=10_000_000)
    parser.add_argument("--memory-mb", type=int, default=1024, help="what clustering may take for sorting")
    parser.add_argument("--work", help="folder for temporary files (about 4 GB for 10 million documents)")
    parser.add_argument("--dry", action="store_true", help="print, but leave RESULTS.md alone")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    count = arguments.documents - arguments.documents % 10
    if arguments.worker:
        work(count, arguments.memory_mb, arguments.work)
        return
    before = cpu_steal()
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        command = [sys.executable, __file__, "--worker", "--documents", str(count), "--work", folder]
        command += ["--memory-mb", str(arguments.memory_mb)]
        told = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    after = cpu_steal()
    # One near copy in a million may share no band.
    assert told["wrong"] <= 2 * max(5, count / 1e6), (
        f"{told['wrong']} documents have another representative than planted"
    )
    body = (
        f"{count / 1e6:g} million documents of {WORDS} words, {count // 5} of them planted copies, exact and near; "
        f"{told['found']} documents found to go, {told['wrong']} with another representative than planted.\n\n"
        f"Peak of resident memory {told['peak'] / 1e9:.2f} GB ({arguments.memory_mb} MB for sorting). Signatures "
        f"{told['signing']:.0f} s, clusters {told['seconds'] - told['signing']:.0f} s, one thread, "
        f"{100 * (after[0] - before[0]) / max(1, after[1] - before[1]):.1f} % of the CPU stolen. "
        + verdict("10 million documents in under 4 GB", count >= 10_000_000 and told["peak"] < 4e9)
    )
    print(body)
    if not arguments.dry:
        write_section("Near duplicates of 10 million documents", body)


if __name__ == "__main__":
    main()
