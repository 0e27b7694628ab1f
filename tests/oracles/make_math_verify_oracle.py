"""What math-verify's own tests ask for, and what it answers as Qwill calls it: tests/oracles/math_verify.json.

Every case of its tests that has a reference, a reply and an expected result, with the test that it is of; then its
verdict with its default settings on that pair (`default`), which is not that of the test where a test changes settings.

requirements: math-verify==0.9.0 pytest==9.0.2

Run: MATH_VERIFY_REPO=<a checkout of huggingface/Math-Verify at 5d148cf> python tests/oracles/make_math_verify_oracle.py
(without the variable it is cloned from GitHub).
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

COMMIT = "5d148cfaaf99214c2e4ffb4bc497ab042c592a7a"
FILES = ("test_all", "test_boxed", "test_numina_cases", "test_open_thoughts", "test_strict", "test_yujianll")
REPO = "https://github.com/huggingface/Math-Verify"


def checkout(folder: Path) -> Path:
    if "MATH_VERIFY_REPO" in os.environ:
        return Path(os.environ["MATH_VERIFY_REPO"])
    subprocess.run(["git", "clone", "--quiet", REPO, str(folder)], check=True)
    subprocess.run(["git", "-C", str(folder), "checkout", "--quiet", COMMIT], check=True)
    return folder


def cases_of(name: str, repo: Path) -> list[dict[str, Any]]:
    """The parametrised cases of one file; those of a test whose arguments are others are left out."""
    spec = importlib.util.spec_from_file_location(f"tests.{name}", repo / "tests" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = []
    for test, function in vars(module).items():
        for mark in getattr(function, "pytestmark", []) if test.startswith("test_") else []:
            if mark.name != "parametrize":
                continue
            names = mark.args[0] if not isinstance(mark.args[0], str) else mark.args[0].replace(" ", "").split(",")
            for number, values in enumerate(mark.args[1]):
                values = getattr(values, "values", values)
                if callable(values):
                    continue
                case = dict(zip(names, values, strict=True))
                if {"gold", "pred", "expected"} <= case.keys():
                    kept = {k: v for k, v in case.items() if isinstance(v, bool | int | str)}
                    found.append({"file": name, "test": test, "number": number} | kept)
    return found


def main() -> None:
    from importlib.metadata import version

    from math_verify import parse, verify

    with tempfile.TemporaryDirectory() as folder:
        repo = checkout(Path(folder) / "repo")
        sys.path.insert(0, str(repo))
        cases = [case for name in FILES for case in cases_of(name, repo)]
    for case in cases:
        case["expected"] = bool(case["expected"])
        case["default"] = bool(verify(parse(case["gold"]), parse(case["pred"])))
    out = Path(__file__).with_name("math_verify.json")
    told = {"made_by": Path(__file__).name, "math_verify": version("math-verify"), "commit": COMMIT, "cases": cases}
    out.write_text(json.dumps(told, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(f"{out}: {len(cases)} cases")


if __name__ == "__main__":
    main()
