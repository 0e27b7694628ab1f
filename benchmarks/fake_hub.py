"""A Hugging Face Hub on this machine, for what reads data sets of the real one: the few paths that `huggingface_hub`
asks for, over rows that are made up here, in columns as the real data sets have them.

    with FakeHub(BOX) as hub:      # hub.url is what HF_ENDPOINT must be
        hub.publish("openai/gsm8k", …)   # a new commit
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

Splits = Mapping[str, Sequence[Mapping[str, Any]]]  # "config/split" → rows
BRANCH = "refs/convert/parquet"
LETTERS = "ABCD"
THINGS = ["apples", "red  kites", "books", "stars", "coins", "tins", "maps", "bells", "naïve cafés", "ropes"]
PLACES = ["长安", "洛阳", "开封", "南京", "北京", "杭州", "成都", "广州", "西安", "苏州"]


def _sums(count: int, first: int) -> list[dict[str, Any]]:
    rows = []
    for i in range(first, first + count):
        a, b, thing = 3 + i, 2 * i + 1, THINGS[i % 10]
        question = f"Ann has {a} {thing} and buys {b} more for ${i}.50 each. How many {thing} has she now?"
        rows.append({"question": question, "answer": f"She has {a}+{b}=<<{a}+{b}={a + b}>>{a + b} now.\n#### {a + b}"})
    return rows


def _papers(count: int, chinese: Sequence[str]) -> list[dict[str, Any]]:
    """Questions with four options; `chinese` are the names of the columns for id, question, answer."""
    number, question, answer = chinese
    rows = []
    for i in range(count):
        options = {letter: f"{PLACES[(i + k) % 10]}（{1000 + 7 * i + k}年）" for k, letter in enumerate(LETTERS)}
        asked = f" 下列城市中，第{i + 1}个建都的是____。" if i % 2 else f"第{i + 1}题：都城是哪里？\n"
        rows.append({number: i, question: asked, **options, answer: LETTERS[(3 * i) % 4]})
    return rows


def _scenes(count: int) -> list[dict[str, Any]]:
    rows = []
    for i in range(count):
        ctx_a = f"[header] How to keep {THINGS[i % 10]} [title] Wash  them {i} times."
        ctx_b = "" if i % 2 else "then she"
        endings = [f" [step] takes {THINGS[(i + k) % 10]} home." for k in range(1, 4)]
        endings = ["puts them [substeps] away.", *endings]
        rows.append({
            "ind": i, "activity_label": "Home and Garden", "ctx_a": ctx_a, "ctx_b": ctx_b, "ctx": f"{ctx_a} {ctx_b}",
            "endings": endings, "source_id": f"wikihow~{i}", "split": "val", "split_type": "indomain",
            "label": str(i % 4),
        })  # fmt: skip
    return rows


def _truths(count: int) -> list[dict[str, Any]]:
    rows = []
    for i in range(count):
        thing = THINGS[i % 10]
        true, false = [f"Nothing is known of {thing}", f"No {thing}"], [f"{thing} bring luck", f"All {thing}", "Yes"]
        one, many = [true[0], *false[: 1 + i % 3]], [*true[: 1 + i % 2], *false]
        rows.append({
            "question": f"What do {thing} bring, {i}?",
            "mc1_targets": {"choices": one, "labels": [1] + [0] * (len(one) - 1)},
            "mc2_targets": {"choices": many, "labels": [1] * (1 + i % 2) + [0] * 3},
        })  # fmt: skip
    return rows


def _contest(count: int) -> list[dict[str, Any]]:
    return [
        {
            "ID": f"2024-I-{i + 1}",
            "Problem": f"Find the remainder when $2^{{{i + 5}}}$ is divided by ${i + 7}$, not as $\\frac{{m}}{{n}}$.",
            "Solution": f"By hand.\n\nIt is {pow(2, i + 5, i + 7)}.",
            "Answer": pow(2, i + 5, i + 7),
        }
        for i in range(count)
    ]


def _with(rows: list[dict[str, Any]], **more: Any) -> list[dict[str, Any]]:
    return [row | more for row in rows]


BOX: dict[str, Splits] = {
    "openai/gsm8k": {"main/train": _sums(8, 20), "main/test": _sums(12, 0)},
    "ceval/ceval-exam": {
        "computer_network/val": _with(_papers(12, ("id", "question", "answer")), explanation=""),
        "computer_network/dev": _with(_papers(5, ("id", "question", "answer")), explanation="略。"),
    },
    "haonan-li/cmmlu": {
        f"chinese_history/{split}": _papers(count, ("Unnamed: 0", "Question", "Answer"))
        for split, count in (("test", 12), ("dev", 5))
    },
    "Maxwell-Jia/AIME_2024": {"default/train": _contest(12)},
    "Rowan/hellaswag": {"default/validation": _scenes(12)},
    "truthfulqa/truthful_qa": {"multiple_choice/validation": _truths(12)},
}


class FakeHub:
    """A server of a thread of its own; `asked` are the paths that came."""

    def __init__(self, sets: Mapping[str, Splits]) -> None:
        self._files: dict[tuple[str, str], dict[str, bytes]] = {}  # (data set, commit) → path → bytes
        self._heads: dict[str, str] = {}
        self.asked: list[str] = []
        for name, splits in sets.items():
            self.publish(name, splits)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def publish(self, name: str, splits: Splits) -> str:
        """The branch of Parquet files now has these splits, each in two files where it has two rows; the commit."""
        import pyarrow
        import pyarrow.parquet

        files = {}
        for place, rows in splits.items():
            half = (len(rows) + 1) // 2
            for number, part in enumerate(filter(None, (rows[:half], rows[half:]))):
                buffer = io.BytesIO()
                pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(part)), buffer)
                files[f"{place}/{number:04}.parquet"] = buffer.getvalue()
        digest = hashlib.sha1(name.encode())
        for path in sorted(files):
            digest.update(path.encode() + files[path])
        commit = digest.hexdigest()
        self._files[name, commit], self._heads[name] = files, commit
        return commit

    def commit(self, name: str) -> str:
        return self._heads[name]

    def __enter__(self) -> FakeHub:
        Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body for a path."""
        parts = unquote(urlsplit(path).path).strip("/").split("/")
        api = parts[0] == "api"
        name, rest = "/".join(parts[1 + api : 3 + api]), parts[3 + api :]
        if name not in self._heads or not rest:
            return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
        if not api:  # resolve/COMMIT/CONFIG/SPLIT/0000.parquet
            data = self._files.get((name, rest[1]), {}).get("/".join(rest[2:]))
            if data is None:
                return 404, {"X-Error-Code": "EntryNotFound"}, b"{}"
            return 200, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": rest[1]}, data
        what, revision = rest[0], "/".join(rest[1:])
        commit = self._heads[name] if revision == BRANCH else revision
        if (name, commit) not in self._files:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        files = sorted(self._files[name, commit].items())
        if what == "revision":
            told: Any = {"id": name, "sha": commit, "siblings": [{"rfilename": path} for path, _ in files]}
        else:  # tree
            told = [
                {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for path, data in files
            ]
        return 200, {"Content-Type": "application/json"}, json.dumps(told).encode()

    def _handler(hub) -> type[BaseHTTPRequestHandler]:  # self is the handler below
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.asked.append(self.path)
                status, headers, body = hub.answer(self.path)
                self.send_response(status)
                for key, value in (headers | {"Content-Length": str(len(body))}).items():
                    self.send_header(key, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler
