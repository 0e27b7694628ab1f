"""`qwill plan`: what it prints, as text and as JSON, and how it ends on what it can't plan."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from qwill.cli.main import main
from qwill.cli.plan import quantity
from qwill.model import shipped


def test_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "qwen3-30b-a3b", "--gpus", "16", "--tokens", "1T", "--meshes", "3"]) == 0
    shown = capsys.readouterr().out
    assert "30,532,122,624 total, 3,353,032,704 active" in shown and "98,304 B/token" in shown
    assert [p for p in ("bf16", "fp8", "int8", "int4") if f"serve {p}" in shown] == ["bf16", "fp8", "int8", "int4"]
    for column in ("tokens/day", "GPU-hours", "weights", "gradients", "optimiser", "activations", "buffers", "sent"):
        assert column in shown
    first, second = (shown.index(head) for head in ("  mesh ", "GB a rank, and GB that"))
    assert len(re.findall(r"^  \w+=\d", shown[first:second], re.M)) == 3  # no more than asked for
    assert "assumed: products of dense layers" in shown and "NVIDIA H100" in shown
    assert max(map(len, shown[: shown.index("assumed")].splitlines())) <= 140


def test_json_holds_every_mesh(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "qwen3-0.6b", "--gpus", "4", "--json", "--utilisation", "0.5"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["parameters"]["total"] == 596_049_920
    assert record["job"]["tokens"] == 20 * 596_049_920  # 20 an active parameter
    assert record["job"]["rows"] * record["job"]["context"] == 2**22
    steps = [m["seconds"]["step"] for m in record["meshes"]]
    assert len(steps) > 10 and steps[0] == pytest.approx(min(steps), rel=0.002)
    for mesh in record["meshes"]:
        memory = mesh["memory_bytes"]
        assert memory["total"] == pytest.approx(sum(v for k, v in memory.items() if k != "total"))
    assert record["at_utilisation"]["days"] > 0
    assert all(isinstance(s, str) for s in record["assumptions"]["sentences"])


def test_one_mesh(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "qwen3-8b", "--gpus", "8", "--mesh", "fsdp=4,tp=2", "--json"]) == 0
    (mesh,) = json.loads(capsys.readouterr().out)["meshes"]
    assert mesh["mesh"] == {"dp": 1, "fsdp": 4, "ep": 1, "tp": 2, "cp": 1, "pp": 1}


def test_check_runs_the_mesh(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["plan", "qwen3-0.6b", "--gpus", "4", "--context", "256", "--mesh", "tp=2,pp=2", "--check"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert shown.count("as planned") == 2 and "NOT" not in shown and "stage 1: 14 layers, 187,924,992 weights" in shown
    assert main([*arguments, "--json"]) == 0
    assert [c["agrees"] for c in json.loads(capsys.readouterr().out)["checked"]] == [True, True]


def test_what_fits_nowhere_says_what_it_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "qwen3-1t-plan", "--gpus", "8", "--gpu", "4090"]) == 0
    shown = capsys.readouterr().out
    assert "0 meshes fit" in shown and re.search(r"the leanest, .*, needs [\d.]+ GB a rank; 22.1 are there", shown)


def test_a_folder_and_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text((shipped.FOLDER / "qwen3-0.6b.json").read_text())
    for given in (tmp_path, tmp_path / "config.json"):
        assert main(["plan", str(given)]) == 0
        assert f"{tmp_path.name} (qwen3, 28 layers" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["qwen3-0.7b"], "no configuration of that name is shipped; .* such as .*qwen3-0.6b"),
        (["no/such/folder"], "no such file or folder"),
        (["{tmp}"], "there is no such file; expected the config.json"),
        (["{tmp}/x.json"], "is not valid JSON"),
        (["qwen3-8b", "--gpu", "h1000"], "--gpu h1000: not in the table; expected one of h100, .* did you mean h100"),
        (["qwen3-8b", "--tokens", "many"], "--tokens many: expected a number of tokens above 0"),
        (["qwen3-8b", "--tokens", "-1T"], "--tokens -1T: expected"),
        (["qwen3-8b", "--batch-tokens", "0"], "--batch-tokens 0: expected"),
        (["qwen3-8b", "--mesh", "tp=3"], "mesh tp=3: that is 3 ranks; expected 8"),
        (["qwen3-8b", "--mesh", "zp=3"], "mesh 'zp=3': 'zp=3' is not understood; expected axes"),
        (["qwen3-8b", "--gpus", "16", "--mesh", "tp=16"], "mesh tp=16: tp=16 does not divide the 8 key/value heads"),
        (["qwen3-8b", "--check"], "--check runs one mesh; say which with --mesh"),
        (["qwen3-8b", "--gpus", "9973"], "--gpus 9973: no mesh of that many ranks fits"),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.json").write_text("{")
    assert main(["plan", *(a.replace("{tmp}", str(tmp_path)) for a in arguments)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and re.match(f"qwill: .*{says}", said.err), said.err


def test_quantities() -> None:
    assert [quantity("", t) for t in ("36T", "1.5b", "4M", "10k", "1e9", "7")] == [36e12, 1.5e9, 4e6, 1e4, 1e9, 7]


def test_the_shipped_configurations_are_all_planned(capsys: pytest.CaptureFixture[str]) -> None:
    for name in shipped.shipped_names():
        assert main(["plan", name, "--gpus", "64", "--mesh", "fsdp=64", "--context", "8192"]) == 0
        assert name in capsys.readouterr().out
