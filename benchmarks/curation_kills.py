"""Claim: `qwill curate` killed by `kill -9` at any moment goes on to the same bytes.

Makes a corpus once without a break; then, for each trial, starts the same command in a new folder, kills the process
(not its workers: those must end by themselves) after a time drawn at random from the whole of an unbroken run, gives
the command again, and compares every file of the corpus, statistics and report included, byte by byte.

    python benchmarks/curation_kills.py --trials 100
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "data"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from compare import write_section
from made_up_text import altered, chinese, english

RECIPE = """name: kills
seed: 1
threads: 2
corpus:
  sources:
    - {{name: english, path: {folder}/en.jsonl, register: web}}
    - {{name: chinese, path: {folder}/zh.jsonl, register: web}}
  filters: [gopher_repetition, gopher_quality, units]
  limits: {{en: {{gopher_quality: {{min_doc_words: 20}}}}, zh: {{gopher_quality: {{min_doc_words: 10}}}}}}
  lines: {{}}
  questions: [{folder}/questions.jsonl]
  workers: 2
"""


def write_texts(folder: Path, documents: int) -> None:
    rng = random.Random(1)
    for code, make in (("en", english), ("zh", chinese)):
        rows = list[str]()
        for _ in range(documents):
            again = rows and rng.random() < 0.1
            text = altered(rng.choice(rows), rng, 0.02) if again else make(rng, rng.randint(3, 30))
            rows.append(text if rng.random() < 0.98 else text[:20])
        data = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in rows)
        (folder / f"{code}.jsonl").write_text(data, encoding="utf-8")
    (folder / "questions.jsonl").write_text(json.dumps({"id": "q", "prompt": rows[0][:60]}) + "\n", encoding="utf-8")
    (folder / "kills.yaml").write_text(RECIPE.format(folder=folder), encoding="utf-8")


def start(folder: Path, where: Path) -> subprocess.Popen[bytes]:
    where.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "qwill.cli.main", "curate", str(folder / "kills.yaml")]
    with open(where / "log.txt", "ab") as log:
        return subprocess.Popen(command, cwd=where, stdout=log, stderr=log)


def finish(folder: Path, where: Path) -> float:
    began = time.monotonic()
    process = start(folder, where)
    if process.wait() != 0:
        raise SystemExit((where / "log.txt").read_text()[-2000:])
    return time.monotonic() - began


def contents(where: Path) -> dict[str, bytes]:
    corpus = where / "runs" / "kills" / "corpus"
    return {p.name: p.read_bytes() for p in sorted(corpus.iterdir()) if p.name != "run.json"}


def workers_left(where: Path) -> int:
    found = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found += os.readlink(entry / "cwd") == str(where)
            except OSError:
                continue
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--documents", type=int, default=3000, help="of each language")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name).resolve()
        write_texts(root, arguments.documents)
        whole = finish(root, root / "whole")
        expected = contents(root / "whole")
        print(f"without a break: {whole:.1f} s; {', '.join(expected)}")
        states, different, late = Counter[str](), 0, 0
        for trial in range(arguments.trials):
            where = root / f"trial-{trial}"
            process = start(root, where)
            time.sleep(rng.uniform(0, whole))
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait()
                states[state(where)] += 1
            else:
                states["finished before"] += 1
            deadline = time.monotonic() + 5
            while workers_left(where) and time.monotonic() < deadline:
                time.sleep(0.05)
            late += workers_left(where) > 0
            finish(root, where)
            same = contents(where) == expected
            different += not same
            if not same or trial % 10 == 9:
                print(f"trial {trial + 1}: {'same bytes' if same else 'DIFFERENT'}; so far {dict(states)}", flush=True)
            subprocess.run(["rm", "-rf", str(where)], check=True)
        killed = sum(n for what, n in states.items() if what != "finished before")
        lines = [
            f"{killed} runs killed at moments drawn uniformly from an unbroken run of {whole:.1f} s (2 workers, "
            f"{2 * arguments.documents} documents), then given again: **{different} of {arguments.trials} differed** "
            f"in any byte of {', '.join(expected)}; {late} left a worker alive for 5 s.",
            "Where they were: " + ", ".join(f"{what} {n}" for what, n in sorted(states.items())) + ".",
        ]
        print("\n".join(lines))
        write_section("Curation: killed at any moment (`benchmarks/curation_kills.py`)", "\n\n".join(lines))
        raise SystemExit(different > 0 or late > 0)


def state(where: Path) -> str:
    """How far the killed run had come, by what lies in its work folder."""
    work = list((where / "runs" / "kills" / ".work").glob("corpus-*"))
    if not work:
        return "starting"
    if list(work[0].glob("third/*.arrow")):
        return "third pass or writing"
    if list(work[0].glob("second-*.npz")):
        return "after duplicates"
    return "first pass or duplicates" if list(work[0].glob("first/*.arrow")) else "reading"


if __name__ == "__main__":
    main()
