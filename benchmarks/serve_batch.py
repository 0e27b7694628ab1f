"""Eight and 32 clients at once through the HTTP server, against llama.cpp's servers and `transformers serve`.

    .venv/bin/python benchmarks/serve_batch.py --llama-server BINARY --llama-python PYTHON --transformers-python PYTHON

SmolLM2-135M everywhere: ours as `qwill serve smollm2 OPTIONS` (--ours, more than one way may be given), llama.cpp on
the GGUF files given (--gguf; by default the package's own Q4_1, and Q4_0 and Q8_0 made of it), transformers on the same
weights as float32 and bfloat16 folders, with and without continuous batching. All servers run at once, and only one of
them has work: in each round every one gets the same B chat prompts of about --prompt tokens at the same moment, greedy,
at most --tokens each, and is timed until the last reply is whole; tokens are counted from `usage`. A short heat goes
before: ways of one peer that are not half as quick as its best are out. Rounds alternate; rounds with more than 10 % of
the CPU stolen are thrown away. Claims: 2.5 times the best llama.cpp server, 3 times the best `transformers serve`.
llama.cpp's own server batches its requests; llama-cpp-python's answers one after the other.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from compare import MOST_STOLEN, spread, verdict, write_section
from serve_process import Server, free_port, serving, started

from qwill.base.device import cpu_steal

WORDS = [
    "river", "stone", "light", "winter", "garden", "market", "letter", "window", "morning", "engine", "silver",
    "people", "answer", "yellow", "travel", "number", "simple", "ocean", "forest", "cloud", "paper", "music", "kitchen",
    "horse", "bridge", "island", "mirror", "candle", "pocket", "summer",
]  # fmt: skip
WAYS = [f"{dtype}+{how}" for dtype in ("float32", "bfloat16") for how in ("batching", "generate")]
HEAT = 16  # tokens of a reply in the round before the race
NO_END = {"ours": {"ignore_eos": True}, "llama.cpp": {"ignore_eos": True}}


@dataclass
class Runner:
    """A server in the race. `family`: ours, llama.cpp or transformers; `seconds` a token, of each round that counts."""

    name: str
    family: str
    server: Server
    model: str
    speeds: dict[int, list[float]] = field(default_factory=dict)


@contextmanager
def peer(name: str, command: list[str], ready: str, threads: int) -> Iterator[Server]:
    """A peer's server; `{port}` in its command is filled in."""
    port = free_port()
    with tempfile.TemporaryDirectory() as home:
        filled = [word.replace("{port}", str(port)) for word in command]
        print(f"starting {name}: {' '.join(filled)}", flush=True)
        environment = {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        with started(filled, f"http://127.0.0.1:{port}", ready, Path(home), environment, 300) as server:
            yield server


def prompts(count: int, words: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return ["Tell a story with these words: " + " ".join(draw.choices(WORDS, k=words)) for _ in range(count)]


async def one(client: httpx.AsyncClient, runner: Runner, prompt: str, tokens: int) -> int:
    body: dict[str, Any] = {
        "model": runner.model, "messages": [{"role": "user", "content": prompt}], "max_tokens": tokens,
        "temperature": 0, **NO_END.get(runner.family, {}),
    }  # fmt: skip
    try:
        answer = await client.post("/v1/chat/completions", json=body)
    except httpx.TransportError as error:
        log = runner.server.log.read_text(errors="replace")
        raise SystemExit(f"{runner.name}: {type(error).__name__} {error}; the end of its log:\n{log[-2000:]}") from None
    if answer.status_code != 200:
        raise SystemExit(f"{runner.name}: {answer.status_code} {answer.text[:500]}")
    return int(answer.json()["usage"]["completion_tokens"])


async def timed(runner: Runner, batch: int, words: int, tokens: int, seed: int) -> float:
    """Tokens of the replies per second, from the first request to the end of the last reply."""
    limits = httpx.Limits(max_connections=batch)
    async with httpx.AsyncClient(base_url=runner.server.url, timeout=1800, limits=limits) as client:
        begun = time.perf_counter()
        made = await asyncio.gather(*[one(client, runner, p, tokens) for p in prompts(batch, words, seed)])
        return sum(made) / (time.perf_counter() - begun)


def heat(runners: list[Runner], batch: int, words: int, tokens: int) -> list[Runner]:
    """A short round that warms all up; of each family those go on that are at least half as quick as its best."""
    speeds = [asyncio.run(timed(r, batch, words, min(tokens, HEAT), 0)) for r in runners]
    most: dict[str, float] = {}
    for runner, speed in zip(runners, speeds, strict=True):
        print(f"heat of {batch}, {runner.name}: {speed:.0f} tokens/s", flush=True)
        most[runner.family] = max(speed, most.get(runner.family, 0.0))
    return [r for r, speed in zip(runners, speeds, strict=True) if speed >= most[r.family] / 2]


def race(runners: list[Runner], batch: int, rounds: int, words: int, tokens: int) -> tuple[float, int]:
    """A B C A B C …: (largest share of stolen CPU in a round that counts, rounds dropped)."""
    most, dropped = 0.0, 0
    for runner in runners:
        runner.speeds[batch] = []
    kept = 0
    while kept < rounds and dropped < rounds:
        before = cpu_steal()
        now = [asyncio.run(timed(r, batch, words, tokens, 1 + kept + dropped)) for r in runners]
        after = cpu_steal()
        stolen = (after[0] - before[0]) / max(1, after[1] - before[1])
        if stolen > MOST_STOLEN:
            dropped += 1
            continue
        kept, most = kept + 1, max(most, stolen)
        for runner, speed in zip(runners, now, strict=True):
            runner.speeds[batch].append(speed)
            print(f"batch {batch}, {runner.name}: {speed:.0f} tokens/s", flush=True)
    return most, dropped


def best(runners: list[Runner], family: str, batch: int) -> Runner | None:
    """The quickest of a family: each peer runs in the way that turns out best here."""
    of_family = [r for r in runners if r.family == family]
    return max(of_family, key=lambda r: statistics.median(r.speeds[batch]), default=None)


def describe(runners: list[Runner], batch: int, stolen: float, dropped: int) -> tuple[str, bool]:
    ours = best(runners, "ours", batch)
    assert ours is not None
    medians = ", ".join(f"{r.name} {statistics.median(r.speeds[batch]):.0f}" for r in runners)
    lines, met = [f"Batch {batch} (tokens/s, medians): {medians}."], True
    for family, claim in (("llama.cpp", 2.5), ("transformers", 3.0)):
        other = best(runners, family, batch)
        if other is not None:
            ratios = [a / b for a, b in zip(ours.speeds[batch], other.speeds[batch], strict=True)]
            good = statistics.median(ratios) >= claim
            met = met and good
            lines.append(f"{ours.name} against {other.name}: {spread(ratios)}. {verdict(f'{claim}×', good)}")
    lines.append(f"{dropped} rounds dropped for stolen CPU, at most {100 * stolen:.1f} % stolen in the rest.")
    return "\n\n".join(lines), met


def gguf_files(place: Path) -> list[Path]:
    """SmolLM2 as the package has it, and in the formats that llama.cpp is quickest with at 4 and at 8 bits."""
    from qwill.base.resolve import resolve
    from qwill.model.gguf import load_gguf, save_gguf, smollm2_file

    files = [smollm2_file(resolve("smollm2"))]
    model, tokenizer = load_gguf(files[0])
    for kind in ("Q4_0", "Q8_0"):
        files.append(place / f"SmolLM2-135M.{kind}.gguf")
        save_gguf(model, tokenizer, files[-1], kind)
    return files


def float_folders(place: Path) -> dict[str, Path]:
    """SmolLM2 as Hugging Face folders in float32 and bfloat16."""
    import torch

    from qwill.base.resolve import resolve
    from qwill.model.files import save_model
    from qwill.model.gguf import load_gguf, smollm2_file

    model, tokenizer = load_gguf(smollm2_file(resolve("smollm2")))
    folders = {}
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        folders[name] = place / f"smollm2-{name}"
        save_model(model.to(dtype), folders[name], tokenizer, generation_config={"do_sample": False})
    return folders


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", nargs="*", default=[""], help="options of `qwill serve smollm2`, one way each")
    parser.add_argument("--llama-server", help="llama.cpp's own server, built natively")
    parser.add_argument("--llama-python", help="a Python with llama-cpp-python[server], built natively")
    parser.add_argument("--gguf", nargs="*", type=Path, help="files for llama.cpp")
    parser.add_argument("--transformers-python", help="a Python with torch and transformers[serving]")
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=WAYS, help="of transformers; all take very long")
    parser.add_argument("--batches", nargs="*", type=int, default=[8, 32])
    parser.add_argument("--prompt", type=int, default=48, help="words of a prompt")
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dry", action="store_true", help="print, but leave RESULTS.md alone")
    arguments = parser.parse_args()
    threads, most = str(arguments.threads), max(arguments.batches)
    context = 4 * arguments.prompt + arguments.tokens + 64
    runners: list[Runner] = []
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        for options in arguments.ours:
            server = stack.enter_context(serving("smollm2", *options.split(), threads=arguments.threads))
            model = server.models()[0]["id"]
            runners.append(Runner(f"qwill {options}".strip(), "ours", server, model))
        wants_llama = arguments.llama_server or arguments.llama_python
        for path in (arguments.gguf or gguf_files(Path(place))) if wants_llama else ():
            if arguments.llama_server:
                command = [
                    arguments.llama_server, "-m", str(path), "-t", threads, "-tb", threads, "-np", str(most), "-c",
                    str(most * context), "--no-cache-prompt", "--port", "{port}",
                ]  # fmt: skip
                name = f"llama-server {path.name}"
                server = stack.enter_context(peer(name, command, "/health", arguments.threads))
                runners.append(Runner(name, "llama.cpp", server, "m"))
            if arguments.llama_python:
                command = [
                    arguments.llama_python, "-m", "llama_cpp.server", "--model", str(path), "--n_threads", threads,
                    "--n_threads_batch", threads, "--n_ctx", str(context), "--interrupt_requests", "false", "--port",
                    "{port}",
                ]  # fmt: skip
                name = f"llama_cpp.server {path.name}"
                server = stack.enter_context(peer(name, command, "/v1/models", arguments.threads))
                runners.append(Runner(name, "llama.cpp", server, "m"))
        if arguments.transformers_python:
            program = str(Path(arguments.transformers_python).with_name("transformers"))
            folders = float_folders(Path(place))
            for way in arguments.ways:
                dtype, batching = way.split("+")
                how = "--continuous-batching" if batching == "batching" else "--no-continuous-batching"
                command = [program, "serve", str(folders[dtype]), "--device", "cpu", how, "--port", "{port}"]
                command += ["--dtype", dtype]
                name = f"transformers serve {way}"
                server = stack.enter_context(peer(name, command, "/health", arguments.threads))
                runners.append(Runner(name, "transformers", server, str(folders[dtype])))
        parts, all_met = [], []
        for batch in arguments.batches:
            racing = heat(runners, batch, arguments.prompt, arguments.tokens)
            stolen, dropped = race(racing, batch, arguments.rounds, arguments.prompt, arguments.tokens)
            text, met = describe(racing, batch, stolen, dropped)
            parts.append(text)
            all_met.append(met)
    body = "\n\n".join(parts)
    print(body)
    print(json.dumps({"met": all_met}))
    if not arguments.dry:
        peers = " and ".join(dict.fromkeys(r.family for r in runners if r.family != "ours"))
        write_section(f"Batches of {' and '.join(map(str, arguments.batches))} through the server, {peers}", body)


if __name__ == "__main__":
    main()
