"""What the package system-calls says of the numbers of Linux's system calls; writes calls.json.

    python -m venv VENV && VENV/bin/pip install system-calls==7.2
    VENV/bin/python tests/oracles/make_calls_oracle.py

Requirements: system-calls==7.2
"""

import importlib.metadata
import json
from pathlib import Path

import system_calls

NAMES = {"x86_64": "x86_64", "aarch64": "arm64"}


def numbers(architecture: str) -> dict[str, int]:
    table = system_calls.syscalls()
    found = {}
    for name in sorted(table.names()):
        try:
            found[name] = table.get(name, architecture)
        except system_calls.NotSupportedSystemCall:
            continue
    return found


if __name__ == "__main__":
    versions = {"system-calls": importlib.metadata.version("system-calls")}
    calls = {machine: numbers(name) for machine, name in NAMES.items()}
    target = Path(__file__).with_name("calls.json")
    target.write_text(json.dumps({"versions": versions, "calls": calls}, sort_keys=True) + "\n")
