import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow
import pytest
import torch
from pyarrow import parquet

from qwill.base.errors import ConfigError, DataError
from qwill.base.files import read_json, read_jsonl, write_jsonl
from qwill.base.progress import Display
from qwill.base.stage import StageContext
from qwill.engine.sampler import Sampling
from qwill.evaluate.results import ResultsConfig, grade, heldout_documents, reply_to, run
from qwill.evaluate.task_data import TasksConfig, make_tasks
from qwill.model import ModelConfig, Transformer, load_model, save_model
from qwill.model.initial import init_weights
from qwill.text.tokenizer import Tokenizer
from qwill.text.train_tokenizer import train

TEXTS = {"en": ["The first number is 12 and the second is 34.", "Name one."], "zh": ["第一个数是12。", "写一个数。"]}
CONFIG = ResultsConfig(
    models=["base", "sft"],
    sampled_problems=3,
    samples=2,
    max_tokens=4,
    conversation_tokens=5,
    heldout_documents=2,
    window=32,
    conversations={"en": ["Hello"], "zh": ["你好"]},
)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two random tiny models, six held-out problems for each language, and a corpus of four documents."""
    root = tmp_path_factory.mktemp("inputs")
    tokenizer = train([text for texts in TEXTS.values() for text in texts], 300)
    for seed, name in enumerate(("base", "sft")):
        config = ModelConfig(
            model_type="qwen3_moe",
            vocab_size=tokenizer.padded_vocab_size,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            intermediate_size=48,
            num_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=24,
            max_position_embeddings=256,
        )
        model = Transformer(config)
        init_weights(model, torch.Generator().manual_seed(seed))
        (root / name).mkdir()
        save_model(model, root / name, tokenizer)
    (root / "tasks").mkdir()
    tasks = make_tasks(TasksConfig(demonstrations=6, rl=6, heldout=6), seed=0)
    write_jsonl(root / "tasks" / "heldout.jsonl", tasks["heldout"])
    (root / "corpus").mkdir()
    pairs = [(text, language) for language, texts in TEXTS.items() for text in texts]
    table = pyarrow.table({"text": [text for text, _ in pairs], "language": [language for _, language in pairs]})
    parquet.write_table(table, root / "corpus" / "heldout.parquet")
    return {path.name: path for path in root.iterdir()}


def context(inputs: dict[str, Path], folder: Path) -> StageContext:
    for name in ("out", "work"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    quiet = Display(live=False, quiet=True)
    return StageContext(folder / "out", folder / "work", inputs, 0, 1, quiet, None, folder / "metrics.jsonl")


def test_every_reply_is_kept_and_graded(inputs: dict[str, Path], tmp_path: Path) -> None:
    metrics = run(CONFIG, context(inputs, tmp_path))
    rows = [row for _, row in read_jsonl(tmp_path / "out" / "results.jsonl")]
    count = {kind: sum(row["kind"] == kind for row in rows) for kind in ("greedy", "sampled", "conversation")}
    assert count == {"greedy": 2 * 2 * 6, "sampled": 2 * 2 * 3, "conversation": 2 * 2}
    assert all(len(row["replies"]) == (2 if row["kind"] == "sampled" else 1) for row in rows)
    summary = read_json(tmp_path / "out" / "summary.json")
    assert summary["accuracy"]["sft"]["zh"]["all"]["total"] == 6
    assert [(c["before"], c["after"]) for c in summary["comparisons"]] == [("base", "sft")] * 2
    bits = summary["bits_per_byte"]["base"]["zh"]
    assert bits["documents"] == 2 and 1 < bits["value"] < 10
    assert metrics["accuracy_sft_en"] == summary["accuracy"]["sft"]["en"]["all"]["accuracy"]
    problems = {name: {row["key"] for row in rows if row.get("language") == name and "key" in row} for name in TEXTS}
    assert problems["en"] == problems["zh"]


def test_an_interrupted_run_goes_on_and_ends_the_same(inputs: dict[str, Path], tmp_path: Path) -> None:
    whole, cut = context(inputs, tmp_path / "whole"), context(inputs, tmp_path / "cut")
    run(CONFIG, whole)
    # As if killed after the first model: its answers are in work, and asking it again is not possible.
    shutil.copy(whole.work / "base.jsonl", cut.work)
    gone = inputs | {"base": tmp_path / "nowhere"}
    run(CONFIG, replace(cut, inputs=gone))
    for name in ("results.jsonl", "summary.json"):
        assert (whole.out / name).read_bytes() == (cut.out / name).read_bytes()


def test_a_reply_does_not_depend_on_what_else_is_asked(inputs: dict[str, Path]) -> None:
    model, tokenizer = load_model(inputs["sft"]), Tokenizer.load(inputs["sft"])
    sampling = Sampling(max_tokens=5, temperature=1.0)
    alone = reply_to(model, tokenizer, ["Name one."], sampling, n=3, seed=4)
    together = reply_to(model, tokenizer, ["Name one.", "写一个数。", "Hello"], sampling, n=3, slots=2, seed=4)
    assert together[0] == alone[0]
    assert len(set(reply_to(model, tokenizer, ["Name one."], sampling, n=8, seed=4)[0])) > 1


def test_grading_uses_the_verifier() -> None:
    task = {"id": "1", "family": "split", "language": "en", "prompt": "?", "key": "split:30"}
    row = grade("sft", "sampled", task, ["10 and 20", "10 and 21", "30"])
    assert row["correct"] == [True, False, False] and row["model"] == "sft"


def test_documents_of_every_language_of_the_corpus_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "heldout.parquet"
    rows = [("ar", "ا"), ("zh", "一"), ("en", "a"), ("ar", "ب"), ("zh", "二"), ("zh", "三"), ("fr", "é")]
    parquet.write_table(pyarrow.table({"text": [t for _, t in rows], "language": [c for c, _ in rows]}), path)
    found = heldout_documents(path, 2)
    assert list(found.items()) == [("en", ["a"]), ("zh", ["一", "二"]), ("ar", ["ا", "ب"]), ("fr", ["é"])]


def test_a_corpus_without_held_out_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "heldout.parquet"
    parquet.write_table(pyarrow.table({"text": pyarrow.array([], pyarrow.string()), "language": []}), path)
    with pytest.raises(DataError, match=r"heldout\.parquet has no document"):
        heldout_documents(path, 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": []}, "results.models is empty"),
        ({"models": ["alinged"]}, "'alinged'"),
        ({"samples": 0}, "results.samples"),
        ({"problems": -1}, "results.problems"),
        ({"temperature": 0.0}, "results.temperature"),
    ],
)
def test_bad_configuration_is_named(inputs: dict[str, Path], tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(replace(CONFIG, **change), context(inputs, tmp_path))


def test_problems_of_one_language_are_refused(inputs: dict[str, Path], tmp_path: Path) -> None:
    rows = [row for _, row in read_jsonl(inputs["tasks"] / "heldout.jsonl") if row["language"] == "en"]
    write_jsonl(tmp_path / "heldout.jsonl", rows)
    with pytest.raises(DataError, match="no problem in 'zh'"):
        run(CONFIG, context(inputs | {"tasks": tmp_path}, tmp_path / "run"))
