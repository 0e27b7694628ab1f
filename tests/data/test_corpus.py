"""The whole stage, on made-up text in files of every kind."""

import json
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_up_text import altered, chinese, english, full_width

from qwill.base.artifact import read_manifest, verify
from qwill.base.config import parse
from qwill.base.errors import ConfigError, DataError
from qwill.base.progress import Display
from qwill.base.stage import StageContext
from qwill.data import CorpusArtifact, CurateConfig, curate
from qwill.data.corpus import run
from qwill.data.judge import sample
from qwill.data.readers import Bad, Raw
from qwill.data.sources import SourceChoice, find_source
from qwill.data.split import HeldOut
from qwill.data.units import text_key

QUESTION = "Which whole number strictly between 539 and 574 can be divided by 6 without a remainder? Give one example."
QUIET = Display(quiet=True)


@pytest.fixture
def texts() -> dict[str, list[str]]:
    """Documents by what is to become of them."""
    rng = random.Random(7)
    good_en, good_zh = [english(rng) for _ in range(40)], [chinese(rng) for _ in range(40)]
    return {
        "good_en": good_en,
        "good_zh": good_zh,
        "same": [good_en[0].upper(), full_width(good_zh[1]), good_zh[2] + "\n"],
        "near": [altered(good_en[3], rng, 0.01), altered(good_zh[4], rng, 0.01)],
        "leak": [f"{english(rng)} {QUESTION.upper()} {english(rng)}"],
        "short": ["房间很好", "This is what is too short."],
        "french": ["Il était une fois un petit village au bord de la mer, où vivait un vieux pêcheur avec sa fille."],
        "empty": ["\u200b\u200b"],
    }


def write_sources(folder: Path, texts: dict[str, list[str]], order: int = 0) -> CurateConfig:
    """English as JSON lines (with a bad line), Chinese as plain text, the rest as Parquet; `order` shuffles it all."""
    rng = random.Random(order)
    folder.mkdir(parents=True, exist_ok=True)
    rest = [text for kind in ("same", "near", "leak", "short", "french", "empty") for text in texts[kind]]
    english_rows = [json.dumps({"body": text}) for text in texts["good_en"]] + ['{"body": 5}']
    parts: list[list[str]] = [english_rows, list(texts["good_zh"]), rest]
    if order:
        for part in parts:
            rng.shuffle(part)
    (folder / "en.jsonl").write_text("\n".join(parts[0]), encoding="utf-8")
    (folder / "zh.txt").write_text("\n".join(parts[1]), encoding="utf-8")
    pq.write_table(pa.table({"text": parts[2]}), folder / "rest.parquet")
    (folder / "questions.jsonl").write_text(json.dumps({"id": "q1", "prompt": QUESTION}), encoding="utf-8")
    choices = [
        SourceChoice("english", str(folder / "en.jsonl"), field="body", language="en", register="story"),
        SourceChoice("chinese", str(folder / "zh.txt"), language="zh"),
        SourceChoice("rest", str(folder / "rest.parquet")),
    ]
    if order:
        rng.shuffle(choices)
    return CurateConfig(
        sources=choices,
        questions=[str(folder / "questions.jsonl")],
        heldout=HeldOut(share=0.1, min_bytes=2000),
    )


def run_stage(config: CurateConfig, out: Path, work: Path | None = None, tasks: Path | None = None) -> dict[str, Any]:
    out.mkdir(parents=True, exist_ok=True)
    work = work or out.with_name(out.name + ".work")
    work.mkdir(parents=True, exist_ok=True)
    inputs = {"tasks": tasks} if tasks else {}
    return run(config, StageContext(out, work, inputs, 0, 1, QUIET, None, out / "metrics.jsonl"))


def rejects(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "rejects.jsonl").read_text(encoding="utf-8").splitlines()]


def test_what_is_good_stays_and_all_else_goes_with_its_reason(tmp_path: Path, texts: dict[str, list[str]]) -> None:
    metrics = run_stage(write_sources(tmp_path / "in", texts), tmp_path / "out")
    corpus = CorpusArtifact(tmp_path / "out")
    records = list(corpus)
    # Of a duplicated text either writing may stay, so texts are compared as the deduplication sees them.
    good = {text_key(text) for text in (*texts["good_en"], *texts["good_zh"])}
    near = {text_key(text) for text in texts["near"]}
    found = {text_key(record.text) for record in records}
    assert found - near <= good
    assert len(found) == len(records) == len(corpus) == 80
    reasons = Counter((row["step"], row["source"]) for row in rejects(tmp_path / "out"))
    assert reasons["unreadable", "english"] == reasons["repair", "rest"] == reasons["language", "rest"] == 1
    assert reasons["quality", "rest"] == 2
    by_step = Counter(row["step"] for row in rejects(tmp_path / "out"))
    assert by_step["exact_duplicates"] == 3
    assert by_step["near_duplicates"] == 2
    (leaked,) = [row for row in rejects(tmp_path / "out") if row["step"] == "decontamination"]
    assert leaked["value"].lower().startswith("q1: which whole number strictly between 539 and 574")
    assert {(r.language, r.register) for r in records} >= {("en", "story"), ("zh", "local")}
    assert all(0.65 <= r.scores["language_score"] <= 1 and r.scores["units"] >= 10 for r in records)
    assert metrics["train_documents_en"] + metrics["heldout_documents_en"] == 40


def test_the_funnel_accounts_for_every_document_and_byte(tmp_path: Path, texts: dict[str, list[str]]) -> None:
    config = write_sources(tmp_path / "in", texts)
    run_stage(config, tmp_path / "out")
    corpus = CorpusArtifact(tmp_path / "out")
    languages = corpus.funnel["languages"]
    assert sum(steps[0]["documents"] for steps in languages.values()) == 80 + 1 + sum(
        len(texts[kind]) for kind in ("same", "near", "leak", "short", "french", "empty")
    )
    raw = [text for group in texts.values() for text in group]
    assert sum(steps[0]["bytes"] for steps in languages.values()) == sum(len(t.encode()) for t in raw) + len(
        '{"body": 5}'
    )
    for code in ("en", "zh"):
        out = [record.text for record in corpus if record.language == code]
        assert (languages[code][-1]["documents"], languages[code][-1]["bytes"]) == (
            len(out),
            sum(len(text.encode()) for text in out),
        )
        split = corpus.funnel["split"][code]
        assert split["train"]["bytes"] + split["heldout"]["bytes"] == languages[code][-1]["bytes"]


def test_training_and_held_out_text_are_apart(tmp_path: Path, texts: dict[str, list[str]]) -> None:
    run_stage(write_sources(tmp_path / "in", texts), tmp_path / "out")
    corpus = CorpusArtifact(tmp_path / "out")
    train, heldout = ({text_key(r.text) for r in corpus.records(part)} for part in ("train", "heldout"))
    assert train and heldout
    assert not train & heldout
    for code in ("en", "zh"):
        assert corpus.funnel["split"][code]["heldout"]["bytes"] >= 2000


def test_decisions_do_not_depend_on_any_order(tmp_path: Path, texts: dict[str, list[str]]) -> None:
    outcomes = []
    for order in (0, 1, 2):
        run_stage(write_sources(tmp_path / f"in{order}", texts, order), tmp_path / f"out{order}")
        corpus = CorpusArtifact(tmp_path / f"out{order}")
        sides = {part: {text_key(r.text) for r in corpus.records(part)} for part in ("train", "heldout")}
        near = {text_key(text) for text in texts["near"]}
        outcomes.append({part: keys - near for part, keys in sides.items()})
    # Which of two near duplicates of one length stays may follow their ids, and so their lines; all else may not.
    missing = set.union(*(o["train"] | o["heldout"] for o in outcomes)) - set.intersection(
        *(o["train"] | o["heldout"] for o in outcomes)
    )
    assert len(missing) <= 2
    assert all(a["heldout"] - missing == b["heldout"] - missing for a in outcomes for b in outcomes)


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path, texts: dict[str, list[str]]) -> None:
    config = write_sources(tmp_path / "in", texts)
    run_stage(config, tmp_path / "one")
    run_stage(config, tmp_path / "two")
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["funnel.json", "heldout.parquet", "rejects.jsonl", "sources.json", "train.parquet"]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_the_order_of_the_sources_changes_no_byte(tmp_path: Path, texts: dict[str, list[str]]) -> None:
    config = write_sources(tmp_path / "in", texts)
    run_stage(config, tmp_path / "one")
    run_stage(replace(config, sources=config.sources[::-1]), tmp_path / "two")
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    ids = [record.id for record in CorpusArtifact(tmp_path / "one").records("train")]
    assert ids == sorted(ids)


def test_a_killed_run_goes_on_to_the_same_bytes(
    tmp_path: Path, texts: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_sources(tmp_path / "in", texts)
    run_stage(config, tmp_path / "whole")
    work = tmp_path / "work"

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("qwill.data.corpus.near_duplicates", killed)
        with pytest.raises(KeyboardInterrupt):
            run_stage(config, tmp_path / "cut", work)
    assert len(list(work.iterdir())) == 3
    with monkeypatch.context() as patch:
        patch.setattr("qwill.data.judge.identify", killed)  # nothing is judged a second time
        run_stage(config, tmp_path / "cut", work)
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "cut" / path.name).read_bytes()
    (tmp_path / "in" / "zh.txt").write_text("\n".join(texts["good_zh"][:30]), encoding="utf-8")
    run_stage(config, tmp_path / "changed", work)  # a source that changed meanwhile is
    assert sum(r.language == "zh" for r in CorpusArtifact(tmp_path / "changed")) <= 32


def test_the_held_out_tasks_are_kept_out(tmp_path: Path, texts: dict[str, list[str]]) -> None:
    config = replace(write_sources(tmp_path / "in", texts), questions=[])
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "heldout.jsonl").write_text(json.dumps({"id": "h1", "prompt": texts["good_en"][5]}), encoding="utf-8")
    run_stage(config, tmp_path / "out", tasks=tasks)
    assert [row["value"].split(":")[0] for row in rejects(tmp_path / "out") if row["step"] == "decontamination"] == [
        "h1"
    ]


def test_a_corpus_without_a_language_is_refused(tmp_path: Path, texts: dict[str, list[str]]) -> None:
    config = write_sources(tmp_path / "in", texts)
    only = replace(config, sources=[choice for choice in config.sources if choice.name == "english"])
    with pytest.raises(DataError, match=r"no Chinese document left .*; add a source of it, or set .* to \[en\]\.$"):
        run_stage(only, tmp_path / "out")
    run_stage(replace(only, languages=["en"]), tmp_path / "out")
    assert {r.language for r in CorpusArtifact(tmp_path / "out")} == {"en"}
    (tmp_path / "in" / "en.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(DataError, match=r"no English and no Chinese document left after curation; see to"):
        run_stage(only, tmp_path / "empty")


def test_bad_input_is_one_sentence(tmp_path: Path, texts: dict[str, list[str]]) -> None:
    config = write_sources(tmp_path / "in", texts)
    (tmp_path / "in" / "latin.txt").write_bytes("Il était".encode("latin-1"))
    (tmp_path / "in" / "page.html").write_text("<p>", encoding="utf-8")
    wrong: dict[str, tuple[type[Exception], list[SourceChoice]]] = {
        r"latin\.txt is not UTF-8: byte 3 is 0xe9": (
            DataError,
            [SourceChoice("a", str(tmp_path / "in" / "latin.txt"))],
        ),
        r"gone\.txt cannot be read \(No such file": (DataError, [SourceChoice("a", str(tmp_path / "gone.txt"))]),
        r"ends in \.html; expected \.jsonl, \.txt or \.parquet": (
            ConfigError,
            [SourceChoice("a", str(tmp_path / "in" / "page.html"))],
        ),
        r"'bolq' is no source and has no path; did you mean boolq\?": (ConfigError, [SourceChoice("bolq")]),
        r"names 'a' twice": (ConfigError, [SourceChoice("a", "x.txt"), SourceChoice("a", "y.txt")]),
        r"corpus\.sources is empty": (ConfigError, []),
    }
    for message, (kind, sources) in wrong.items():
        with pytest.raises(kind, match=message) as caught:
            run_stage(replace(config, sources=sources), tmp_path / "out")
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"corpus\.english\.min_unit is not a setting; did you mean min_units"):
        parse(CurateConfig, {"english": {"min_unit": 3}}, "corpus")


def test_curate_makes_a_sealed_artifact(tmp_path: Path, texts: dict[str, list[str]]) -> None:
    config = write_sources(tmp_path / "in", texts)
    corpus = curate(config, tmp_path / "corpus", QUIET)
    assert verify(corpus.path) == []
    manifest = read_manifest(corpus.path)
    assert manifest is not None
    assert manifest.kind == "corpus"
    assert [source["name"] for source in manifest.sources] == ["en.jsonl", "rest.parquet", "zh.txt"]
    assert manifest.metrics["train_documents_en"] > 0
    record = next(iter(corpus))
    assert (record.id, record.source) == (record.id, record.id.split("/")[0])
    with pytest.raises(DataError, match="is not a part of a corpus"):
        list(corpus.records("test"))
    before = {path.name: path.read_bytes() for path in corpus.path.iterdir()}
    with pytest.raises(ConfigError):
        curate({"sources": [{"name": "nothing like it"}]}, corpus.path, QUIET)
    assert {path.name: path.read_bytes() for path in corpus.path.iterdir()} == before


def test_every_default_source_has_a_package_and_a_language() -> None:
    config = CurateConfig()
    assert {find_source(choice.name).language for choice in config.sources} == {"en", "zh"}
    assert len(config.packages()) == len(config.sources)
    assert all(len(package.sha256) == 64 for package in config.packages())


def test_a_sample_is_part_of_a_larger_one() -> None:
    rng = random.Random(1)
    records: list[Raw | Bad] = [Raw(i, english(rng, 2)) for i in range(1, 60)]
    records.insert(30, Bad(99, "why", "what"))
    sizes = {r.record: len(r.text.encode()) for r in records if isinstance(r, Raw)}
    last: set[int] = set()
    for budget in (0, 3000, 6000, 10**9):
        chosen = [r.record for r in sample(records, budget) if isinstance(r, Raw)]
        assert sum(sizes[i] for i in chosen) <= budget
        assert last <= set(chosen)
        assert chosen == sorted(chosen)
        last = set(chosen)
    assert sample(records, None) == records == sample(records, 10**9)


def test_importing_the_room_is_light() -> None:
    code = "import sys, qwill.data; print([m for m in ('numpy', 'torch', 'pyarrow', 'ftfy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
