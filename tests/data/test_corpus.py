"""The whole stage, on made-up text in files of every kind."""

import json
import random
import shutil
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
from qwill.data.blocks import Source
from qwill.data.corpus import run
from qwill.data.lines import LineDuplicates
from qwill.data.minhash import MinHash
from qwill.data.mix import MixSettings
from qwill.data.registry_sources import find_source
from qwill.data.settings import RegisterRules
from qwill.data.sources import SourceChoice
from qwill.data.split import HeldOut
from qwill.data.units import text_key

QUESTION = "Which whole number strictly between 539 and 574 can be divided by 6 without a remainder? Give one example."
QUIET = Display(quiet=True)
MIXTURE = MixSettings(weights={"language": {"en": 0.3, "zh": 0.7}}, max_repeats=3)


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
        filters=["units"],
        near=MinHash(bands=20, rows=6, verify=0.7),
        workers=1,
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
    assert reasons["units", "rest"] == 2
    by_step = Counter(row["step"] for row in rejects(tmp_path / "out"))
    assert by_step["exact_duplicates"] == 3
    assert by_step["near_duplicates"] == 2
    (leaked,) = [row for row in rejects(tmp_path / "out") if row["step"] == "decontamination"]
    assert leaked["value"].lower().startswith("questions.jsonl, q1: which whole number strictly between 539 and 574")
    assert {(r.language, r.register) for r in records} >= {("en", "story"), ("zh", "local")}
    assert all(0.65 <= r.scores["language_score"] <= 1 and r.scores["units.units"] >= 10 for r in records)
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
    assert {"funnel.json", "heldout.parquet", "rejects.jsonl", "report.html", "train.parquet"} <= {*names}
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


def same_files(one: Path, other: Path) -> bool:
    names = sorted(path.name for path in one.iterdir())
    return names == sorted(path.name for path in other.iterdir()) and all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in names
    )


def test_a_run_that_was_cut_off_anywhere_goes_on_to_the_same_bytes(
    tmp_path: Path, texts: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_sources(tmp_path / "in", texts)
    run_stage(config, tmp_path / "whole")

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    steps = ("second_pass", "build_index", "hold_out", "write_parts", "write_account", "write_report")
    for number, step in enumerate(steps):
        out, work = tmp_path / f"cut{number}", tmp_path / f"work{number}"
        with monkeypatch.context() as patch:
            patch.setattr(f"qwill.data.corpus.{step}", killed)
            with pytest.raises(KeyboardInterrupt):
                run_stage(config, out, work)
        shutil.rmtree(out)
        with monkeypatch.context() as patch:
            patch.setattr("qwill.data.first_pass.identify_all", killed)  # nothing is judged a second time
            run_stage(config, out, work)
        assert same_files(tmp_path / "whole", out), step
    # A source that changed meanwhile is read anew.
    (tmp_path / "in" / "zh.txt").write_text("\n".join(texts["good_zh"][:30]), encoding="utf-8")
    run_stage(config, tmp_path / "changed", tmp_path / "work0")
    run_stage(config, tmp_path / "afresh")
    assert same_files(tmp_path / "afresh", tmp_path / "changed")


@pytest.mark.parametrize("chunk", [1, 7])
def test_neither_workers_nor_chunks_change_a_byte(
    tmp_path: Path, texts: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    """The chunks' own size is fixed; that documents do not depend on their chunk shows that nothing leaks across."""
    config = replace(write_sources(tmp_path / "in", texts), lines=LineDuplicates(), mixture=MIXTURE)
    run_stage(config, tmp_path / "one")
    run_stage(replace(config, workers=2, memory_mb=64), tmp_path / "two")
    assert same_files(tmp_path / "one", tmp_path / "two")
    monkeypatch.setattr(Source.blocks, "__defaults__", (chunk, 1 << 20))
    run_stage(config, tmp_path / "small")
    assert same_files(tmp_path / "one", tmp_path / "small")


def test_ray_gives_the_same_bytes(tmp_path: Path, texts: dict[str, list[str]]) -> None:
    pytest.importorskip("ray")
    config = write_sources(tmp_path / "in", texts)
    run_stage(config, tmp_path / "one")
    run_stage(replace(config, engine="ray", workers=2), tmp_path / "two")
    assert same_files(tmp_path / "one", tmp_path / "two")


def test_a_mixture_is_met_and_what_it_leaves_out_is_counted(tmp_path: Path, texts: dict[str, list[str]]) -> None:
    config = replace(write_sources(tmp_path / "in", texts), mixture=MIXTURE)
    run_stage(config, tmp_path / "out")
    corpus = CorpusArtifact(tmp_path / "out")
    size: Counter[str] = Counter()
    for record in corpus.records("train"):
        size[record.language] += record.copies * len(record.text.encode())
    assert size["zh"] / size.total() == pytest.approx(0.7, abs=0.02)
    assert max(record.copies for record in corpus.records("train")) <= MIXTURE.max_repeats
    assert all(record.copies == 1 for record in corpus.records("heldout"))
    assert corpus.funnel["mixture"]["budget"] > 0


def test_registers_have_rules_of_their_own(tmp_path: Path, texts: dict[str, list[str]]) -> None:
    config = write_sources(tmp_path / "in", texts)
    strict: dict[str, Any] = {"zh": {"units": {"min_units": 10_000}}}
    run_stage(replace(config, registers={"story": RegisterRules(limits=strict)}), tmp_path / "other")
    run_stage(config, tmp_path / "plain")
    parquets = [(tmp_path / name / "train.parquet").read_bytes() for name in ("other", "plain")]
    assert parquets[0] == parquets[1]  # no story is Chinese
    free = replace(config, registers={"local": RegisterRules(filters=[])})
    run_stage(free, tmp_path / "free")
    texts_of = {name: {r.text for r in CorpusArtifact(tmp_path / name)} for name in ("free", "plain")}
    assert texts_of["free"] - texts_of["plain"] == set(texts["short"])
    wrong = replace(config, registers={"stroy": RegisterRules()})
    with pytest.raises(ConfigError, match=r"registers\.stroy is no register of a source; did you mean story\?"):
        run_stage(wrong, tmp_path / "wrong")


@pytest.mark.parametrize("what", ["keep", "sample", "drop"])
def test_rejects_are_kept_sampled_or_dropped(tmp_path: Path, texts: dict[str, list[str]], what: Any) -> None:
    config = replace(write_sources(tmp_path / "in", texts), rejects=what)
    run_stage(config, tmp_path / "out")
    assert (tmp_path / "out" / "rejects.jsonl").exists() == (what != "drop")
    if what == "keep":
        rows = pq.read_table(tmp_path / "out" / "rejects.parquet").to_pylist()
        steps = CorpusArtifact(tmp_path / "out").funnel["languages"]
        assert len(rows) == sum(step.get("dropped_documents", 0) for own in steps.values() for step in own)
        assert {row["text"] for row in rows} >= {*texts["short"], *texts["french"]}


def test_what_the_mixture_leaves_out_is_kept_too(tmp_path: Path, texts: dict[str, list[str]]) -> None:
    scarce = MixSettings(weights={"language": {"en": 0.9, "zh": 0.1}}, max_repeats=1)
    config = replace(write_sources(tmp_path / "in", texts), mixture=scarce, rejects="keep")
    run_stage(config, tmp_path / "out")
    steps = CorpusArtifact(tmp_path / "out").funnel["languages"]
    dropped = {step["step"]: step["dropped_documents"] for step in steps["zh"] if "dropped_documents" in step}
    rows = pq.read_table(tmp_path / "out" / "rejects.parquet").to_pylist()
    left_out = [row for row in rows if row["step"] == "mixture" and row["language"] == "zh"]
    assert len(left_out) == dropped["mixture"] > 10
    assert {row["text"] for row in left_out} <= set(texts["good_zh"])


def test_a_text_whose_lines_all_go_is_counted_whether_or_not_it_is_redacted(tmp_path: Path) -> None:
    path = tmp_path / "pages.jsonl"
    good = "The old town was visited in the spring. It is one of the oldest here, and people like it."
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in ("so few\nwords here", good)), encoding="utf-8")
    config = CurateConfig(
        sources=[SourceChoice("pages", str(path))],
        languages=["en"],
        language_score=0.0,
        filters=["c4"],
        limits={"en": {"c4": {"min_num_sentences": -1}}},
        redact=None,
        workers=1,
        heldout=HeldOut(share=0, min_bytes=0),
    )
    run_stage(config, tmp_path / "out")
    steps = {step["step"]: step for step in CorpusArtifact(tmp_path / "out").funnel["languages"]["en"]}
    assert steps["c4"]["reasons"] == {"nothing left": 1} and len(CorpusArtifact(tmp_path / "out")) == 1


def test_the_held_out_tasks_are_kept_out(tmp_path: Path, texts: dict[str, list[str]]) -> None:
    config = replace(write_sources(tmp_path / "in", texts), questions=[])
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "heldout.jsonl").write_text(json.dumps({"id": "h1", "prompt": texts["good_en"][5]}), encoding="utf-8")
    run_stage(config, tmp_path / "out", tasks=tasks)
    assert [row["value"].split(":")[0] for row in rejects(tmp_path / "out") if row["step"] == "decontamination"] == [
        "heldout.jsonl, h1"
    ]


def test_a_corpus_without_a_language_is_refused(tmp_path: Path, texts: dict[str, list[str]]) -> None:
    config = write_sources(tmp_path / "in", texts)
    only = replace(config, sources=[choice for choice in config.sources if choice.name == "english"])
    sentence = r"no Chinese document left after curation; add a source of it, or set .* to \[en\]\.$"
    with pytest.raises(DataError, match=sentence):
        run_stage(only, tmp_path / "out")
    strict: dict[str, Any] = {code: {"units": {"min_units": 10_000}} for code in ("en", "zh")}
    with pytest.raises(DataError, match=r"left after curation \([0-9]+ of the [0-9]+ that went: units, too short\);"):
        run_stage(replace(config, limits=strict), tmp_path / "strict")
    run_stage(replace(only, languages=["en"]), tmp_path / "out")
    assert {r.language for r in CorpusArtifact(tmp_path / "out")} == {"en"}
    (tmp_path / "in" / "en.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(DataError, match=r"sources hold no document; see to their paths"):
        run_stage(only, tmp_path / "empty")


def test_bad_input_is_one_sentence(tmp_path: Path, texts: dict[str, list[str]]) -> None:
    config = write_sources(tmp_path / "in", texts)
    (tmp_path / "in" / "page.docx").write_text("<p>", encoding="utf-8")
    wrong: dict[str, tuple[type[Exception], list[SourceChoice]]] = {
        r"gone\.txt cannot be read \(No such file": (DataError, [SourceChoice("a", str(tmp_path / "gone.txt"))]),
        r"page\.docx ends in .*; expected \.jsonl": (
            DataError,
            [SourceChoice("a", str(tmp_path / "in" / "page.docx"))],
        ),
        r"'bolq' is no source and has no path; did you mean boolq\?": (ConfigError, [SourceChoice("bolq")]),
        r"names 'a' twice": (ConfigError, [SourceChoice("a", "x.txt"), SourceChoice("a", "y.txt")]),
        r"corpus\.sources is empty": (ConfigError, []),
    }
    for message, (kind, sources) in wrong.items():
        with pytest.raises(kind, match=message) as caught:
            run_stage(replace(config, sources=sources), tmp_path / "out")
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"corpus\.language is not a setting; did you mean languages"):
        parse(CurateConfig, {"language": ["en"]}, "corpus")
    wrong_limit = replace(config, limits={"en": {"units": {"min_unit": 3}}})
    with pytest.raises(ConfigError, match=r"limits\.en\.units\.min_unit is not a setting; did you mean min_units\?"):
        run_stage(wrong_limit, tmp_path / "out")


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


def test_importing_the_room_is_light() -> None:
    code = "import sys, qwill.data; print([m for m in ('numpy', 'torch', 'pyarrow', 'ftfy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
