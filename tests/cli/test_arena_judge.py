"""`qwill arena judge`: replies, judgements and votes in a folder, twice the same, and each wrong input one sentence."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.engine.tiny import chat_model

from qwill.cli.main import main
from qwill.model import save_model

PROMPTS = [
    {"id": "p1", "prompt": "Name three colours."},
    {"id": 2, "prompt": "说出三种颜色。"},
    {"prompt": "Which is larger, 3 or 4?", "language": "en"},
    {"id": "p4", "messages": [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"},
                              {"role": "user", "content": "And 2 + 2?"}]},
    *({"prompt": f"Count to {n}."} for n in range(3, 9)),
]  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("one", "two", "judge")):
        lm = chat_model(4000, seed)
        save_model(lm.model, folder / name, lm.tokenizer)
    return folder


def write(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_two_models_are_judged_and_a_second_run_asks_nothing(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    prompts = write(tmp_path / "prompts.jsonl", PROMPTS)
    command = [
        "arena", "judge", str(models / "one"), str(models / "two"), "--prompts", prompts,
        "--judge", str(models / "judge"), "--max-tokens", "12", "--slots", "4",
    ]  # fmt: skip
    assert main([*command, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    folder = Path(summary["folder"])
    assert folder == Path("runs/judge/one-two")
    assert summary["judged"] == summary["pairs"] == len(PROMPTS)
    assert summary["win_rate"]["mean"] == pytest.approx((summary["wins"] + summary["ties"] / 2) / len(PROMPTS))
    assert set(summary["languages"]) == {"en", "zh"}
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    names = {"replies-a.jsonl", "replies-b.jsonl", "judgements.jsonl", "votes.jsonl", "summary.json"}
    assert set(files) == names
    assert files["judgements.jsonl"].count(b"\n") == 2 * len(PROMPTS)

    def never(*given: Any, **named: Any) -> Any:
        raise AssertionError("asked again")

    monkeypatch.setattr("qwill.engine.language_model.load", never)
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == summary
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    assert main(["arena", "rate", str(folder / "votes.jsonl"), "--prior", "0.1", "--json"]) == 0
    rated = json.loads(capsys.readouterr().out)
    assert {row["model"] for row in rated["ratings"]} == {"one", "two"}
    assert main([*command, "--limit", "5", "--weighted"]) == 0
    shown = capsys.readouterr().out
    assert "one against two: 5 of 5 pairs judged by judge" in shown and "position" in shown
    # Another model in the same place is asked anew.
    lm = chat_model(4000, 7)
    save_model(lm.model, models / "judge", lm.tokenizer)
    with pytest.raises(AssertionError, match="asked again"):
        main(command)


def test_replies_from_files_and_votes_of_people(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    prompts = write(tmp_path / "prompts.jsonl", PROMPTS)
    a = write(tmp_path / "short.jsonl", [{**row, "reply": f"short {i}"} for i, row in enumerate(PROMPTS)])
    # As alpaca_eval writes it: one list, `instruction` and `output`.
    rows = [{"instruction": row.get("prompt", ""), "prompt_id": row.get("id"), "output": "long " * i}
            for i, row in enumerate(PROMPTS)]  # fmt: skip
    (tmp_path / "long.json").write_text(json.dumps(rows))
    votes = [
        {"prompt_id": "p1", "model_a": "short", "model_b": "long", "outcome": "a"},
        {"prompt_id": "2", "model_a": "long", "model_b": "short", "outcome": "a"},
        {"prompt": "Count to 4.", "model_a": "short", "model_b": "long", "winner": "tie"},
        {"prompt": "Count to 5.", "model_a": "short", "model_b": "other", "winner": "tie"},
    ]
    command = ["arena", "judge", a, "long.json", "--prompts", prompts, "--judge", str(models / "judge")]
    human = write(tmp_path / "votes.jsonl", votes)
    assert main([*command, "--human", human, "--bootstrap", "20", "--out", "judged", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    kappa = summary["agreement"]["kappa"]
    assert kappa["n"] == 3 and [sum(column) for column in zip(*kappa["table"], strict=True)] == [1, 1, 1]
    assert summary["model_a"] == "short" and summary["model_b"] == "long"
    assert main([*command, "--human", human, "--out", "judged"]) == 0
    assert "κ" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "there are no prompts in it"),
        ([{"prompt": ""}], "line 1: the prompt is empty"),
        ([{"prompt": "x"}, {"text": "y"}], "line 2: 'prompt' is missing"),
        ([{"prompt": 3}], "line 1: 'prompt' is 3"),
        ([{"prompt": "x", "id": [1]}], "line 1: 'id' is [1]"),
        ([{"prompt": "x", "id": 1}, {"prompt": "y", "id": "1"}], "line 2 has the id '1' of"),
        ([{"prompt": "x"}, {"prompt": "x"}], "give each prompt its own"),
        ([{"messages": []}], "line 1: 'messages' must be a list"),
        ([{"messages": [{"role": "assistant", "content": "x"}]}], "line 1: 'messages' must be a list"),
        ([{"prompt": "x", "language": 3}], "line 1: 'language' is 3"),
        ([3], "line 1 holds int"),
    ],
)
def test_bad_prompts(tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: list[Any], says: str) -> None:
    prompts = write(tmp_path / "prompts.jsonl", rows)
    assert main(["arena", "judge", "a.jsonl", "b.jsonl", "--prompts", prompts, "--judge", "nobody"]) == 2
    assert says in capsys.readouterr().err and not (tmp_path / "runs").exists()


def test_bad_words(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    prompts = write(tmp_path / "prompts.jsonl", PROMPTS[:2])
    replies = write(tmp_path / "a.jsonl", [{**row, "reply": "x"} for row in PROMPTS[:2]])
    lacking = write(tmp_path / "b.jsonl", [{**PROMPTS[0], "reply": "x"}])
    wrong = write(tmp_path / "c.jsonl", [{**PROMPTS[0], "reply": None}])
    elsewhere = write(tmp_path / "v.jsonl", [{"model_a": "a", "model_b": "z", "outcome": 1}])
    unclear = write(tmp_path / "w.jsonl", [{"model_a": "a", "model_b": "d", "outcome": "A wins"}])
    good = write(tmp_path / "d.jsonl", [{**row, "reply": "y"} for row in PROMPTS[:2]])
    judge = ["--judge", str(models / "judge")]
    for words, says in (
        ([replies, replies, *judge], "both models are called 'a'"),
        ([replies, good, *judge, "--names", "x"], "expected two names"),
        ([replies, lacking, *judge], "there is no reply to the prompt '2'"),
        ([replies, wrong, *judge], "line 1: 'reply' is missing"),
        ([replies, good, "--judge", "nobody-knows"], "nobody-knows"),
        ([replies, good, "--judge", "http://127.0.0.1:9/v1#m", "--key-env", "NO_SUCH_KEY"], "NO_SUCH_KEY"),
        ([replies, good, "--judge", "http://127.0.0.1:9/v1"], "can't be reached"),
        ([replies, "nothing.jsonl", *judge], "nothing.jsonl"),
        ([replies, good, *judge, "--human", elsewhere], "there is no vote on a and d"),
        ([replies, good, *judge, "--human", unclear], "line 1: 'outcome' is \"A wins\""),
        ([replies, good, *judge, "--out", replies], "is a file"),
    ):
        assert main(["arena", "judge", *words, "--prompts", prompts]) == 2, words
        error = capsys.readouterr().err
        assert says in error and error.count("\n") == 1, (words, error)
