"""schemathesis: requests made from our own OpenAPI document, valid and broken ones; the server must stand by it.

Requirements: schemathesis==4.32.5
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from report import Job, run

PROGRAM = str(Path(sys.executable).with_name("schemathesis"))
# A document cannot say all that makes a request impossible (a result without its call, a prompt longer than the
# context, a schema that is none), so a request that fits the document may still be refused with 400.
LEFT_OUT = "positive_data_acceptance"
EXAMPLES = 60
# Without these nearly every request would end at the model that nobody serves, or take as long as the context is.
VALUES = """
[dictionaries]
models = {{ values = [{model}] }}
lengths = {{ values = [0, 1, 2, 5, 17] }}
roles = {{ values = ["user"] }}

[parameters]
"body.model" = {{ dictionary = "models", probability = 0.9 }}
"body.max_tokens" = {{ dictionary = "lengths", probability = 0.9 }}
"body.max_completion_tokens" = {{ dictionary = "lengths", probability = 0.9 }}
"body.max_output_tokens" = {{ dictionary = "lengths", probability = 0.9 }}
"body.messages[*].role" = {{ dictionary = "roles", probability = 0.7 }}
"path.model" = {{ dictionary = "models", probability = 0.5 }}
"""


def fuzz(job: Job, *options: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "schemathesis.toml"
        settings.write_text(VALUES.format(model=json.dumps(job.model)), encoding="utf-8")
        command = [
            PROGRAM, "--config-file", str(settings), "run",
            f"{job.root}/openapi.json", "--url", job.root, "-H", f"Authorization: Bearer {job.key}",
            "--exclude-checks", LEFT_OUT, "--max-examples", str(EXAMPLES), "--seed", "1", "--request-timeout", "60",
            "--continue-on-failure", "--suppress-health-check", "all", "--warnings", "off", *options,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    found = done.stdout[done.stdout.find("= FAILURES") :] if "= FAILURES" in done.stdout else done.stdout[-3000:]
    assert done.returncode == 0, found + done.stderr[-500:]


def check_generated_requests(job: Job) -> None:
    fuzz(job, "--phases", "examples,coverage,fuzzing")


def check_sequences_of_requests(job: Job) -> None:
    fuzz(job, "--phases", "stateful")


if __name__ == "__main__":
    run(__name__)
