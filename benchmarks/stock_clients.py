"""Stock clients, unmodified, against `qwill serve`: everything they offer that a text model can do.

    .venv/bin/python benchmarks/stock_clients.py --environments .venvs/clients [--only openai_python] [--models recite]

Each script in benchmarks/clients/ names its client and version on a line "Requirements: …" and gets an environment of
its own under --environments (made at first use: that needs a package registry). Three models are served one after the
other: one whose weights were written to recite a known reply (serve_models.py), so that what arrives at a client can be
compared word for word; a random one; and SmolLM2-135M. Claim: nothing fails.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compare import verdict, write_section
from serve_models import CALLS, GREETING, RESULT, THOUGHT, write_random, write_reciting
from serve_process import Server, new_key, serving

SCRIPTS = Path(__file__).parent / "clients"
NEEDS = re.compile(r"^(?:// )?Requirements: *(.+)$", re.M)
CONTEXT = 4096


@dataclass(frozen=True)
class Outcome:
    model: str
    client: str
    check: str
    state: str
    why: str
    seconds: float


def scripts() -> dict[str, Path]:
    paths = [p for p in sorted(SCRIPTS.iterdir()) if p.suffix in (".py", ".mjs") and NEEDS.search(p.read_text())]
    return {p.stem.removesuffix("_client"): p for p in paths}


def requirements(script: Path) -> list[str]:
    found = NEEDS.search(script.read_text())
    assert found is not None, f"{script} names no requirements"
    return found[1].split()


def environment_of(script: Path, folder: Path) -> list[str]:
    """The command that runs the script: with a Python of its own, or with node and a node_modules of its own.

    The first requirement is the client; the others are what it needs here.
    """
    needs, place = requirements(script), folder.resolve() / script.stem
    stamp = place / ".requirements"
    if not stamp.exists() or stamp.read_text() != " ".join(needs):
        place.mkdir(parents=True, exist_ok=True)
        if script.suffix == ".mjs":
            subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund", *needs], cwd=place, check=True)
        else:
            subprocess.run([sys.executable, "-m", "venv", place], check=True)
            # torch first and alone, as make venv does, so that a CPU wheel is taken once.
            alone = [n for n in needs if n.startswith("torch==")]
            for some in filter(None, (alone, [n for n in needs if n not in alone])):
                subprocess.run([place / "bin/python", "-m", "pip", "install", "--quiet", *some], check=True)
        stamp.write_text(" ".join(needs))
    return ["node", str(script)] if script.suffix == ".mjs" else [str(place / "bin/python"), str(script)]


def ask(server: Server, kind: str, command: list[str], script: Path, place: Path, job: dict[str, Any]) -> list[Outcome]:
    """Every check of one client against one server; a script that stops half-way is a failure of its own."""
    job = job | {"limited_key": new_key(server.home, f"limited for {script.stem}", "--requests-per-minute", "1")}
    if script.suffix == ".mjs":
        job["environment"] = str(place.resolve())
    outcomes, last = [], time.monotonic()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [*command, json.dumps(job)], stdout=subprocess.PIPE, stderr=errors, text=True, cwd=tempfile.gettempdir()
        )
        assert process.stdout is not None
        for line in process.stdout:
            if not line.startswith('{"check"'):
                continue
            found, now = json.loads(line), time.monotonic()
            outcome = Outcome(
                kind, script.stem.removesuffix("_client"), found["check"], found["state"], found["why"], now - last
            )
            print(f"{outcome.state:4}  {kind:8} {outcome.client:14} {outcome.check}  {outcome.why[:1500]}", flush=True)
            outcomes.append(outcome)
            last = now
        if process.wait() != 0 or not outcomes:
            errors.seek(0)
            why = f"the script ended with {process.returncode}: {errors.read()[-400:]}"
            print(f"fail  {kind} {script.stem}: {why}", flush=True)
            outcomes.append(Outcome(kind, script.stem, "script", "fail", why, 0.0))
    if not server.becomes_idle():
        outcomes.append(Outcome(kind, script.stem, "idle afterwards", "fail", "requests were left running", 0.0))
    return outcomes


def served(kind: str, folder: Path) -> tuple[str, dict[str, Any]]:
    """What to serve, and what the clients may expect of it."""
    job: dict[str, Any] = {"context": CONTEXT, "sampling_varies": True, "embeds": True, "ends": True}
    if kind == "recite":
        write_reciting(folder / kind, CONTEXT)
        known = {"greeting": GREETING, "thought": THOUGHT, "result": RESULT, "calls": CALLS}
        return str(folder / kind), job | known | {"sampling_varies": False}
    if kind == "random":
        write_random(folder / kind, CONTEXT)
        return str(folder / kind), job | {"ends": False}
    return kind, job | {"context": 0}


def table(outcomes: list[Outcome]) -> str:
    """One line a client, one column a model: checks passed, failed and left out."""
    kinds = list(dict.fromkeys(o.model for o in outcomes))
    lines = ["| client | " + " | ".join(kinds) + " |", "|---" * (len(kinds) + 1) + "|"]
    for client in dict.fromkeys(o.client for o in outcomes):
        cells = []
        for kind in kinds:
            here = [o.state for o in outcomes if (o.client, o.model) == (client, kind)]
            good, bad, left = (here.count(s) for s in ("ok", "fail", "skip"))
            cells.append(f"{good} green" + f", **{bad} red**" * bool(bad) + f", {left} not asked" * bool(left))
        lines.append(f"| {client} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def section(outcomes: list[Outcome]) -> str:
    red = [o for o in outcomes if o.state == "fail"]
    left = sorted({f"{o.client}, {o.check}: {o.why}" for o in outcomes if o.state == "skip"})
    versions = ", ".join(r for path in scripts().values() for r in requirements(path)[:1])
    parts = [f"Clients as installed ({versions}).", table(outcomes)]
    if left:
        parts.append("Not asked: " + "; ".join(left) + ".")
    parts += [f"- red: {o.model}, {o.client}, {o.check}: {o.why.splitlines()[0][:300]}" for o in red]
    parts.append(verdict("all green", not red))
    return "\n\n".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", type=Path, required=True, help="folder for the clients' environments")
    parser.add_argument("--only", nargs="*", choices=scripts(), default=list(scripts()))
    parser.add_argument("--models", nargs="*", default=["recite", "random", "smollm2"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dry", action="store_true", help="print, but leave RESULTS.md alone")
    arguments = parser.parse_args()
    chosen = {name: scripts()[name] for name in arguments.only}
    commands = {name: environment_of(path, arguments.environments) for name, path in chosen.items()}
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in arguments.models:
            model, job = served(kind, Path(folder))
            with serving(model, threads=arguments.threads, keys=True) as server:
                listed = server.models()[0]
                job |= {"root": server.url, "model": listed["id"], "key": server.key}
                job["context"] = listed["max_model_len"]
                for name, path in chosen.items():
                    outcomes += ask(server, kind, commands[name], path, arguments.environments / path.stem, job)
    print(table(outcomes))
    if not arguments.dry:
        write_section("Stock clients against the server", section(outcomes))
    return int(any(o.state == "fail" for o in outcomes))


if __name__ == "__main__":
    sys.exit(main())
