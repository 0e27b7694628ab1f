"""Claim: hostile documents neither crash curation nor hang it beyond the stated limit a document, and each is named.

    python benchmarks/hostile.py [--bomb-gib 8]

At full size: a single line of 100 MB, markup nested a million deep in four ways, NULs, lone surrogates and direction
marks, a gzip and a Zstandard bomb, bombs inside WARC and HTTP, broken WARC records, JSON 10 million deep, a page of
30 MB, files that are none, 20,000 tiny ones. All lie in one folder, are read as one source and go through the whole
stage `corpus`, with good documents before and after them, in a process of its own whose peak memory is taken. The limit
a document is 30 s of CPU for extraction and 32 MB before and after decompression; of a bomb no more than 64 MB, or 250
times what it takes on disk, is decompressed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from compare import verdict, write_section

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "data"))
import hostile_files as hostile

TINY = 20_000
FAULTY = """line.jsonl line.txt bomb.jsonl.gz bomb.html.zst bomb.warc.gz broken.warc deep.jsonl deep-div.html
deep-b.html deep-tab.html deep-svg.html empty.html empty.parquet pipe.txt gone.txt round.txt"""


def good_rows(name: str) -> list[str]:
    """Two documents that stay, of their own words."""
    return [" ".join(hostile.SENTENCE.replace("fox", f"fox of {name} {i}") for _ in range(3)) for i in range(2)]


def make(folder: Path, bomb: int) -> None:
    """The folder of hostile files."""
    hostile.write(folder / "line.jsonl", hostile.single_line(100 << 20))
    hostile.write(folder / "line.txt", hostile.single_line(100 << 20))
    for tag in ("div", "b", "table><tr><td", "svg"):
        (folder / f"deep-{tag[:3]}.html").write_bytes(hostile.nested(1_000_000, tag))
    (folder / "deep-255.html").write_bytes(hostile.nested(255))
    (folder / "odd.jsonl").write_bytes(hostile.odd_lines())
    (folder / "odd.html").write_bytes(hostile.PAGE.replace("quick", "\0\u202e\ufffe" * 100).encode())
    hostile.write(folder / "bomb.jsonl.gz", hostile.gzip_bomb(bomb))
    (folder / "bomb.html.zst").write_bytes(hostile.zstd_bomb(bomb // 4))
    hostile.write(folder / "bomb.warc.gz", hostile.gzip_bomb(bomb // 4))
    packed = b"".join(hostile.gzip_bomb(1 << 30))
    bad = [
        hostile.warc_record(hostile.response(packed, "Content-Type: text/html\r\nContent-Encoding: gzip")),
        hostile.warc_record(hostile.response(), length="many"),
        hostile.warc_record(hostile.response(), length=10**15),
        hostile.warc_record(hostile.response(), length=900),
        b"\0\xff garbage" * 10_000 + b"\r\n",
        hostile.warc_record(b"no HTTP"),
    ]
    good = hostile.warc_record(hostile.response())
    (folder / "broken.warc").write_bytes(good + good.join(bad) + good)
    (folder / "deep.jsonl").write_bytes(hostile.deep_json(10_000_000) + b'{"text": "good"}\n')
    (folder / "big.html").write_bytes(hostile.PAGE.replace("</p>", "</p><p>" + hostile.SENTENCE * 330_000).encode())
    (folder / "empty.html").touch()
    (folder / "empty.parquet").touch()
    os.mkfifo(folder / "pipe.txt")
    (folder / "gone.txt").symlink_to("nowhere")
    (folder / "round.txt").symlink_to("round.txt")
    (folder / "tiny").mkdir()
    for i in range(TINY):
        (folder / "tiny" / f"{i:05d}.txt").write_text(f"tiny file {i}\n")
    for name in ("a", "z"):  # before and after all others
        rows = [json.dumps({"text": text}) + "\n" for text in good_rows(name)]
        (folder / f"{name}-good.jsonl").write_text("".join(rows))


def work(folder: Path, out: Path) -> None:
    from qwill.data.corpus import curate

    began = time.perf_counter()
    curate(
        {
            "sources": [{"name": "hostile", "path": str(folder)}],
            "languages": ["en"],
            "filters": [],
            "exact": False,
            "near": None,
            "rejects": "keep",
            "workers": 2,
        },
        out,
    )
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(json.dumps({"seconds": time.perf_counter() - began, "peak_mib": peak / 1024}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bomb-gib", type=float, default=8.0)
    parser.add_argument("--dry", action="store_true", help="print the section instead of writing it")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(Path(given.work[0]), Path(given.work[1]))
        return
    import pyarrow.parquet as pq

    with tempfile.TemporaryDirectory() as temporary:
        folder, out = Path(temporary) / "files", Path(temporary) / "corpus"
        folder.mkdir()
        make(folder, int(given.bomb_gib * 2**30))
        done = subprocess.run(
            [sys.executable, __file__, "--work", str(folder), str(out)], stdout=subprocess.PIPE, text=True
        )
        if done.returncode != 0:
            raise SystemExit(f"Claim: no crash: MISSED (exit code {done.returncode}).")
        told = json.loads(done.stdout.splitlines()[-1])
        rows = pq.read_table(out / "rejects.parquet").to_pylist()
        kept = [i for part in ("train", "heldout") for i in pq.read_table(out / f"{part}.parquet")["id"].to_pylist()]
    named = {row["id"].removeprefix("hostile/"): row for row in rows}
    unreadable = {i: row for i, row in named.items() if row["step"] in ("unreadable", "extract")}
    files = Counter(i.partition("#")[0] for i in unreadable)
    wanted = set(FAULTY.split())
    good = [i for i in kept if "-good.jsonl" in i]
    table = "\n".join(f"- `{i}`: {row['value']}" for i, row in sorted(unreadable.items()))
    tiny = sum("tiny/" in i for i in [*named, *kept])
    met = not wanted - files.keys() and len(good) == 4 and tiny == TINY
    lines = [
        f"The largest bomb holds {given.bomb_gib:g} GiB.",
        f"All of it in {told['seconds']:.0f} s, at most {told['peak_mib']:.0f} MiB in the reading process; {tiny:,} of "
        f"{TINY:,} tiny files are accounted for. {len(unreadable)} records could not be read and are named:",
        table,
        f"Of the 4 good documents around them {len(good)} were kept. Files whose fault is not named: "
        f"{', '.join(sorted(wanted - files.keys())) or 'none'}.",
        verdict("no crash, no hang, each named", met),
    ]
    section = (__doc__ or "").strip().split("\n\n")[2] + "\n\n" + "\n\n".join(lines)
    if given.dry:
        print(section)
    else:
        write_section("Curation: hostile documents", section)


if __name__ == "__main__":
    main()
