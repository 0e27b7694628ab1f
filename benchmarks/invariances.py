"""How long the invariance suite of alignment takes on this machine, and how near the results are that must be the same.

    python benchmarks/invariances.py [--dry]

The suite is tests/align/test_invariances.py; the distances are those of its two gloo processes from one process.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from compare import write_section

ROOT = Path(__file__).parents[1]
SUITE = "tests/align/test_invariances.py"


def timed(*arguments: str) -> tuple[float, float, str]:
    """(seconds, seconds of processor time of it and its children, what it printed)."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    done = subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(done.stdout[-3000:] + done.stderr[-3000:])
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry", action="store_true", help="print, and leave RESULTS.md alone")
    options = parser.parse_args()
    seconds, busy, said = timed("pytest", "-p", "no:cacheprovider", SUITE)
    load = os.getloadavg()[0]
    with TemporaryDirectory() as folder:
        timed("tests.align.invariance_ranks", folder)
        found = json.loads((Path(folder) / "results.json").read_text())
    faults, meshes = found.pop("faults"), found.pop("meshes")
    lines = [
        f"`pytest {SUITE}`: {said.strip().splitlines()[-1]}; {seconds:.0f} s, {busy:.0f} s of processor time with its "
        f"rank processes, on {os.cpu_count()} cores with a load of {load:.1f} at the end. Every algorithm, float64: "
        "eight at once and one by one, a window that is not full, padding on either side, packed and unpacked, order, "
        "two ranks, interrupted.",
        "",
        "Two gloo processes against one, largest differences: gradients of steps of 8, 3 and 1 units; weights and "
        "logged numbers of a training of 3 steps; the same, where one process took over before the last step.",
        "",
        "| algorithm | gradient | training | taken over |",
        "|---|---|---|---|",
        *(
            f"| {name} | {f['gradient']:.0e} | {f['training']:.0e} | {f['resumed']:.0e} |" for name, f in found.items()
        ),
        "",
        "Fine-tuning on other meshes, gradients: " + ", ".join(f"{k} {v:.0e}" for k, v in meshes.items()) + ". Seeded "
        "faults: both ranks compute everything {twice:.2f}, a rank's own reference point {own:.2f}.".format(**faults),
    ]  # fmt: skip
    body = "\n".join(lines)
    print(body)
    if not options.dry:
        write_section("Invariances of alignment (`invariances.py`)", body)


if __name__ == "__main__":
    main()
