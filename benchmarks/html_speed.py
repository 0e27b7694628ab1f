"""Claim: from HTML to filtered, deduplicated output at least 1.5 times as quick as datatrove with the same extracted
text, and at least 5 times on everything but extraction.

    python benchmarks/html_speed.py --peer-python PYTHON_WITH_DATATROVE [--pages 1700] [--rounds 2]

Real pages (LibreOffice's help in English and Chinese, the Linux kernel's documentation; Debian packages, fetched at run
time), two worker processes each side, in turns. Ours is the product: the `corpus` stage from a JSONL file of pages to
sealed Parquet with report, `extraction: datatrove`. datatrove runs its Trafilatura step on the same version of
trafilatura, FineWeb's filters (for Chinese FineWeb-2's) and MinHash's four stages. Each extracted text must be the same
to the letter; since datatrove's step remembers paragraphs across the pages of a task, its tasks are our blocks. What is
kept in the end is not asserted here (curation_speed.py does that): we repair the text before the filters see it.

Everything but extraction is the time of the whole less that of reading and extracting alone, measured in turns too.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from compare import MOST_STOLEN, Worker, spread, take_turns, verdict, write_section

PEER = Path(__file__).parent / "peers" / "datatrove_html.py"
WHOLE, REST = 1.5, 5.0
# Sources with the share of `--pages` that is taken of each, evenly over its files.
SETS = {
    "English: LibreOffice's help and the Linux documentation": (
        "en",
        {"libreoffice_help_en": 1.0, "linux_doc": 0.3},
    ),
    "Chinese: LibreOffice's help and translations of the Linux documentation": (
        "zh",
        {"libreoffice_help_zh": 1.0, "linux_doc_zh": 0.1},
    ),
}
RECIPE = """name: html
seed: 1
threads: 2
corpus:
  sources: [{{name: pages, path: {folder}/pages.jsonl, html: true, extraction: datatrove, register: web}}]
  languages: [{code}]
  language_score: 0
  redact: null
  exact: false
  near: {{}}
  score: {{toxicity: false}}
  rejects: drop
  workers: 2
"""


def lay_out(folder: Path, shares: dict[str, float], code: str, number: int) -> int:
    """Write the pages for both sides; returns their bytes."""
    from qwill.data.blocks import open_source
    from qwill.data.encodings import declared_encoding, decode
    from qwill.data.registry_sources import find_source
    from qwill.data.sources import SourceChoice

    chosen, rows = list[Path](), list[str]()
    for name, share in shares.items():
        paths, wanted = find_source(name).paths(), int(number * share)
        chosen += [paths[i * len(paths) // wanted] for i in range(wanted)] if wanted < len(paths) else paths
    for i, path in enumerate(chosen):
        data = path.read_bytes()
        if len(data) < 1 << 20:
            page = decode(data, declared_encoding(data))[0]
            rows.append(json.dumps({"id": str(i), "text": page}, ensure_ascii=False) + "\n")
    (folder / "pages.jsonl").write_text("".join(rows), encoding="utf-8")
    (folder / "html.yaml").write_text(RECIPE.format(folder=folder, code=code), encoding="utf-8")
    (folder / "input").mkdir()
    source = open_source(SourceChoice("pages", path=str(folder / "pages.jsonl"), html=True, extraction="datatrove"))
    for task, block in enumerate(source.blocks()):
        (folder / "input" / f"{task:04d}.jsonl").write_bytes(b"".join(data + b"\n" for _, data in block.items))
    return sum(len(row.encode()) for row in rows)


def extracted(folder: Path, code: str) -> dict[str, str]:
    """Id → text, two processes, a block at a time."""
    from qwill.data.blocks import open_source, parse
    from qwill.data.records import Raw
    from qwill.data.sources import SourceChoice
    from qwill.data.workers import spread as work_on

    choice = SourceChoice("pages", path=str(folder / "pages.jsonl"), id_field="id", html=True, extraction="datatrove")
    found = work_on(partial(parse, choice=choice), open_source(choice).blocks(), 2)
    return {r.labels["id"]: r.text for records in found for r in records if isinstance(r, Raw)}


def work(what: str, folder: Path, code: str) -> None:
    """A worker's process: an answer a line of standard input."""
    print("{}", flush=True)
    for number, _ in enumerate(sys.stdin):
        began = time.perf_counter()
        if what == "extract":
            found = extracted(folder, code)
            seconds = time.perf_counter() - began
            (folder / "ours.json").write_text(json.dumps(found), encoding="utf-8")
            kept = len(found)
        else:
            from qwill.cli.curate import curate

            out = folder / f"ours-{number}"
            with contextlib.redirect_stdout(io.StringIO()):
                curate(folder / "html.yaml", [f"folder={out}"], None, True)
            seconds = time.perf_counter() - began
            import pyarrow.parquet as pq

            files = [path for name in ("train", "heldout") for path in out.rglob(f"{name}.parquet")]
            kept = sum(pq.read_metadata(path).num_rows for path in files)
            shutil.rmtree(out)
        print(json.dumps({"seconds": seconds, "kept": kept}), flush=True)


def check_same(folder: Path, what: str) -> int:
    ours = json.loads((folder / "ours.json").read_text(encoding="utf-8"))
    rows = [json.loads(line) for path in (folder / "datatrove" / "extracted").glob("*.jsonl") for line in path.open()]
    peer = {row["id"]: row["text"] for row in rows}
    if ours != peer:
        wrong = sorted(key for key in ours.keys() | peer.keys() if ours.get(key) != peer.get(key))
        raise SystemExit(f"{what}: {len(wrong)} of {len(peer)} texts differ, the first of page {wrong[0]}.")
    return len(peer)


def measure(what: str, number: int, rounds: int, peer_python: str) -> tuple[str, float, float]:
    """A paragraph, and the median ratios of the whole and of everything but extraction."""
    code, shares = SETS[what]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        size = lay_out(folder, shares, code, number)
        me, peer = [sys.executable, __file__, "--work"], [peer_python, str(PEER)]
        with contextlib.ExitStack() as stack:
            workers = {
                f"{side} {step}": stack.enter_context(Worker(command))
                for step in ("whole", "extract")
                for side, command in (
                    ("ours", [*me, step, temporary, code]),
                    ("peer", [*peer, step, temporary, code, "2"]),
                )
            }
            first = {key: worker.ask("go") for key, worker in workers.items()}  # not counted: compilers, caches
            same = check_same(folder, what)
            seconds, stolen, dropped = take_turns(workers, rounds)
    if not seconds["ours whole"]:
        raise SystemExit(f"{what}: in every round more than {100 * MOST_STOLEN:.0f} % of the CPU was stolen.")
    rest = {
        side: [max(1e-3, w - e) for w, e in zip(seconds[f"{side} whole"], seconds[f"{side} extract"], strict=True)]
        for side in ("ours", "peer")
    }
    ratios = {
        "whole": [p / o for o, p in zip(seconds["ours whole"], seconds["peer whole"], strict=True)],
        "extract": [p / o for o, p in zip(seconds["ours extract"], seconds["peer extract"], strict=True)],
        "rest": [p / o for o, p in zip(rest["ours"], rest["peer"], strict=True)],
    }
    middle = {key: statistics.median(values) for key, values in seconds.items()}
    told = [
        f"### {what}",
        f"{same:,} texts out of pages of {size / 1e6:.1f} MB, all the same on both sides; kept in the end: ours "
        f"{first['ours whole']['kept']:,}, datatrove {len(first['peer whole']['kept']):,}. {dropped} rounds dropped "
        f"for stolen CPU, at most {100 * stolen:.1f} % stolen in the rest.",
        f"- End to end: ours {middle['ours whole']:.2f} s, datatrove {middle['peer whole']:.2f} s: "
        f"{spread(ratios['whole'])}.\n"
        f"- Reading and extraction alone: ours {middle['ours extract']:.2f} s, datatrove "
        f"{middle['peer extract']:.2f} s: {spread(ratios['extract'])}.\n"
        f"- Everything else: ours {statistics.median(rest['ours']):.2f} s, datatrove "
        f"{statistics.median(rest['peer']):.2f} s: {spread(ratios['rest'])}.",
    ]
    return "\n\n".join(told), statistics.median(ratios["whole"]), statistics.median(ratios["rest"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python")
    parser.add_argument(
        "--pages", type=int, default=1700, help="of each language's help, and so many of the rest as SETS says"
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--dry", action="store_true", help="print the section instead of writing it")
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.work[0], Path(given.work[1]), given.work[2])
        return
    if not given.peer_python:
        parser.error("--peer-python: name a Python with datatrove 0.10.1, trafilatura 2.3.1, spacy, jieba and nltk.")
    parts = [measure(what, given.pages, given.rounds, given.peer_python) for what in SETS]
    paragraphs = (__doc__ or "").strip().split("\n\n")
    told = [paragraphs[2], *(text for text, _, _ in parts)]
    told.append(verdict(f"at least {WHOLE:g}× end to end", min(whole for _, whole, _ in parts) >= WHOLE))
    told.append(verdict(f"at least {REST:g}× on everything but extraction", min(rest for _, _, rest in parts) >= REST))
    section = "\n\n".join(told)
    if given.dry:
        print(section)
    else:
        write_section("Curation: from HTML against datatrove", section)


if __name__ == "__main__":
    main()
