"""llm-comply, which checks replies against the published OpenAPI documents: chat completions, responses, messages.

Requirements: llm-comply==0.5.0

What a text model cannot do is named in `EXPECTED`, with the reason; anything else that fails is a failure here.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from report import Job, Skip, run

PROGRAM = str(Path(sys.executable).with_name("llm-comply"))
EXPECTED: dict[str, str] = {
    "chat-image-input": "a text model refuses images (400)",
    "image-input": "a text model refuses images (400)",
    "anth-image-input": "a text model refuses images (400)",
}


def ask(job: Job, format: str, *options: str) -> None:
    if not job.ends:
        raise Skip("a random model does not end its replies by itself, which this tool expects")
    command = [
        PROGRAM, "--format", format, "-u", job.url, "-k", job.key, "-m", job.model, "--json", "--timeout", "120",
        *options,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    try:
        found = json.loads(done.stdout[done.stdout.index("{") :])
    except ValueError:
        raise AssertionError(f"{PROGRAM} said no JSON: {done.stdout[-300:]} {done.stderr[-300:]}") from None
    bad = []
    for test in found["results"]:
        name, state = test["id"], test["status"]
        if state == "failed" and name not in EXPECTED:
            bad.append(f"{name}: {'; '.join(map(str, test.get('errors') or []))}")
    assert not bad, " | ".join(bad)


def check_openai_chat(job: Job) -> None:
    ask(job, "openai-chat")


def check_open_responses(job: Job) -> None:
    ask(job, "open-responses")


def check_anthropic_messages(job: Job) -> None:
    ask(job, "anthropic", "--auth-header", "x-api-key", "--no-bearer", "-H", "anthropic-version:2023-06-01")


if __name__ == "__main__":
    run(__name__)
