"""Task files: what they mean, and one sentence for each that means nothing."""

import json

import pytest

from qwill.base.errors import ConfigError, DataError, QwillError, SourceError
from qwill.evaluate import hub_rows
from qwill.evaluate.task import Task, load_examples, load_task

CHOICE = {
    "name": "t", "source": {"jsonl": "t.jsonl"}, "kind": "choice", "prompt": "Q: {{ q }}",
    "choices": "{{ options }}", "answer": "{{ right }}",
}  # fmt: skip
REPLY = {"name": "t", "source": {"jsonl": "t.jsonl"}, "kind": "generate", "prompt": "{{ q }}", "answer": "{{ a }}"}


def written(folder, settings, rows):
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    (folder / "t.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    path = folder / "t.yaml"
    path.write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")  # JSON is YAML
    return path


def examples(folder, settings, rows):
    return load_examples(load_task(written(folder, settings, rows)))


@pytest.mark.parametrize(
    ("right", "gold"), [(1, (1,)), ("1", (1,)), ([0, 2], (0, 2)), ("green", (1,)), (["2", "blue"], (2, 0))]
)
def test_what_is_right_can_be_said_in_many_ways(tmp_path, right, gold):
    (one,) = examples(tmp_path, CHOICE, [{"q": "?", "options": ["blue", "green", "red"], "right": right}])
    assert (one.gold, one.answer) == (gold, ("blue", "green", "red")[gold[0]])
    assert (one.prompt, one.choices) == ("Q: ?", ("blue", "green", "red"))


def test_templates_of_choices_and_constants(tmp_path):
    settings = CHOICE | {"choices": ["{{ a }}", "not {{ a | upper }}"], "answer": 0, "prompt": ""}
    (one,) = examples(tmp_path, settings, [{"a": "x"}])
    assert (one.choices, one.gold, one.prompt) == (("x", "not X"), (0,), "")


def test_a_reference_keeps_its_form(tmp_path):
    given = [{"q": "?", "a": a} for a in ("text", 7, ["one", "two"], {"f": [1, 2]})]
    assert [one.answer for one in examples(tmp_path, REPLY, given)] == ["text", 7, ["one", "two"], {"f": [1, 2]}]
    (told,) = examples(tmp_path, REPLY | {"answer": "{{ q }}{{ a }}"}, [{"q": "?", "a": 7}])
    assert told.answer == "?7"


def test_what_an_example_is_called(tmp_path):
    rows = [{"q": "a", "a": "b", "language": "zh", "topic": "x", "passage": 3, "key": "k1"}, {"q": "c", "a": "d"}]
    first, second = examples(tmp_path, REPLY | {"languages": ["en", "zh"]}, rows)
    assert (first.id, first.language, second.id, second.language) == ("0", "zh", "1", "en")
    more = {"id": "{{ key }}", "category": "{{ topic }}", "cluster": "{{ passage }}", "languages": ["zh"]}
    (named,) = examples(tmp_path, REPLY | more, rows[:1])
    assert (named.id, named.category, named.cluster) == ("k1", "x", "3")


def test_limits_and_draws(tmp_path):
    path = written(tmp_path, REPLY, [{"q": str(i), "a": "x"} for i in range(50)])
    task = load_task(path)
    assert [one.id for one in load_examples(task, 3)] == ["0", "1", "2"]
    drawn = [int(one.id) for one in load_examples(task, 10, seed=1)]
    assert drawn == sorted(drawn) != list(range(10))
    assert drawn == [int(one.id) for one in load_examples(task, 10, seed=1)]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (CHOICE | {"answer": None}, "answer is missing"),
        (REPLY | {"answer": None}, "answer is missing; the scorer exact"),
        (REPLY | {"prompt": ""}, "prompt is missing"),
        (CHOICE | {"choices": ["one"]}, "two or more"),
        (CHOICE | {"choices": ""}, "two or more"),
        (CHOICE | {"metrics": ["accuracy"]}, "metrics names 'accuracy'; expected one of acc, acc_bytes"),
        (CHOICE | {"metrics": ["acc_nom"]}, "did you mean acc_norm"),
        (CHOICE | {"metrics": []}, "metrics is empty"),
        (REPLY | {"choices": ["a", "b"]}, "belongs to kind: choice"),
        (CHOICE | {"kind": "choise"}, "one of choice, generate"),
        (CHOICE | {"promt": "x"}, "did you mean prompt"),
        (CHOICE | {"source": {}}, "source names no examples"),
        (CHOICE | {"source": {"jsonl": "a", "hub": "b"}}, "source names no examples"),
        (CHOICE | {"prompt": "{{ q"}, "prompt: line 1 of the template"),
        (CHOICE | {"choices": ["{% if %}", "x"]}, r"choices\[0\]: line 1"),
        (REPLY | {"generate": {"stop": [""]}}, "stop holds an empty text"),
        (REPLY | {"generate": {"max_tokens": 0}}, "max_tokens is 0"),
        (CHOICE | {"shots": {"count": -1}}, "shots.count is -1"),
        (CHOICE | {"languages": []}, "languages is empty"),
        (CHOICE | {"folder": "/"}, "folder is not a setting"),
    ],
)
def test_files_that_are_none(tmp_path, settings, says):
    path = written(tmp_path, settings, [])
    with pytest.raises(ConfigError, match=says) as caught:
        load_task(path)
    assert str(path) in str(caught.value)


GOOD = {"q": "?", "options": ["a", "b"], "right": 0}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"q": "?", "options": ["a", "b"]}, "answer can't be rendered: 'right' is undefined"),
        (GOOD | {"right": 2}, "its answer is 2; expected an index from 0 to 1"),
        (GOOD | {"right": -1}, "its answer is -1"),
        (GOOD | {"right": True}, "its answer is True"),
        (GOOD | {"right": "c"}, "its answer is 'c'"),
        (GOOD | {"right": None}, "its answer is None"),
        (GOOD | {"right": []}, "an empty list"),
        (GOOD | {"options": ["a"]}, "1 choices"),
        (GOOD | {"options": ["a", ""]}, "choice 1 is empty"),
        (GOOD | {"options": "ab"}, "expected a list of texts"),
        (GOOD | {"options": ["a", 1]}, "expected a list of texts"),
        (GOOD | {"language": "xx"}, "its language is 'xx'"),
        ("{broken", "not valid JSON"),
        ("[1]", "expected a JSON object"),
    ],
)
def test_examples_that_are_none(tmp_path, row, says):
    with pytest.raises(DataError, match=says) as caught:
        examples(tmp_path, CHOICE, [GOOD, row])
    assert "t.jsonl" in str(caught.value) and "line 2" in str(caught.value)


def test_what_is_wrong_with_all_of_them(tmp_path):
    with pytest.raises(DataError, match="holds no example"):
        examples(tmp_path, CHOICE, [""])
    with pytest.raises(DataError, match=r"line 2: its id 'k' is also that of .*line 1"):
        examples(tmp_path, CHOICE | {"id": "k"}, [GOOD, GOOD])
    with pytest.raises(DataError, match="its answer is empty"):
        examples(tmp_path, REPLY, [{"q": "?", "a": ""}])
    with pytest.raises(DataError, match="cannot be read"):
        load_examples(load_task(written(tmp_path, CHOICE | {"source": {"jsonl": "none.jsonl"}}, [])))
    with pytest.raises(ConfigError, match=r"source\.split is not a setting"):
        load_examples(load_task(written(tmp_path, CHOICE | {"source": {"jsonl": "t.jsonl", "split": "x"}}, [])))
    with pytest.raises(ConfigError, match=r"there is no task 'nothing_like_it'.*ends in \.yaml"):
        load_task("nothing_like_it")


@pytest.mark.parametrize("template", ["{{ q.__class__.__mro__ }}", "{{ q / 0 }}", "{{ q[0][0][9] }}", "{{ q + 1 }}"])
def test_templates_cannot_leave_their_sandbox_or_crash(tmp_path, template):
    """Whatever goes wrong in a template is an error of ours that names the line."""
    try:
        (one,) = examples(tmp_path, REPLY | {"prompt": template}, [{"q": "text", "a": "x"}])
    except QwillError as error:
        assert "line 1: prompt" in str(error)
    else:
        assert "object" not in one.prompt


def test_a_hub_data_set(tmp_path, monkeypatch):
    import pyarrow
    import pyarrow.parquet

    for part in range(2):
        folder = tmp_path / "main" / "test"
        folder.mkdir(parents=True, exist_ok=True)
        rows = [{"q": f"{part}{i}", "a": "x"} for i in range(3)]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"{part:04}.parquet")
    asked = []

    def snapshot_download(name, **settings):
        asked.append((name, settings))
        if name == "no/net":
            raise OSError("Name or service not known\nand more")
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    settings = REPLY | {"source": {"hub": "some/set", "config": "main"}}
    found = load_examples(Task(**settings))
    assert [one.prompt for one in found] == ["00", "01", "02", "10", "11", "12"]
    assert asked[0][1]["allow_patterns"] == "main/test/*.parquet" and asked[0][1]["repo_type"] == "dataset"
    with pytest.raises(SourceError, match=r"task t: some/set has no main/dev"):
        load_examples(Task(**settings | {"source": {"hub": "some/set", "config": "main", "split": "dev"}}))
    with pytest.raises(SourceError, match=r"no/net can't be had .*\(Name or service not known\)"):
        load_examples(Task(**settings | {"source": {"hub": "no/net"}}))
    (tmp_path / "main" / "test" / "0001.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(SourceError, match="can't be read"):
        list(hub_rows.hub_rows({"hub": "some/set", "config": "main"}, "t"))
