"""Files and folders appear whole or not at all, whatever fails and wherever the process is killed."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwill.base import files
from qwill.base.errors import ArtifactError, DataError
from qwill.base.files import (
    canonical_json,
    exchange,
    new_folder,
    read_json,
    read_jsonl,
    replace_folder,
    sha256_file,
    write_bytes,
    write_json,
    write_jsonl,
    write_text,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# ---- writing and reading files


@given(JSON)
def test_json_is_read_as_it_was_written(value: Any) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.json"
        write_json(path, value)
        assert read_json(path) == value
        text = path.read_text(encoding="utf-8")
        assert text.endswith("\n") and text == json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True) + "\n"


@given(st.lists(st.dictionaries(st.text(), JSON, max_size=3), max_size=4))
def test_rows_are_read_as_they_were_written(rows: list[dict[str, Any]]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.jsonl"
        write_jsonl(path, rows)
        assert list(read_jsonl(path)) == list(enumerate(rows, start=1))


@given(JSON)
def test_canonical_json_is_one_spelling(value: Any) -> None:
    text = canonical_json(value)
    assert canonical_json(json.loads(text)) == text and b"\n" not in text


def test_canonical_json_sorts_keys_and_refuses_what_is_not_json() -> None:
    assert canonical_json({"b": [1, 2.5], "a": "中"}) == '{"a":"中","b":[1,2.5]}'.encode()
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))


def test_writing_again_replaces(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "one, and longer")
    write_text(tmp_path / "a", "二")
    assert tree(tmp_path) == {"a": "二".encode()}
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


def test_sha256_of_a_file_longer_than_a_chunk(tmp_path: Path) -> None:
    import hashlib

    data = bytes(range(256)) * (files.CHUNK // 256) + b"tail"
    (tmp_path / "a").write_bytes(data)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(data).hexdigest()


def test_empty_lines_are_passed_over_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\n{"a": 1}\r\n \n\t\n{"a": "\xe2\x80\xa8"}')
    assert list(read_jsonl(tmp_path / "a.jsonl")) == [(2, {"a": 1}), (5, {"a": "\u2028"})]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'{"a": 1}\n{"a": \n', r"a\.jsonl: line 2 is not valid JSON \(Expecting value\)"),
        (b'\n\n{"a": 1} {"b": 2}\n', r"a\.jsonl: line 3 is not valid JSON \(Extra data\)"),
        (b'{"a": 1}\n[1]\n', r"a\.jsonl: line 2 holds list; expected a JSON object"),
        (b"null\n", r"a\.jsonl: line 1 holds NoneType; expected a JSON object"),
        (b'{"a": 1}\n{"a": "\xff"}\n', r"a\.jsonl: line 2 is not UTF-8; convert the file to UTF-8"),
        ("你好".encode("gb18030"), r"a\.jsonl: line 1 is not UTF-8"),
        (b"{}\n" + b"[" * 100_000, r"a\.jsonl: line 2 holds JSON with a number too long or nested too deep"),
        (b'{"a": ' + b"7" * 5000 + b"}", r"a\.jsonl: line 1 holds JSON with a number too long"),
    ],
)
def test_bad_rows_are_named_with_file_and_line(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(data)
    with pytest.raises(DataError, match=words) as caught:
        list(read_jsonl(tmp_path / "a.jsonl"))
    assert "\n" not in str(caught.value)


def test_rows_before_a_bad_line_are_given(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\nbroken\n')
    rows = read_jsonl(tmp_path / "a.jsonl")
    assert next(rows) == (1, {"a": 1})
    with pytest.raises(DataError, match="line 2"):
        next(rows)


@pytest.mark.parametrize(
    ("text", "words"),
    [('{\n"a": 1,\n}', "line 3"), ("", "line 1"), ("[" * 100_000, "nested too deep"), ("1" * 5000, "number too long")],
)
def test_bad_json_is_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=rf"a\.json: .*{words}"):
        read_json(tmp_path / "a.json")


def test_what_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json: cannot be read \(No such file or directory\)"):
        read_json(tmp_path / "none.json")
    with pytest.raises(DataError, match=r"cannot be read \(Is a directory\)"):
        list(read_jsonl(tmp_path))


# ---- failures while writing


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def killed(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


class HalfFile:
    """A file on a disk that fills up in the middle of what is written."""

    def __init__(self, descriptor: int, mode: str) -> None:
        self.file = open(descriptor, mode)  # noqa: SIM115

    def __enter__(self) -> "HalfFile":
        return self

    def __exit__(self, *_: Any) -> None:
        self.file.close()

    def write(self, data: bytes) -> None:
        self.file.write(data[: len(data) // 2])
        full_disk()


@pytest.mark.parametrize("fail", [full_disk, killed])
@pytest.mark.parametrize("step", ["fsync", "replace", "chmod"])
@pytest.mark.parametrize("there", [True, False])
def test_a_failed_write_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail: Callable[..., None], step: str, there: bool
) -> None:
    if there:
        write_json(tmp_path / "a.json", {"old": True})
    before = tree(tmp_path)
    with monkeypatch.context() as patch, pytest.raises((OSError, KeyboardInterrupt)) as caught:
        patch.setattr(os, step, fail)
        write_json(tmp_path / "a.json", {"new": True})
    assert tree(tmp_path) == before
    if fail is full_disk:
        # The command line makes its sentence of this number.
        assert isinstance(caught.value, OSError) and caught.value.errno == errno.ENOSPC


def test_a_disk_that_fills_up_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "a", "old")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(os, "fdopen", HalfFile)
        write_text(tmp_path / "a", "new and long")
    assert tree(tmp_path) == {"a": b"old"}


@pytest.mark.parametrize("value", [{1, 2}, "\ud800", object()])
def test_what_cannot_be_written_down_touches_nothing(tmp_path: Path, value: Any) -> None:
    write_json(tmp_path / "a.json", 1)
    for write in (write_json, lambda path, v: write_jsonl(path, [{"ok": 1}, {"v": v}])):
        with pytest.raises((TypeError, UnicodeEncodeError)):
            write(tmp_path / "a.json", value)
    assert tree(tmp_path) == {"a.json": b"1\n"}


def test_the_file_is_on_disk_before_it_takes_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(descriptor: int) -> None:
        order.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        fsync(descriptor)

    def note_replace(source: str, target: Path) -> None:
        order.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    write_bytes(tmp_path / "a", b"x")
    assert order == ["file", "rename", "folder"]


# ---- folders

OLD, NEW = {"old.txt": b"old", "same.txt": b"1"}, {"new.txt": b"new", "same.txt": b"2", "sub/deep.txt": b"3"}


def fill(folder: Path, content: dict[str, bytes]) -> None:
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


@pytest.fixture(params=["exchange", "two renames"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Both ways of replacing a folder: the one of this system, and the one where names can't be swapped."""
    if request.param == "two renames":
        monkeypatch.setattr(files, "exchange", lambda one, other: False)
    yield request.param


def test_a_new_folder_takes_its_name_only_when_finished(tmp_path: Path) -> None:
    final = tmp_path / "runs" / "demo" / "base"
    with new_folder(final) as out:
        fill(out, NEW)
        assert not final.exists() and out.parent == final.parent and out.name.startswith(".")
    assert tree(tmp_path) == {f"runs/demo/base/{k}": v for k, v in NEW.items()}
    assert final.stat().st_mode & 0o777 == 0o755


def test_a_new_folder_replaces_the_old_one_whole(tmp_path: Path, way: str) -> None:
    fill(tmp_path / "a", OLD)
    with new_folder(tmp_path / "a") as out:
        fill(out, NEW)
        assert tree(tmp_path / "a") == OLD
    assert tree(tmp_path / "a") == NEW and os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_a_new_folder_vanishes_on_an_error(tmp_path: Path, error: type[BaseException]) -> None:
    fill(tmp_path / "a", OLD)
    for name in ("a", "b"):
        with pytest.raises(error), new_folder(tmp_path / name) as out:
            fill(out, NEW)
            raise error
    assert tree(tmp_path) == {f"a/{k}": v for k, v in OLD.items()} and os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("fail", [full_disk, killed])
def test_a_folder_that_cannot_be_synced_does_not_take_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail: Callable[..., None]
) -> None:
    fill(tmp_path / "a", OLD)
    with monkeypatch.context() as patch, pytest.raises((OSError, KeyboardInterrupt)), new_folder(tmp_path / "a") as out:
        fill(out, NEW)
        patch.setattr(os, "fsync", fail)
    assert tree(tmp_path / "a") == OLD and os.listdir(tmp_path) == ["a"]


def test_a_file_in_the_way_is_named_and_kept(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("mine")
    with pytest.raises(ArtifactError, match=r"a is a file; give the name of a folder"), new_folder(tmp_path / "a"):
        pass
    assert tree(tmp_path) == {"a": b"mine"}


def test_a_link_to_a_folder_is_replaced_and_its_target_kept(tmp_path: Path, way: str) -> None:
    fill(tmp_path / "elsewhere", OLD)
    (tmp_path / "a").symlink_to("elsewhere")
    with new_folder(tmp_path / "a") as out:
        fill(out, NEW)
    assert tree(tmp_path / "a") == NEW and not (tmp_path / "a").is_symlink()
    assert tree(tmp_path / "elsewhere") == OLD and sorted(os.listdir(tmp_path)) == ["a", "elsewhere"]


def test_a_link_to_nothing_is_replaced(tmp_path: Path, way: str) -> None:
    (tmp_path / "a").symlink_to("gone")
    with new_folder(tmp_path / "a") as out:
        fill(out, NEW)
    assert tree(tmp_path / "a") == NEW and os.listdir(tmp_path) == ["a"]


def test_a_finished_folder_put_in_place_leaves_nothing_beside_it(tmp_path: Path, way: str) -> None:
    fill(tmp_path / "a", OLD)
    fill(tmp_path / "b", NEW)
    replace_folder(tmp_path / "b", tmp_path / "a")
    assert tree(tmp_path / "a") == NEW and os.listdir(tmp_path) == ["a"]


def test_exchange_swaps_two_folders_or_says_that_it_did_not(tmp_path: Path) -> None:
    fill(tmp_path / "a", OLD)
    fill(tmp_path / "b", NEW)
    swapped = exchange(tmp_path / "a", tmp_path / "b")
    assert (tree(tmp_path / "a"), tree(tmp_path / "b")) == ((NEW, OLD) if swapped else (OLD, NEW))
    assert not exchange(tmp_path / "a", tmp_path / "nothing")


KILLED = """
import os, shutil, sys
from pathlib import Path
from qwill.base import files
final, way, survive = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
if way == "two renames":
    files.exchange = lambda one, other: False
count = 0
def mortal(function):
    def call(*arguments, **named):
        global count
        if count == survive:
            os._exit(9)
        count += 1
        return function(*arguments, **named)
    return call
with files.new_folder(final) as out:
    for name, data in (("new.txt", "new"), ("same.txt", "2"), ("sub/deep.txt", "3")):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text(data)
    for module, name in ((os, "rename"), (os, "fsync"), (os, "unlink"), (os, "rmdir"), (files, "exchange")):
        setattr(module, name, mortal(getattr(module, name)))
"""


def test_killed_anywhere_the_old_or_the_new_folder_is_there(tmp_path: Path, way: str) -> None:
    """The process dies before its n-th call into the file system, for every n until one lives."""
    seen = set()
    for survive in range(40):
        home = tmp_path / str(survive)
        final = home / "a"
        fill(final, OLD)
        done = subprocess.run([sys.executable, "-c", KILLED, str(final), way, str(survive)], check=False)
        assert done.returncode in (0, 9)
        if way == "exchange":
            # In one step: whoever looks at any time finds one of the two.
            assert tree(final) in (OLD, NEW)
        # The next attempt gets a folder to fill; even when it fails, a whole folder stands under the name.
        with pytest.raises(ValueError, match="again"), new_folder(final):
            raise ValueError("again")
        assert tree(final) in (OLD, NEW)
        seen.add(tuple(tree(final)))
        with new_folder(final) as out:
            fill(out, {"third.txt": b"3"})
        assert tree(final) == {"third.txt": b"3"}
        if done.returncode == 0:
            break
    else:
        raise AssertionError("the process never lived to the end")
    assert seen == {tuple(sorted(OLD)), tuple(sorted(NEW))}
