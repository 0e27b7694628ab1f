"""What is said of the machine: stable enough to be hashed where it is hashed, and never a reason to stop."""

import json
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch

from qwill.base import device
from qwill.base.device import cpu_steal, machine, numeric_libraries, processor_flags, set_threads, training_dtype
from qwill.base.files import canonical_json

CPUINFO = """processor\t: 0
model name\t: Made Up 9000
flags\t\t: fpu avx2 avx512f {extra}
processor\t: 1
model name\t: Another
flags\t\t: fpu
"""


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands in for /proc."""

    def path(name: str) -> Path:
        return tmp_path / Path(name).name if name.startswith("/proc/") else Path(name)

    monkeypatch.setattr(device, "Path", path)
    return tmp_path


def test_libraries_are_the_installed_ones_and_can_be_hashed() -> None:
    found = numeric_libraries()
    assert found["torch"] == version("torch") and found["numpy"] == version("numpy")
    assert found["python"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert found.keys() == {"python", *device.NUMERIC}
    assert canonical_json(found) == canonical_json(numeric_libraries())
    assert numeric_libraries(device.CURATION) == found | {name: version(name) for name in device.CURATION}


def test_what_changes_numbers_is_pinned_exactly() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    pinned = {line.partition("==")[0] for group in groups for line in group if "==" in line}
    assert {*device.NUMERIC, *device.CURATION} <= pinned


def test_a_library_that_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def only_numpy(name: str) -> str:
        if name != "numpy":
            raise PackageNotFoundError(name)
        return "2.0"

    monkeypatch.setattr(device, "version", only_numpy)
    assert numeric_libraries().keys() == {"python", "numpy"}


def test_the_processor_is_read_from_the_system(proc: Path) -> None:
    (proc / "cpuinfo").write_text(CPUINFO.format(extra="amx_bf16"))
    assert processor_flags() == {"fpu", "avx2", "avx512f", "amx_bf16"}
    said = machine()
    assert said["processor"] == "Made Up 9000" and said["flags"] == ["avx2", "avx512f", "amx_bf16"]
    assert json.loads(json.dumps(said)) == said


def test_a_system_without_proc_is_described_too(proc: Path) -> None:
    assert processor_flags() == frozenset()
    said = machine()
    cores = said["cores"]
    assert said["flags"] == [] and isinstance(cores, int) and cores >= 1 and said["processor"]
    assert float(str(said["memory_gib"])) > 0
    assert cpu_steal() == (0, 1)


@pytest.mark.parametrize(
    ("wish", "extra", "dtype"),
    [
        ("auto", "", "float32"),
        ("auto", "avx512_bf16", "float32"),
        ("auto", "amx_bf16", "float32"),
        ("float32", "amx_bf16", "float32"),
        ("bfloat16", "", "bfloat16"),
    ],
)
def test_precision_is_the_native_kernels_unless_it_is_wished_for(proc: Path, wish: str, extra: str, dtype: str) -> None:
    (proc / "cpuinfo").write_text(CPUINFO.format(extra=extra))
    assert training_dtype(wish) == dtype


def test_stolen_time(proc: Path) -> None:
    (proc / "stat").write_text("cpu  100 1 20 300 4 5 6 64 0 0\ncpu0 1 2 3\n")
    assert cpu_steal() == (64, 500)


def test_threads() -> None:
    before = torch.get_num_threads()
    try:
        set_threads(1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
