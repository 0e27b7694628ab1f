"""Constrained decoding: are replies valid, are unsupported schemas refused, and what does a token cost more?

    .venv/bin/python benchmarks/constrained.py [--schemas 1000] [--rounds 20]

- SmolLM2-135M answers each random schema of the subset (tests/engine/random_schemas.py; the keywords are listed in
  engine/json_schema.py) at temperature 1. Claim: every reply that finishes with `stop` is valid, which the package
  jsonschema judges (with its formats), or the tests' own checker where it isn't installed.
- Keywords outside the subset, each put somewhere into a random schema, go to `qwill serve` over HTTP. Claim: 400.
- The same replies are then made again, token for token, with and without their constraints, by turns in one process, in
  batches of 1 and 8: the difference is what a mask, its use in the draw and following the grammar cost. Claim: under
  5 % a token. The draws themselves are made in both, after the prompts and with the seeds of the recorded replies, and
  replaced by the recorded tokens in both (under the constraint they are the same but for rounding).

Rounds with more than 10 % of the CPU stolen are thrown away.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import torch
from compare import MOST_STOLEN, verdict, write_section
from serve_process import serving

from qwill.base.device import cpu_steal
from qwill.base.resolve import resolve
from qwill.engine import engine as engine_module
from qwill.engine.constraint import Constraint
from qwill.engine.engine import Engine, EngineSettings
from qwill.engine.request import Request
from qwill.engine.sampling import Sampling
from qwill.model.gguf import load_gguf, smollm2_file
from qwill.text.tokenizer import Tokenizer

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "engine"))
from random_schemas import random_schema
from schema_checker import problems

UNSUPPORTED: dict[str, Any] = {
    "not": {"type": "null"}, "if": {"type": "string"}, "then": {"minLength": 1}, "else": {"type": "null"},
    "dependentRequired": {"a": ["b"]}, "dependentSchemas": {"a": {"type": "object"}}, "unevaluatedProperties": False,
    "unevaluatedItems": False, "contains": {"const": 1}, "minContains": 1, "maxContains": 2, "uniqueItems": True,
    "propertyNames": {"pattern": "^a"}, "patternProperties": {"^a": {"type": "string"}}, "minProperties": 1,
    "maxProperties": 2, "$anchor": "here", "$dynamicRef": "#x", "$dynamicAnchor": "x", "contentEncoding": "base64",
    "contentMediaType": "text/html", "additionalItems": False, "dependencies": {"a": ["b"]}, "minimun": 3,
}  # fmt: skip
Outcome = tuple[int, list[int], str, str | None]  # of a schema: its number, tokens, text, finish reason


def chat(tokenizer: Tokenizer, schema: dict[str, Any]) -> list[int]:
    text = f"Give an example that fits this JSON Schema, as JSON: {json.dumps(schema)[:600]}"
    return tokenizer.encode(f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n")


def answers(engine: Engine, tokenizer: Tokenizer, count: int, most: int, at_once: int) -> list[Outcome]:
    """A reply to each schema."""
    done: dict[str, tuple[list[int], str]] = {}
    out: list[Outcome] = []
    left = iter(range(count))
    running = 0
    while True:
        while running < at_once and (number := next(left, None)) is not None:
            schema = random_schema(number)
            request = Request(str(number), chat(tokenizer, schema), Sampling(max_tokens=most), seed=number)
            constraint = Constraint("json_schema", json.dumps(schema))
            engine.add(replace(request, stop_ids=frozenset(tokenizer.stop_ids), constraint=constraint))
            running += 1
        if not running:
            return out
        for event in engine.step():
            tokens, text = done.get(event.request, ([], ""))
            done[event.request] = tokens + event.token_ids, text + event.text
            if event.finish_reason:
                out.append((int(event.request), *done.pop(event.request), event.finish_reason))
                running -= 1
                if len(out) % 100 == 0:
                    print(f"{len(out)} replies", flush=True)


def judge() -> tuple[Callable[[Any, Any], list[str]], str]:
    """What is wrong with (value, schema), and who says so."""
    try:
        import jsonschema
    except ImportError:
        return problems, "tests/engine/schema_checker.py"
    checker = jsonschema.Draft202012Validator

    def wrong(value: Any, schema: Any) -> list[str]:
        return [e.message[:200] for e in checker(schema, format_checker=checker.FORMAT_CHECKER).iter_errors(value)]

    return wrong, f"jsonschema {version('jsonschema')}"


def validity(outcomes: list[Outcome]) -> tuple[str, bool]:
    wrong, who = judge()
    invalid: list[str] = []
    for number, _, text, reason in outcomes:
        if reason == "stop":
            try:
                said = wrong(json.loads(text), random_schema(number))
            except ValueError as error:
                said = [f"no JSON: {error}"]
            invalid += [f"schema {number}: {said[0]} in {text[:200]}"] if said else []
    reasons = Counter(str(reason) for *_, reason in outcomes)
    print("\n".join(invalid[:20]))
    stopped, failed = reasons["stop"], reasons["error"]
    text = (
        f"{len(outcomes)} random schemas, {stopped} replies ended with `stop` ({reasons['length']} at the limit of "
        f"tokens, {failed} with an error): {stopped - len(invalid)} of {stopped} are valid, says {who}. "
    )
    met = not invalid and stopped > 0 and not failed
    return text + verdict("all valid", met), met


def refusals(per_keyword: int) -> tuple[str, bool]:
    """What the server says to keywords outside the subset."""
    draw = random.Random(0)
    statuses: Counter[int] = Counter()
    with serving("smollm2") as server, httpx.Client(base_url=server.url, timeout=60) as client:
        model = server.models()[0]["id"]
        for keyword, value in UNSUPPORTED.items():
            for _ in range(per_keyword):
                schema = random_schema(draw.randrange(10**6))
                inner: dict[str, Any] = draw.choice(list(schemas_in(schema)))
                inner[keyword] = value
                answer = client.post("/v1/chat/completions", json={
                    "model": model, "messages": [{"role": "user", "content": "x"}], "max_tokens": 1,
                    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
                })  # fmt: skip
                statuses[answer.status_code] += 1
                if answer.status_code != 400 or keyword not in answer.text:
                    statuses[-1] += answer.status_code == 400
                    print(answer.status_code, keyword, json.dumps(schema)[:300], answer.text[:300])
    met = set(statuses) == {400}
    return (
        f"{len(UNSUPPORTED)} keywords outside the subset, each in {per_keyword} random schemas, over HTTP: "
        f"{statuses[400]} of {sum(statuses.values())} answers are 400 and name the keyword. "
        + verdict("400 for each", met),
        met,
    )


def schemas_in(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A schema and those within."""
    yield schema
    for keyword in ("properties", "$defs"):
        for inner in schema.get(keyword, {}).values():
            yield from schemas_in(inner) if isinstance(inner, dict) else ()
    for keyword in ("anyOf", "oneOf", "allOf", "prefixItems"):
        for inner in schema.get(keyword, []):
            yield from schemas_in(inner)
    for keyword in ("items", "additionalProperties"):
        if isinstance(schema.get(keyword), dict):
            yield from schemas_in(schema[keyword])


def made_again(engine: Engine, tokenizer: Tokenizer, batch: list[Outcome], constrained: bool) -> tuple[float, float]:
    """Seconds and CPU seconds a token, of the same replies; prompts and compiling aren't counted."""
    script = {str(number): tokens for number, tokens, *_ in batch}
    for number, tokens, *_ in batch:
        schema = random_schema(number)
        constraint = Constraint("json_schema", json.dumps(schema)) if constrained else None
        sampling = Sampling(max_tokens=len(tokens))
        engine.add(Request(str(number), chat(tokenizer, schema), sampling, seed=number, constraint=constraint))
    drawn = engine_module.choose
    begun_with: set[str] = set()

    def replay(*arguments: Any) -> Any:
        for part, own_BV, chosen in drawn(*arguments):
            tokens = [script[reply.running.request.id][reply.produced] for reply in part]
            begun_with.update(reply.running.request.id for reply in part)
            yield part, own_BV, replace(chosen, tokens_B=torch.tensor(tokens))

    engine_module.choose = replay  # type: ignore[assignment]
    try:
        while len(begun_with) < len(batch):
            engine.step()
        begun, busy, known = time.perf_counter(), time.process_time(), engine.stats().tokens
        while engine.has_work:
            engine.step()
        count = engine.stats().tokens - known
        return (time.perf_counter() - begun) / count, (time.process_time() - busy) / count
    finally:
        engine_module.choose = drawn


def overhead(engine: Engine, tokenizer: Tokenizer, outcomes: list[Outcome], size: int, rounds: int) -> tuple[str, bool]:
    """What a constraint adds to a token in batches of `size`."""
    long = [outcome for outcome in outcomes if len(outcome[1]) >= 24 and outcome[3] in ("stop", "length")]
    draw = random.Random(1)
    walls: dict[bool, list[float]] = {True: [], False: []}
    cpus: dict[bool, list[float]] = {True: [], False: []}
    dropped, most = 0, 0.0
    while len(walls[True]) < rounds and dropped < rounds:
        batch, first = draw.sample(long, size), len(walls[True]) % 2 == 0
        steal = cpu_steal()
        now = {way: made_again(engine, tokenizer, batch, way) for way in (first, not first)}
        after = cpu_steal()
        stolen = (after[0] - steal[0]) / max(1, after[1] - steal[1])
        if stolen > MOST_STOLEN:
            dropped += 1
            continue
        most = max(most, stolen)
        for way, (wall, cpu) in now.items():
            walls[way].append(wall)
            cpus[way].append(cpu)
    more, busy = ([100 * (a / b - 1) for a, b in zip(x[True], x[False], strict=True)] for x in (walls, cpus))
    added = statistics.median([a - b for a, b in zip(walls[True], walls[False], strict=True)])
    error = statistics.stdev(more) / len(more) ** 0.5 if len(more) > 1 else float("nan")
    text = (
        f"Batch {size}: {1000 * statistics.median(walls[False]):.2f} ms a token free, "
        f"{1000 * statistics.median(walls[True]):.2f} ms constrained: **{statistics.median(more):+.1f} %** (median of "
        f"{len(more)} alternating rounds, standard error {error:.1f}; {1e6 * added:+.0f} µs a token; CPU time "
        f"{statistics.median(busy):+.1f} %). {dropped} rounds dropped for stolen CPU, at most {100 * most:.1f} % in "
        "the rest. "
    )
    met = statistics.median(more) < 5
    return text + verdict("under 5 %", met), met


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schemas", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=200, help="most tokens of a reply")
    parser.add_argument("--each", type=int, default=3, help="schemas for each unsupported keyword")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 8])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--floats", action="store_true", help="weights as float32, not as the file's codes")
    parser.add_argument("--dry", action="store_true", help="print, but leave RESULTS.md alone")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model, tokenizer = load_gguf(smollm2_file(resolve("smollm2")), quantized=not arguments.floats)
    engine = Engine(model, tokenizer, EngineSettings(max_running=32))
    outcomes = answers(engine, tokenizer, arguments.schemas, arguments.tokens, 32)
    results = [validity(outcomes)]
    print(results[-1][0], flush=True)
    if arguments.each:
        results.append(refusals(arguments.each))
        print(results[-1][0], flush=True)
    for size in arguments.batches:
        results.append(overhead(engine, tokenizer, outcomes, size, arguments.rounds))
        print(results[-1][0], flush=True)
    print(json.dumps({"met": [met for _, met in results]}))
    if not arguments.dry:
        held = "float32" if arguments.floats else "its file's 4-bit codes"
        head = f"SmolLM2-135M, weights {held}, {type(engine.executor).__name__}, {arguments.threads} threads."
        write_section("Constrained decoding", "\n\n".join([head, *(text for text, _ in results)]))


if __name__ == "__main__":
    main()
