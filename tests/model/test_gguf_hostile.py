"""Whatever a GGUF file or a folder of safetensors holds, loading it ends in a model or in one sentence, and takes no
more memory than its size accounts for."""

import json
import os
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qwill.base.errors import CheckpointError, QwillError
from qwill.model import load_model, save_model
from qwill.model.gguf import load_gguf, save_gguf
from qwill.model.gguf_file import read_gguf

from .gguf_models import tiny
from .gguf_writer import INTEGER, KINDS, text
from .parity import RECORD

FUZZ = settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
# Objects of Python for what a file holds (a text of one byte is nine in the file), and what loading needs anyway.
PER_BYTE, ANYWAY = 12, 3_000_000
EXTREME = [0, 1, 7, 2**7, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1]


@contextmanager
def bounded(size: int) -> Iterator[None]:
    """At most as much memory of Python and NumPy as a file of this size accounts for."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < PER_BYTE * size + ANYWAY
    finally:
        tracemalloc.stop()


def outcome(path: Path, load: Callable[[Path], Any], size: int) -> str:
    """The sentence that loading ends in, empty where it loads; any other exception goes through."""
    try:
        with bounded(size):
            model = load(path)
    except QwillError as error:
        sentence = str(error)
        assert sentence.startswith(str(path)) and "\n" not in sentence and len(sentence) < 500 + 2 * len(str(path))
        sentence.encode()
        return sentence
    assert sum(p.nbytes for p in model.parameters()) < 10 * size
    return ""


# -- GGUF


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A quantised file of each kind of model that there is."""
    folder, found = tmp_path_factory.mktemp("whole"), {}
    for case, kind in (("llama", "Q4_0"), ("qwen2", "F16"), ("qwen3_yarn", "Q8_0"), ("qwen3_moe", "BF16")):
        save_gguf(*tiny(case), folder / case, kind)
        found[case] = (folder / case).read_bytes()
    return found


CASE = st.sampled_from(["llama", "qwen2", "qwen3_yarn", "qwen3_moe"])


def head_size(content: bytes, path: Path) -> int:
    path.write_bytes(content)
    return min(t.start for t in read_gguf(path).tensors.values())


def try_gguf(content: bytes, path: Path) -> str:
    path.write_bytes(content)
    return outcome(path, lambda p: load_gguf(p)[0], len(content))


@FUZZ
@given(st.data(), CASE)
def test_numbers_of_any_size_anywhere(tmp_path: Path, whole: dict[str, bytes], data: st.DataObject, case: str) -> None:
    """Counts, lengths, sizes, offsets, types: any field may hold anything."""
    content = bytearray(whole[case])
    head = head_size(bytes(content), tmp_path / "m.gguf")
    # Near the front and the back of the head are the counts, the settings and the tensors; between them the vocabulary.
    at = data.draw(st.integers(4, 1500) | st.integers(head - 3000, head - 8) | st.integers(4, head - 8))
    form = data.draw(st.sampled_from(["<Q", "<I", "<B"]))
    value = data.draw(st.sampled_from(EXTREME)) % 2 ** (8 * struct.calcsize(form))
    struct.pack_into(form, content, at, value)
    try_gguf(bytes(content), tmp_path / "m.gguf")


@FUZZ
@given(st.data(), CASE)
def test_bytes_changed_cut_out_or_put_in(
    tmp_path: Path, whole: dict[str, bytes], data: st.DataObject, case: str
) -> None:
    content = whole[case]
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, 2000) | st.integers(0, len(content) - 1))
        gone = data.draw(st.integers(0, 9))
        content = content[:at] + data.draw(st.binary(max_size=9)) + content[at + gone :]
    try_gguf(content, tmp_path / "m.gguf")


@FUZZ
@given(st.data(), CASE)
def test_a_cut_anywhere_is_noticed(tmp_path: Path, whole: dict[str, bytes], data: st.DataObject, case: str) -> None:
    content = whole[case]
    # The last tensor may be followed by padding, which nobody misses.
    kept = data.draw(st.integers(0, 3000) | st.integers(0, len(content) - 40))
    assert try_gguf(content[:kept], tmp_path / "m.gguf") != ""


@FUZZ
@given(rest=st.binary(max_size=200))
def test_anything_after_the_magic_number(tmp_path: Path, rest: bytes) -> None:
    path = tmp_path / "m.gguf"
    assert try_gguf(b"GGUF" + rest, path) != ""
    assert try_gguf(b"GGUF" + struct.pack("<I", 3) + rest, path) != ""


def described(name: bytes, kind: int = KINDS["F32"], offset: int = 0, sizes: tuple[int, ...] = (8,)) -> bytes:
    head = struct.pack("<Q", len(name)) + name + struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes)
    return head + struct.pack("<IQ", kind, offset)


def container(tensors: list[bytes], entries: list[bytes], data: int = 256) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(entries)) + b"".join(entries) + b"".join(tensors)
    return head + bytes(-len(head) % 32 + data)


NUMBER = struct.pack("<II", INTEGER, 7)
HOSTILE = {
    "damaged in the key of metadata entry 2 of 2": container([], [text("a") + NUMBER, struct.pack("<Q", 2**60)], 0),
    "the value of the metadata key 'big'": container([], [text("big") + struct.pack("<IQ", 8, 2**63)], 0),
    "in the value of the metadata key 'many'": container([], [text("many") + struct.pack("<IIQ", 9, 8, 2**61)], 8),
    "in the description of tensor 2 of 2": container([described(b"a"), struct.pack("<Q", 2**50)], [], 0),
    "name of 70000 bytes; expected at most 65535": container([], [text("k" * 70_000) + NUMBER]),
    "tensor 1 of 1 has a name of 64 bytes; expected at most 63": container([described(b"n" * 64)], []),
    "'kkkkk.*'… is there twice": container([], [text("k" * 200) + NUMBER] * 2),
    "tensors 'a' and 'b' overlap": container([described(b"a"), described(b"b", offset=0)], []),
    "'b' claims F32 .8. at offset 16, which makes no sense": container([described(b"a"), described(b"b", 0, 16)], []),
    "is of type 999, which Qwill can't read": container([described(b"a", 999)], []),
    "is of type IQ2_XXS": container([described(b"a", 16, sizes=(256,))], []),
    "cut off within tensor 'a'": container([described(b"a", sizes=(2**63, 2**63, 2**63, 2**63))], []),
    "cut off within tensor 'c'": container([described(b"c", offset=2**63)], []),
    "claims F32 .0, 2. at": container([described(b"a", sizes=(2, 0))], []),
    "text at byte 32, in the key of metadata": container([], [struct.pack("<Q", 2) + b"\xff\xfe" + NUMBER]),
}  # fmt: skip


@pytest.mark.parametrize("says", HOSTILE)
def test_hostile_containers_are_named(says: str, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(HOSTILE[says])
    with bounded(len(HOSTILE[says])), pytest.raises(QwillError, match=says) as caught:
        read_gguf(path)
    assert str(caught.value).startswith(f"{path}: ") and len(str(caught.value)) < 500


def test_an_alignment_beyond_everything(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    for power in (31, 63):
        entry = text("general.alignment") + struct.pack("<IQ", 10, 2**power)
        path.write_bytes(container([described(b"a")], [entry]))
        with pytest.raises(CheckpointError, match="cut off within tensor 'a'"):
            read_gguf(path)


# -- folders of safetensors in several files

INDEX = "model.safetensors.index.json"
NAMES = st.sampled_from(["..", ".", "", "/etc/passwd", "a/b.safetensors", "../m.safetensors", "config.json", "x" * 300,
                         "a\0b", "\ud800", "loop.safetensors", "folder.safetensors", INDEX, "\n"])  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9) | NAMES, inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded") / "m"
    save_model(load_model(RECORD / "moe"), folder, shard_bytes=2e4)
    os.symlink("loop.safetensors", folder / "loop.safetensors")
    (folder / "folder.safetensors").mkdir()
    return folder


@FUZZ
@given(st.data())
def test_an_index_that_names_anything(sharded: Path, data: st.DataObject) -> None:
    index = sharded / INDEX
    sound = index.read_text()
    try:
        changed = json.loads(sound)
        where = data.draw(st.sampled_from(["name", "names", "map", "all"]))
        if where == "name":
            changed["weight_map"][data.draw(st.sampled_from([*changed["weight_map"]]))] = data.draw(NAMES | JSON)
        elif where == "names":
            changed["weight_map"] = data.draw(st.dictionaries(st.text(max_size=9), NAMES, max_size=4))
        elif where == "map":
            changed["weight_map"] = data.draw(JSON)
        else:
            changed = data.draw(JSON)
        index.write_text(json.dumps(changed))
        size = sum(p.stat().st_size for p in sharded.glob("model-*"))
        assert outcome(sharded, load_model, size) != "" or changed == json.loads(sound)
    finally:
        index.write_text(sound)


def test_a_file_that_is_the_same_as_another_gives_its_tensors_once(sharded: Path) -> None:
    """Two names of one file: every tensor is there twice, which is said."""
    index = sharded / INDEX
    sound = index.read_text()
    os.link(min(sharded.glob("model-*.safetensors")), sharded / "again.safetensors")
    try:
        changed = json.loads(sound)
        changed["weight_map"]["again"] = "again.safetensors"
        index.write_text(json.dumps(changed))
        with pytest.raises(CheckpointError, match=r"is also in"):
            load_model(sharded)
    finally:
        index.write_text(sound)
        (sharded / "again.safetensors").unlink()


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    from qwill.model.stored import StoredTensors

    save_model(load_model(RECORD / "dense"), tmp_path)
    with StoredTensors(tmp_path) as stored:
        name = max(stored.names, key=lambda n: stored.entries[n][1].end)
        os.truncate(tmp_path / "model.safetensors", (tmp_path / "model.safetensors").stat().st_size - 8)
        import torch

        with pytest.raises(CheckpointError, match=f"cut off within tensor '{name}'"):
            stored.fill([(name, torch.empty(stored.entries[name][1].shape))])
