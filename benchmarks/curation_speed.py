"""Claim: from text to filtered, deduplicated output at least 5 times as quick as datatrove, with the same decisions.

    python benchmarks/curation_speed.py --peer-python PYTHON_WITH_DATATROVE [--documents 4000] [--rounds 3]

English and Chinese separately, two worker processes each side, in turns. Ours is the product: the `corpus` stage from a
JSONL file to sealed Parquet with report, every value of every rule recorded, with what it always does (repair, language
identification, hold-out, decontamination index). datatrove runs FineWeb's filters (for Chinese FineWeb-2's with its
cmn_Hani settings) and then MinHash's four stages, by LocalPipelineExecutor, its workers forked with everything loaded.
The documents are real (the registry's text packages, fetched at run time), joined to the size of web pages; a tenth are
near copies of others. Both sides must keep the same documents: of near duplicates datatrove keeps the first and we the
longest, so there one of the same cluster counts as the same.

Beside it, in one process each: the words and filters alone.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from compare import Rounds, Worker, alternate, spread, verdict, write_section

PEER = Path(__file__).parent / "peers" / "datatrove_curation.py"
CLAIM = 5.0
SOURCES = {"en": ("c4_demo", "boolq", "quac", "wiki_demo"), "zh": ("reviews_positive", "reviews_negative", "words",
           "characters")}  # fmt: skip
NAMES = {"en": "English", "zh": "Chinese"}
RECIPE = """name: speed
seed: 1
threads: 2
corpus:
  sources: [{{name: pages, path: {folder}/pages.jsonl, register: web}}]
  languages: [{code}]
  language_score: 0
  redact: null
  exact: false
  near: {{}}
  score: {{toxicity: false}}
  rejects: drop
  workers: 2
"""


def passages(code: str) -> list[str]:
    """Every text of the language's sources, each repaired, in a fixed order."""
    from qwill.base.packages import open_member
    from qwill.data.readers import Bad
    from qwill.data.registry_sources import find_source
    from qwill.data.repair import repair

    found: list[str] = []
    for name in SOURCES[code]:
        source = find_source(name)
        assert source.reader is not None
        records = source.reader(open_member(source.package.archive(), source.member), name)
        found += [repair(r.text) for r in records if not isinstance(r, Bad)]
    return [text for text in dict.fromkeys(found) if text]


def pages(code: str, number: int) -> list[str]:
    """Made of passages: about 500 words, their lines apart, a tenth of them a copy with one line less or more."""
    from qwill.data.language import identify_all

    dice, parts = random.Random(code), passages(code)
    made: list[str] = []
    while len(made) < number:
        if made and dice.random() < 0.1:
            lines = dice.choice(made).split("\n")
            lines.insert(dice.randrange(len(lines) + 1), dice.choice(parts).split("\n")[0])
            made.append("\n".join(lines))
            continue
        wanted, text = dice.randint(500, 6000) // (1 if code == "en" else 3), ""
        while len(text) < wanted:
            part = dice.choice(parts)
            at = dice.randrange(max(1, len(part) - wanted)) if len(part) > 2 * wanted else 0
            text += ("\n" if text else "") + part[at : at + 2 * wanted].strip()
        made.append(text)
    from qwill.data.repair import repair

    made = [repair(text) for text in made]
    told = identify_all(made, [code], 0.0)
    return [text for text, one in zip(made, told, strict=True) if one.code == code]


def work(what: str, folder: Path, code: str) -> None:
    """A worker's process: an answer a line of standard input."""
    from qwill.cli.curate import curate
    from qwill.data.families import judge_batch, resolve_limits
    from qwill.data.languages import language

    own = language(code)
    texts = [json.loads(line)["text"] for line in (folder / "pages.jsonl").open()]
    limits = resolve_limits(own)
    judge_batch(texts[:1], own, own.families, limits)
    print("{}", flush=True)
    for number, _ in enumerate(sys.stdin):
        if what == "filters":
            began = time.perf_counter()
            verdicts = [v for at in range(0, len(texts), 512)
                        for v in judge_batch(texts[at : at + 512], own, own.families, limits)]  # fmt: skip
            seconds = time.perf_counter() - began
            told: dict[str, Any] = {"kept": [i for i, v in enumerate(verdicts) if v.drop is None]}
        else:
            out = folder / f"ours-{number}"
            began = time.perf_counter()
            with contextlib.redirect_stdout(io.StringIO()):
                curate(folder / "speed.yaml", [f"folder={out}"], None, True)
            seconds = time.perf_counter() - began
            told = {"kept": kept_ids(out)}
            shutil.rmtree(out)
        print(json.dumps({"seconds": seconds, **told}), flush=True)


def kept_ids(out: Path) -> list[int]:
    import pyarrow.parquet as pq

    files = [path for name in ("train", "heldout") for path in out.rglob(f"{name}.parquet")]
    ids = [i for path in files for i in pq.read_table(path, columns=["id"])["id"].to_pylist()]
    return sorted(int(i.rpartition("/")[2]) - 1 for i in ids)  # an id tells the line, from 1


def same_but_for_representatives(code: str, texts: list[str], ours: list[int], peer: list[int], filtered: int) -> str:
    """A sentence on what both kept; SystemExit where they differ by more than which of a cluster stays."""
    import numpy as np

    from qwill.data.clusters import near_duplicates
    from qwill.data.families import judge_batch, resolve_limits
    from qwill.data.languages import language
    from qwill.data.minhash import MinHash, band_keys

    own = language(code)
    verdicts = judge_batch(texts, own, own.families, resolve_limits(own))
    left = [i for i, v in enumerate(verdicts) if v.drop is None]
    if len(left) != filtered:
        raise SystemExit(f"{NAMES[code]}: our filters leave {len(left)} documents, datatrove's {filtered}.")
    keys = band_keys([verdicts[i].text for i in left], None, MinHash(), own.words)
    sizes = np.array([len(verdicts[i].text.encode()) for i in left], dtype=np.int64)
    with tempfile.TemporaryDirectory() as name:
        clusters = near_duplicates([keys], np.zeros(len(left), dtype=np.float32), sizes, MinHash(), Path(name))
    stands_for = {i: left[int(r)] for i, r in zip(left, clusters.representative, strict=True)}
    stray = (set(ours) | set(peer)) - set(stands_for)
    if stray or len(ours) != len(peer) or {stands_for[i] for i in ours} != {stands_for[i] for i in peer}:
        raise SystemExit(f"{NAMES[code]}: kept {len(ours)} and {len(peer)} documents, and not the same; stray: {stray}")
    others = len(set(ours) - set(peer))
    return (
        f"{len(texts):,} documents, {sum(map(len, texts)):,} characters; the filters leave {filtered:,} and MinHash "
        f"{len(ours):,} on both sides, the same ones ({others} times another one of the same cluster)"
    )


def steps(code: str, texts: list[str]) -> dict[str, float]:
    """Seconds of each of our steps in one process, over the same documents."""
    from qwill.data.families import judge_batch, resolve_limits
    from qwill.data.language import identify_all
    from qwill.data.languages import language
    from qwill.data.minhash import MinHash, band_keys
    from qwill.data.native_words import code_points, cut
    from qwill.data.repair import repair

    own, limits = language(code), resolve_limits(language(code))
    judge_batch(texts[:20], own, own.families, limits)
    band_keys(texts[:20], None, MinHash(), own.words)
    identify_all(texts[:20], [code], 0.0)
    found: dict[str, float] = {}

    def timed(name: str, action: Any) -> Any:
        began = time.perf_counter()
        answer = action()
        found[name] = time.perf_counter() - began
        return answer

    timed("repair", lambda: [repair(text) for text in texts])
    timed("language", lambda: identify_all(texts, [code], 0.0))
    timed("words alone", lambda: [cut(text, code_points(text), own.words) for text in texts])
    verdicts = timed("words and filters", lambda: judge_batch(texts, own, own.families, limits))
    kept = [v.text for v in verdicts if v.drop is None]
    timed("MinHash keys of what is left", lambda: band_keys(kept, None, MinHash(), own.words))
    return found


def measure(code: str, number: int, rounds: int, peer_python: str) -> tuple[str, float]:
    """The language's part of the section, and the median ratio of the whole."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = pages(code, number)
        rows = [json.dumps({"id": str(i), "text": text}, ensure_ascii=False) + "\n" for i, text in enumerate(texts)]
        (folder / "pages.jsonl").write_text("".join(rows), encoding="utf-8")
        (folder / "speed.yaml").write_text(RECIPE.format(folder=folder, code=code), encoding="utf-8")
        (folder / "input").mkdir()
        for part in range(2):
            (folder / "input" / f"{part}.jsonl").write_text("".join(rows[part::2]), encoding="utf-8")
        told: list[str] = [f"### {NAMES[code]}", ""]
        me = [sys.executable, __file__, "--work"]
        with (
            Worker([*me, "whole", name, code]) as ours,
            Worker([peer_python, str(PEER), "whole", name, code, "2"]) as peer,
        ):
            mine, theirs = ours.ask("go"), peer.ask("go")  # not counted: compilers, caches, the dictionary
            kept = [int(i) for i in theirs["kept"]]
            same = same_but_for_representatives(code, texts, mine["kept"], kept, theirs["filtered"])
            whole = alternate(ours, peer, rounds)
        (folder / "some.jsonl").write_text("".join(rows[:500]), encoding="utf-8")
        small = folder / "some"
        small.mkdir()
        shutil.copy(folder / "some.jsonl", small / "pages.jsonl")
        some = str(small / "pages.jsonl")
        with (
            Worker([*me, "filters", str(small), code]) as ours,
            Worker([peer_python, str(PEER), "filters", some, code]) as peer,
        ):
            if ours.ask("go")["kept"] != peer.ask("go")["kept"]:
                raise SystemExit(f"{NAMES[code]}: the filters alone keep different documents.")
            alone = alternate(ours, peer, rounds)
    told.append(f"{same}.\n\n" + paragraph("Text to filtered, deduplicated output, 2 processes", whole, len(texts)))
    told.append("\n" + paragraph("Words and filters alone, 1 process, 500 of them", alone, 500))
    mine_steps = steps(code, texts)
    told.append("\nOur steps in one process, ms a document: " + listed(mine_steps, 1000 / len(texts)) + ".")
    told.append("datatrove's stages with two, s: " + listed(theirs["steps"], 1) + ".\n")
    return "\n".join(told), statistics.median(whole.ratios)


def listed(steps: dict[str, float], scale: float) -> str:
    return ", ".join(f"{name} {scale * seconds:.3f}" for name, seconds in steps.items())


def paragraph(what: str, rounds: Rounds, documents: int) -> str:
    ours, peer = (documents / statistics.median(s) for s in (rounds.ours, rounds.peer))
    return (
        f"{what}: {ours:,.0f} documents/s, datatrove {peer:,.0f}: {spread(rounds.ratios)}. {rounds.dropped} rounds "
        f"dropped for stolen CPU, at most {100 * rounds.stolen:.1f} % stolen in the rest."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python")
    parser.add_argument("--documents", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--languages", nargs="+", default=["en", "zh"])
    parser.add_argument("--dry", action="store_true", help="print the section instead of writing it")
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.work[0], Path(given.work[1]), given.work[2])
        return
    if not given.peer_python:
        parser.error("--peer-python: name a Python with datatrove 0.10.1, spacy, jieba and nltk.")
    parts = {code: measure(code, given.documents, given.rounds, given.peer_python) for code in given.languages}
    told = [__doc__.strip().split("\n\n")[2]]
    told += [text for text, _ in parts.values()]
    worst = min(ratio for _, ratio in parts.values())
    told.append(verdict(f"at least {CLAIM:g}× datatrove's documents a second in each language", worst >= CLAIM))
    section = "\n\n".join(told)
    if given.dry:
        print(section)
    else:
        write_section("Curation: speed against datatrove", section)


if __name__ == "__main__":
    main()
