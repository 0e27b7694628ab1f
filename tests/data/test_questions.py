import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from qwill.base.errors import DataError
from qwill.data.questions import Question, read_questions


def test_questions_are_read_from_rows_of_several_kinds(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text('{"id": "a", "prompt": "P", "key": "k"}\n\n{"question": "Q"}\n{"text": "T"}\n', encoding="utf-8")
    assert read_questions([path]) == [
        Question("a", "P", "k", "questions.jsonl"),
        Question("questions.jsonl:3", "Q", None, "questions.jsonl"),
        Question("questions.jsonl:4", "T", None, "questions.jsonl"),
    ]
    path.write_text('{"prompt": "P"}\n{"answer": "A"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"questions\.jsonl: line 2 has no text under prompt, question, text"):
        read_questions([path])


def test_every_kind_of_file_gives_the_same_questions(tmp_path: Path) -> None:
    rows = [
        {"question": "What is two?", "choices": ["one and one", "three"]},
        {"question": "谁写了红楼梦？", "choices": []},
    ]
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()
    (tmp_path / "a.jsonl").write_bytes(lines)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "c.jsonl.zst").write_bytes(zstandard.compress(lines))
    (tmp_path / "d.json").write_text(json.dumps(rows), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "e.parquet")
    (tmp_path / "notes.md").write_text("not read in a folder")
    every = read_questions([tmp_path])
    assert len(every) == 20
    for name in ("a.jsonl", "b.jsonl.gz", "c.jsonl.zst", "d.json", "e.parquet"):
        own = read_questions([tmp_path / name])
        assert [q for q in every if q.set == name] == own
        assert [(q.id, q.text, q.part) for q in own] == [
            (f"{name}:1", "What is two?", "question"),
            (f"{name}:1", "one and one", "choices 1"),
            (f"{name}:1", "three", "choices 2"),
            (f"{name}:2", "谁写了红楼梦？", "question"),
        ]


def test_plain_text_has_a_question_a_line_and_messages_are_what_the_user_says(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One?\n\nTwo?\n")
    assert [(q.id, q.text) for q in read_questions([tmp_path / "a.txt"])] == [("a.txt:1", "One?"), ("a.txt:3", "Two?")]
    row = {
        "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}],
        "answers": {"text": ["A"]},
    }
    (tmp_path / "b.jsonl").write_text(json.dumps(row))
    assert [(q.text, q.part) for q in read_questions([tmp_path / "b.jsonl"])] == [("U", "question"), ("A", "answers 1")]


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.csv", b"x", "not a kind of file that holds evaluation sets"),
        ("a.jsonl.gz", b"x", "cannot be read"),
        ("a.json", b"{}", "expected a JSON list of objects"),
        ("a.json", b"[1", "line 1 is not valid JSON"),
        ("a.txt", b"\xff\xff", "not UTF-8"),
        ("a.parquet", b"PAR1", "not a sound Parquet file"),
        ("a.jsonl.gz", gzip.compress(b"[1]", mtime=0), "line 1 holds list"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=rf"{name}: .*{says}"):
        read_questions([tmp_path / name])


def test_a_folder_without_sets_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no evaluation set in this folder"):
        read_questions([tmp_path])
