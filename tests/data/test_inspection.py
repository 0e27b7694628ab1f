"""What `qwill curate inspect` says of a document, against the documents that the corpus was made from."""

from pathlib import Path

import pyarrow as pa
import pytest
from tests.data.made_up_corpus import STEPS, limits_of_part, write_corpus_files

from qwill.base.errors import DataError
from qwill.base.files import write_jsonl
from qwill.data.documents import Document, corpus_schema
from qwill.data.finish import write_corpus_file
from qwill.data.inspection import inspect


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Document]]:
    folder = tmp_path_factory.mktemp("corpus")
    made = write_corpus_files(folder)
    kept = [document for document in made if document.reject is None]
    names = sorted(kept[0].scores)
    for split, documents in (("train", kept[:-5]), ("heldout", kept[-5:])):
        rows = [
            {"id": d.id, "text": d.text, "source": d.source, "language": d.language, "register": d.register}
            | {"scores": d.scores, "labels": [("url", "https://example.org/")], "copies": 1}
            for d in documents
        ]
        table = pa.Table.from_pylist(rows, schema=corpus_schema(names))
        write_corpus_file(folder / f"{split}.parquet", iter([table]), names)
    return folder, made


def sampled(corpus: Path, step: str) -> str:
    from qwill.base.files import read_jsonl

    return next(row["id"] for _, row in read_jsonl(corpus / "rejects.jsonl") if row["step"] == step)


def test_a_kept_document_passed_every_step(corpus: tuple[Path, list[Document]]) -> None:
    kept = [document for document in corpus[1] if document.reject is None]
    for document, split in ((kept[0], "train"), (kept[-1], "heldout")):
        found = inspect(corpus[0], document.id)
        assert (found["fate"], found["text"], found["labels"]) == (
            split,
            document.text,
            {"url": "https://example.org/"},
        )
        assert [(step["step"], step["decision"]) for step in found["steps"]] == [(step, "passed") for step in STEPS]
        judged = {row["name"]: row for step in found["steps"] for row in step["values"]}
        assert {name: row["value"] for name, row in judged.items()} | found["other_scores"] == document.scores
        for name, limit in limits_of_part(document.language, document.register).items():
            assert (judged[name]["least"], judged[name]["most"], judged[name]["fails"]) == (
                limit.least,
                limit.most,
                False,
            )


def test_a_reject_shows_the_step_that_dropped_it_and_what_came_after(corpus: tuple[Path, list[Document]]) -> None:
    identity = sampled(corpus[0], "fineweb")
    document = next(document for document in corpus[1] if document.id == identity)
    assert document.reject is not None
    found = inspect(corpus[0], identity)
    assert (found["fate"], found["step"], found["value"]) == ("dropped", "fineweb", document.reject.value)
    decisions = [step["decision"] for step in found["steps"]]
    place = STEPS.index("fineweb")
    assert decisions == ["passed"] * place + ["dropped"] + ["not reached"] * (len(STEPS) - place - 1)
    failing = [row["name"] for step in found["steps"] for row in step["values"] if row["fails"]]
    assert any(name.startswith("fineweb.") for name in failing)
    assert not any(name.startswith("gopher_quality.") for name in failing)


def test_a_reject_that_only_the_report_samples_is_found_there(tmp_path: Path) -> None:
    made = write_corpus_files(tmp_path)
    write_jsonl(tmp_path / "rejects.jsonl", [])
    found = 0
    for document in made:
        try:
            shown = inspect(tmp_path, document.id)
        except DataError:
            continue
        found += 1
        assert document.reject is not None and shown["step"] == document.reject.step
        assert (shown["fate"], shown["language"]) == ("dropped", document.language)
    assert found > 100


def test_a_rejects_file_with_everything_is_looked_into(tmp_path: Path) -> None:
    write_corpus_files(tmp_path)
    row = {
        "id": "w/7",
        "source": "w",
        "language": "en",
        "register": "web",
        "step": "fineweb",
        "reason": "x",
        "value": "0.1",
    }
    row |= {"text": "whole", "bytes": 5, "scores": [("fineweb.line_punct_ratio", 0.1)]}  # type: ignore[dict-item]
    texts = [
        (name, pa.string()) for name in ("id", "source", "language", "register", "step", "reason", "value", "text")
    ]
    schema = pa.schema([*texts, ("bytes", pa.int64()), ("scores", pa.map_(pa.string(), pa.float64()))])
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist([row], schema=schema), tmp_path / "rejects.parquet")
    found = inspect(tmp_path, "w/7")
    assert (found["text"], found["scores"]) == ("whole", {"fineweb.line_punct_ratio": 0.1})


def test_duplicates_questions_and_pages_that_name_it_are_shown(corpus: tuple[Path, list[Document]]) -> None:
    kept = next(document.id for document in corpus[1] if document.reject is None)
    write_jsonl(corpus[0] / "leaks.jsonl", [{"id": kept, "span": "the tide"}, {"id": "another", "span": "x"}])
    duplicate = {"id": kept, "source": "s", "text": "t", "similarity": 0.9}
    cluster = {
        "step": "near_duplicates",
        "size": 2,
        "language": "en",
        "kept": duplicate | {"id": "k"},
        "dropped": [duplicate],
    }
    write_jsonl(corpus[0] / "clusters.jsonl", [cluster, cluster | {"dropped": []}])
    found = inspect(corpus[0], kept)
    assert found["leaks"] == [{"id": kept, "span": "the tide"}]
    assert found["clusters"] == [cluster]
    assert found["extraction"] is None


def test_an_unknown_document_or_folder_is_one_sentence(corpus: tuple[Path, list[Document]], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"knows nothing of 'nowhere'; only a sample .* An id looks like "):
        inspect(corpus[0], "nowhere")
    with pytest.raises(DataError, match="funnel"):
        inspect(tmp_path, "webs/0000001")
