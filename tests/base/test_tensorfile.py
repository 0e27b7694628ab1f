"""Headers of safetensors files are read without trust: whatever is wrong ends in one sentence, never in a crash."""

import hashlib
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize
from safetensors.numpy import load_file, save_file

from qwill.base.errors import CheckpointError
from qwill.base.tensorfile import read_header, tensor_digests


def sample() -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.safetensors"
        matrix: np.ndarray = np.arange(6, dtype=np.float32).reshape(2, 3)
        weights = {"b": matrix, "a": np.arange(3, dtype=np.int8), "": np.zeros(())}
        save_file(weights, path, metadata={"recipe_id": "qw1-中"})
        return path.read_bytes()


SAMPLE = sample()


def file_of(header: Any, body: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + body


def one(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


def complaint(data: bytes) -> str | None:
    """The sentence that read_header ends in; None when it accepts the file. Any other exception goes through."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(data)
        try:
            read_header(path)
        except CheckpointError as error:
            sentence = str(error)
            assert sentence.startswith(f"{path}: ") and sentence.endswith(".")
            assert "\n" not in sentence and len(sentence) < 1000
            sentence.encode()
            return sentence.removeprefix(f"{path}: ")
    return None


def test_reads_what_safetensors_wrote(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(SAMPLE)
    entries = read_header(path)
    assert entries.keys() == {"a", "b", ""}
    assert (entries["b"].dtype, entries["b"].shape) == ("F32", (2, 3)) and entries[""].shape == ()
    for name, array in load_file(path).items():
        assert SAMPLE[entries[name].start : entries[name].end] == array.tobytes()


def test_digests_are_of_the_tensors_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(SAMPLE)
    digests = tensor_digests(path)
    for name, array in load_file(path).items():
        assert digests[name]["sha256"] == hashlib.sha256(array.tobytes()).hexdigest()
        assert digests[name]["bytes"] == array.nbytes


def test_a_file_without_tensors_is_sound(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(file_of({}))
    assert read_header(tmp_path / "a.safetensors") == {} == tensor_digests(tmp_path / "a.safetensors")


@given(st.integers(0, len(SAMPLE) - 1))
def test_every_truncation_is_refused(length: int) -> None:
    assert complaint(SAMPLE[:length]) is not None


@given(st.binary(min_size=1, max_size=20))
def test_bytes_behind_the_last_tensor_are_refused(extra: bytes) -> None:
    assert complaint(SAMPLE + extra) is not None


@given(st.binary(max_size=200))
def test_random_bytes(data: bytes) -> None:
    complaint(data)
    complaint(file_of(data))


@given(st.lists(st.tuples(st.integers(0, len(SAMPLE) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_what_is_accepted_after_damage_is_what_safetensors_accepts(damage: list[tuple[int, int]]) -> None:
    data = bytearray(SAMPLE)
    for at, value in damage:
        data[at] = value
    if complaint(bytes(data)) is None:
        deserialize(bytes(data))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
ODD = st.sampled_from([2**31, 2**63, 2**64, 10**4000, True, 1.0, "1", None])
SIZES = st.lists(st.integers(-3, 9) | ODD, max_size=4)


@given(
    name=st.text(max_size=5),
    entry=JSON
    | st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "BF16", "I8", "F4", "", None, [], {}]) | JSON,
            "shape": SIZES | JSON,
            "data_offsets": SIZES | JSON,
        }
    ),
    body=st.binary(max_size=16),
)
def test_random_headers(name: str, entry: Any, body: bytes) -> None:
    complaint(file_of({name: entry}, body))
    complaint(file_of(entry, body))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "cut off or not a safetensors file"),
        (b"\0" * 7, "cut off or not a safetensors file"),
        (b"\0" * 8, "its header is not JSON"),
        (file_of({}, length=3), "its header would be 3 bytes, the file has 10"),
        (file_of({}, length=2**64 - 1), "cut off or not a safetensors file"),
        (file_of({}, length=2**63), "cut off or not a safetensors file"),
        (file_of(b"[" * 100_000), "not JSON"),
        (file_of(b"\xff\xfe"), "not JSON"),
        (file_of(b'{"w": ' + b"9" * 5000 + b"}"), "not JSON"),
        (file_of([]), "its header is not a mapping"),
        (file_of(b"null"), "its header is not a mapping"),
        (file_of({"w": 3}), "entry for tensor 'w' makes no sense"),
        (file_of({"w": None}), "entry for tensor 'w' makes no sense"),
        (file_of({"w": {}}), "entry for tensor 'w' makes no sense"),
        (file_of(one(dtype="F4"), b"\0" * 8), "entry for tensor 'w' makes no sense"),
        (file_of(one(dtype=["F32"]), b"\0" * 8), "entry for tensor 'w' makes no sense"),
        (file_of(one(shape=(-2,)), b"\0" * 8), "entry for tensor 'w' makes no sense"),
        (file_of(one(shape=(-1, -2)), b"\0" * 8), "entry for tensor 'w' makes no sense"),
        (file_of(one(shape=(True, 2)), b"\0" * 8), "entry for tensor 'w' makes no sense"),
        (file_of(one(shape=(2.0,)), b"\0" * 8), "entry for tensor 'w' makes no sense"),
        (file_of(one(shape=""), b"\0" * 8), "entry for tensor 'w' makes no sense"),
        (file_of(one(shape={}, offsets=(0, 4)), b"\0" * 4), "entry for tensor 'w' makes no sense"),
        (file_of(one(offsets=(0.0, 8.0)), b"\0" * 8), "entry for tensor 'w' makes no sense"),
        (file_of(one(offsets=(-8, 0)), b"\0" * 8), "entry for tensor 'w' makes no sense"),
        (file_of(one(offsets=(0, 8, 9)), b"\0" * 8), "entry for tensor 'w' makes no sense"),
        (file_of(one(offsets=(8, 0)), b"\0" * 8), "tensor 'w' claims F32 [2] in -8 bytes"),
        (file_of(one(offsets=(0, 12)), b"\0" * 12), "tensor 'w' claims F32 [2] in 12 bytes"),
        (file_of(one(shape=(2**62, 4)), b"\0" * 8), "tensor 'w' claims F32"),
        (file_of(one(), b"\0" * 7), "cut off within tensor 'w'"),
        (file_of(one(shape=(2**40,), offsets=(0, 2**42)), b"\0" * 8), "cut off within tensor 'w'"),
        (file_of(one(), b"\0" * 9), "holds bytes after tensor 'w' that belong to no tensor"),
        (file_of(one(offsets=(4, 12)), b"\0" * 12), "holds bytes after the header that belong to no tensor"),
        (file_of({}, b"\0"), "holds bytes after the header that belong to no tensor"),
        (
            file_of(one() | {"v": one(offsets=(4, 12))["w"]}, b"\0" * 12),
            "tensor 'v' overlaps tensor 'w' in the file",
        ),
        (file_of(one() | {"v": one()["w"]}, b"\0" * 8), "overlaps tensor"),
        (
            file_of(one() | {"v": one(offsets=(12, 20))["w"]}, b"\0" * 20),
            "holds bytes after tensor 'w' that belong to no tensor",
        ),
        (file_of(b'{"w":%b,"w":%b}' % ((json.dumps(one()["w"]).encode(),) * 2), b"\0" * 8), "not JSON"),
        (file_of({"\ud800": one()["w"]}, b"\0" * 8), r"tensor '\ud800' makes no sense"),
    ],
)
def test_what_is_wrong_is_named(data: bytes, words: str) -> None:
    sentence = complaint(data)
    assert sentence is not None and words in sentence


def test_a_file_that_is_not_there_or_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(CheckpointError, match="cannot be read"):
            read_header(path)


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=4),
    st.integers(0, 12),
)
@example([(0, 4), (4, 8)], 8)
def test_layouts_are_accepted_exactly_when_safetensors_accepts_them(spans: list[tuple[int, int]], size: int) -> None:
    header = {
        f"t{i}": {"dtype": "U8", "shape": [max(0, end - start)], "data_offsets": [start, end]}
        for i, (start, end) in enumerate(spans)
    }
    data = file_of(header, bytes(size))
    try:
        deserialize(data)
        accepted = True
    except SafetensorError:
        accepted = False
    assert (complaint(data) is None) == accepted
