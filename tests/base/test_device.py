"""What is recorded of a machine: versions that change numbers, and facts that never do."""

import json
from importlib.metadata import version
from pathlib import Path

import pytest

from qwill.base import device


def test_the_versions_that_change_numbers_are_those_installed() -> None:
    found = device.numeric_libraries()
    assert found["torch"] == version("torch") and found["numpy"] == version("numpy")
    assert found.keys() == {"python", *device.NUMERIC}
    assert found["python"].count(".") == 1  # patch releases of Python change no number


def test_a_library_that_is_not_there_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "NUMERIC", ("numpy", "surely-not-installed"))
    assert device.numeric_libraries().keys() == {"python", "numpy"}


def test_what_changes_numbers_is_pinned_exactly() -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pinned = {line.partition("==")[0] for line in project["dependencies"] if "==" in line}
    assert set(device.NUMERIC) <= pinned


def test_threads_are_set() -> None:
    import torch

    before = torch.get_num_threads()
    try:
        device.set_threads(1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


LINUX = "processor\t: 0\nmodel name\t: Some CPU @ 3 GHz\nflags\t\t: fpu avx2 {more}\n\nprocessor\t: 1\nflags\t\t: x\n"


@pytest.mark.parametrize(("more", "dtype"), [("avx512_bf16", "float32"), ("amx_bf16 amx_tile", "bfloat16")])
def test_precision_goes_by_the_hardware(monkeypatch: pytest.MonkeyPatch, more: str, dtype: str) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: LINUX.format(more=more))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert device.training_dtype() == dtype
    assert device.processor_flags() == {"fpu", "avx2", *more.split()}
    assert device.machine()["processor"] == "Some CPU @ 3 GHz"


def test_a_system_without_proc_is_described_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    facts = device.machine()
    assert facts["flags"] == [] and facts["processor"] and float(str(facts["memory_gib"])) > 0
    assert device.cpu_steal() == (0, 1)
    json.dumps(facts)


def test_stolen_time_never_runs_backwards() -> None:
    first, second = device.cpu_steal(), device.cpu_steal()
    assert 0 <= first[0] <= second[0] and first[1] <= second[1] and first[0] <= first[1]
