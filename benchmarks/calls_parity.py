"""BFCL's questions about functions of Java and JavaScript: our scorer against the leaderboard's own checker.

    .venv/bin/python benchmarks/calls_parity.py [--dry]

Right answers are written in the language from what the questions allow, then changed one argument at a time. The
checker comes out of bfcl-eval's archive as it is; its list of models, which it asks only whether names have dots, is
left out.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
import types
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from compare import verdict, write_section

from qwill.base.packages import open_member
from qwill.evaluate.call_scorer import Syntax, compare_calls
from qwill.evaluate.task_sources import BFCL, read_calls

PARTS = (
    "constants/type_mappings.py", "constants/enums.py", "eval_checker/ast_eval/ast_checker.py",
    "eval_checker/ast_eval/type_convertor/java_type_converter.py",
    "eval_checker/ast_eval/type_convertor/js_type_converter.py",
)  # fmt: skip


def their_checker(folder: str) -> tuple[Any, Any]:
    with zipfile.ZipFile(BFCL.archive()) as archive:
        for part in PARTS:
            archive.extract(f"bfcl_eval/{part}", folder)
    sys.path.append(folder)

    class Models(dict[str, Any]):
        def __missing__(self, name: str) -> Any:
            return types.SimpleNamespace(underscore_to_dot=False)

    models = types.ModuleType("bfcl_eval.constants.model_config")
    models.MODEL_CONFIG_MAPPING = Models()  # type: ignore[attr-defined]
    sys.modules[models.__name__] = models
    checker = importlib.import_module("bfcl_eval.eval_checker.ast_eval.ast_checker")
    return checker.ast_checker, importlib.import_module("bfcl_eval.constants.enums").Language


def literal(value: Any, java: bool) -> str:
    if isinstance(value, list):
        inside = ", ".join(literal(one, java) for one in value)
        return f"new Object[]{{{inside}}}" if java else f"[{inside}]"
    if isinstance(value, dict):
        return written(value, java, "HashMap", "")
    return json.dumps(value) if isinstance(value, str) else str(value).lower() if value in (True, False) else str(value)


def written(value: Any, java: bool, kind: str, item: str) -> str:
    """An allowed value as its language writes it; a text as it is, for it may be a variable."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        chosen = {k: options[0] if isinstance(options, list) else options for k, options in value.items()}
        pairs = [(k, literal(one, java)) for k, one in chosen.items() if one != ""]
        if java:
            puts = " ".join(f'put("{k}", {v});' for k, v in pairs)
            return f"new HashMap<String, Object>() {{{{ {puts} }}}}"
        return f"{{{', '.join(f'{k}: {v}' for k, v in pairs)}}}"
    if isinstance(value, list):
        inside = ", ".join(literal(one, java) + ("L" if item == "long" else "") for one in value)
        if not java:
            return f"[{inside}]"
        if kind == "ArrayList":
            return f"new ArrayList<>(Arrays.asList({inside}))"
        return f"new {dict(integer='int', any='Object').get(item, item)}[]{{{inside}}}"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text + ("L" if kind == "long" else "f" if java and kind == "float" else "")


def cases(right: Mapping[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "right", dict(right)
    yield "one argument more", {**right, "zzz": "1"}
    for name, text in right.items():
        yield "one argument less", {key: one for key, one in right.items() if key != name}
        changes = {
            "text behind it": f"{text}x1", "a number": "17", "no text": 17, "capitals": text.upper(),
            "in quotes": f'"{text}"',
        }  # fmt: skip
        for what, changed in changes.items():
            yield what, {**right, name: changed}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry", action="store_true", help="print, but leave RESULTS.md alone")
    arguments = parser.parse_args()
    count: Counter[tuple[str, str, bool, bool]] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        check, languages = their_checker(folder)
        for category in ("simple_java", "simple_javascript"):
            java = category == "simple_java"
            raw = {
                kind: {
                    row["id"]: row
                    for row in map(json.loads, open_member(BFCL.archive(), f"bfcl_eval/data/{place}").splitlines())
                }
                for kind, place in (
                    ("asked", f"BFCL_v4_{category}.json"), ("allowed", f"possible_answer/BFCL_v4_{category}.json"),
                )
            }  # fmt: skip
            for row in read_calls(category):
                (name, allowed), *_ = row["answer"][0].items()
                kinds = row["types"][name]
                first = {key: next((v for v in values if v != ""), None) for key, values in allowed.items()}
                right = {key: written(v, java, *kinds[key]) for key, v in first.items() if v is not None}
                for what, call in cases(right):
                    ours = compare_calls([(name, call)], row["answer"], Syntax(row["syntax"], row["types"])).value == 1
                    theirs = check(
                        raw["asked"][row["id"]]["function"], [{name: call}], raw["allowed"][row["id"]]["ground_truth"],
                        languages.JAVA if java else languages.JAVASCRIPT, category, "model",
                    )["valid"]  # fmt: skip
                    count[category, what, ours, theirs] += 1
    lines = ["| category | answer | both right | both wrong | only ours right | only theirs right |"]
    lines.append("|---|---|---|---|---|---|")
    for category, what in dict.fromkeys((category, what) for category, what, *_ in count):
        pairs = ((True, True), (False, False), (True, False), (False, True))
        numbers = [count[category, what, *pair] for pair in pairs]
        lines.append(f"| {category} | {what} | {' | '.join(map(str, numbers))} |")
    wrong = sum(n for (_, what, ours, _), n in count.items() if what == "right" and not ours)
    body = "\n".join([
        "Each question's right answer, written in its language, and the same with one thing changed. Where only ours "
        "says right, the checker keeps the quotes of a text (in an array of strings too), splits at commas inside "
        "quotes, or leaves elements of any type as texts; where only theirs does, it does not look at what stands "
        "around a bracket.",
        "", *lines, "", verdict("every right answer scores 1", not wrong),
    ])  # fmt: skip
    print(body)
    if not arguments.dry:
        write_section("BFCL calls in Java and JavaScript (`calls_parity.py`)", body)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
