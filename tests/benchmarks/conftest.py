"""The benchmarks are scripts beside each other, not a package: their folder must be on the path to test their parts."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
