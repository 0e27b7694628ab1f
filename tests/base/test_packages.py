"""Packages come through pip's own index and settings, are checked by hash, and nothing in them is ever run."""

import io
import socket
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwill.base.errors import SourceError
from qwill.base.packages import fetch_package, list_members, open_member
from qwill.base.progress import Bar, Display

MEMBERS = {"made_up/data.txt": "英文 and 中文\n".encode() * 50, "made_up/__init__.py": b"raise SystemExit\n"}
WHEEL, SDIST = "made_up-1.0-py3-none-any.whl", "made_up-1.0.tar.gz"
SETUP = "import pathlib\npathlib.Path({marker!r}).touch()\n"


def zip_bytes(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
        for name, data in members.items():
            z.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def tar_bytes(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as t:
        for name, data in members.items():
            info = tarfile.TarInfo(f"made_up-1.0/{name}")
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))
    return out.getvalue()


@pytest.fixture
def links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all pip may look into; Qwill's cache is `tmp_path`/cache."""
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "links"
    folder.mkdir()
    for name, value in {
        "PIP_CONFIG_FILE": "/dev/null", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "PIP_RETRIES": "0",
        "QWILL_CACHE": str(tmp_path / "cache"), "no_proxy": "127.0.0.1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    return folder


def cached(links: Path) -> list[str]:
    cache = links.parent / "cache"
    return sorted(p.relative_to(cache).as_posix() for p in cache.rglob("*") if p.is_file())


# ---- fetching


def test_a_wheel_is_fetched_once_and_read_as_an_archive(links: Path) -> None:
    (links / WHEEL).write_bytes(zip_bytes(MEMBERS))
    path = fetch_package("made-up", "1.0")
    assert cached(links) == [f"packages/made-up-1.0/{WHEEL}"]
    assert path.read_bytes() == (links / WHEEL).read_bytes()
    assert list_members(path) == list(MEMBERS)
    assert {name: open_member(path, name) for name in MEMBERS} == MEMBERS


def test_what_is_in_the_cache_needs_neither_pip_nor_network(links: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (links / WHEEL).write_bytes(data := zip_bytes(MEMBERS))
    path = fetch_package("made-up", "1.0", sha256(data).hexdigest())
    (links / WHEEL).unlink()

    def started(*_: object, **__: object) -> None:
        raise AssertionError("pip was started")

    monkeypatch.setattr(subprocess, "Popen", started)
    assert fetch_package("made-up", "1.0") == path
    assert fetch_package("made-up", "1.0", sha256(data).hexdigest()) == path
    with pytest.raises(AssertionError, match="pip was started"):
        fetch_package("made-up", "1.1")


def test_a_source_package_is_fetched_without_running_it(links: Path, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    setup = SETUP.format(marker=str(marker))
    (links / SDIST).write_bytes(tar_bytes({"setup.py": setup.encode(), **MEMBERS}))
    path = fetch_package("made-up", "1.0", sdist=True)
    assert cached(links) == [f"packages/made-up-1.0-sdist/{SDIST}"]
    assert not marker.exists()
    # The first folder of a source archive carries the version; it may be left out.
    assert open_member(path, "made_up/data.txt") == open_member(path, "made_up-1.0/made_up/data.txt")
    # The marker is a marker: whoever does run the file leaves it behind.
    (tmp_path / "setup.py").write_bytes(open_member(path, "setup.py"))
    subprocess.run([sys.executable, tmp_path / "setup.py"], check=True)
    assert marker.exists()


def test_wheel_or_source_as_asked_and_the_source_where_there_is_no_wheel(links: Path) -> None:
    (links / SDIST).write_bytes(tar_bytes(MEMBERS))
    (links / "made_up-0.9.tar.gz").write_bytes(tar_bytes(MEMBERS))
    (links / WHEEL).write_bytes(zip_bytes(MEMBERS))
    assert fetch_package("made-up", "1.0").name == WHEEL
    assert fetch_package("made-up", "1.0", sdist=True).name == SDIST
    assert fetch_package("made-up", "0.9").name == "made_up-0.9.tar.gz"


def test_a_file_of_the_current_folder_does_not_stand_in_for_pip(
    links: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (links / WHEEL).write_bytes(zip_bytes(MEMBERS))
    (tmp_path / "pip.py").write_text("raise SystemExit('not pip')")
    (tmp_path / "json.py").write_text("raise SystemExit('not json')")
    monkeypatch.chdir(tmp_path)
    assert fetch_package("made-up", "1.0").is_file()


def test_a_wrong_hash_is_named_and_nothing_stays(links: Path) -> None:
    (links / WHEEL).write_bytes(data := zip_bytes(MEMBERS))
    with pytest.raises(SourceError, match=rf"{WHEEL} has sha256 {sha256(data).hexdigest()}, expected 00ff;") as caught:
        fetch_package("made-up", "1.0", "00ff")
    assert cached(links) == [] and "\n" not in str(caught.value)
    path = fetch_package("made-up", "1.0", sha256(data).hexdigest())
    path.write_bytes(data[:-1])
    with pytest.raises(SourceError, match=r"made-up 1\.0: .*it was deleted"):
        fetch_package("made-up", "1.0", sha256(data).hexdigest())
    assert cached(links) == []
    assert fetch_package("made-up", "1.0", sha256(data).hexdigest()).read_bytes() == data


def test_what_the_index_lacks_is_told_apart(links: Path) -> None:
    for version in ("0.2", "0.10", "0.9", "0.1"):
        (links / f"made_up-{version}-py3-none-any.whl").write_bytes(zip_bytes(MEMBERS))
    with pytest.raises(SourceError, match=r"made-up 1\.0 .*no such version \(the newest there: 0\.2, 0\.9, 0\.10\)"):
        fetch_package("made-up", "1.0")
    with pytest.raises(SourceError, match=r"nowhere 1\.0 could not be fetched: .* no package of that name"):
        fetch_package("nowhere", "1.0")
    assert cached(links) == []


@pytest.mark.parametrize("path", ["simple", "404/simple"])
def test_an_index_that_does_not_answer_is_named(links: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound and not listening: whoever connects is refused
        index = f"http://127.0.0.1:{free.getsockname()[1]}/{path}"
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.setenv("PIP_INDEX_URL", index)
        with pytest.raises(SourceError, match=f"{index}/made-up/ does not answer; check the network") as caught:
            fetch_package("made-up", "1.0")
    assert "\n" not in str(caught.value) and cached(links) == []


Answer = Callable[[BaseHTTPRequestHandler], None]


@pytest.fixture
def index(links: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Answer]]:
    """A package index on this machine: path → what answers it, 404 for the rest."""
    answers: dict[str, Answer] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path in answers:
                answers[self.path](self)
            else:
                self.send_error(404)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing on the screen of the tests."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
    yield answers
    server.shutdown()
    server.server_close()


def page(data: bytes, kind: str = "text/html", length: int | None = None) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(data) if length is None else length))
        request.end_headers()
        request.wfile.write(data)

    return answer


def listing(fragment: str = "") -> Answer:
    return page(f'<!DOCTYPE html><a href="/{WHEEL}{fragment}">{WHEEL}</a>'.encode())


def test_a_download_shows_how_far_it_is(
    index: dict[str, Answer], links: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = zip_bytes({"big": bytes(range(256)) * 4})
    index |= {"/simple/made-up/": listing(f"#sha256={sha256(data).hexdigest()}"), f"/{WHEEL}": page(data, "x/y")}
    path = fetch_package("made-up", "1.0", display=Display(live=False))
    assert path.read_bytes() == data
    size = f"{len(data) / 1e6:.4g}"
    assert capsys.readouterr().err.startswith(f"  fetch made-up 1.0: {size}/{size} MB")
    fetch_package("made-up", "1.0", display=Display(live=False))
    assert capsys.readouterr().err == ""  # from the cache there is nothing to show


@pytest.mark.parametrize(
    ("fragment", "length", "status", "words"),
    [
        ("", 10, 404, "404"),
        ("", 10_000_000, 200, r"(?i)broke|incomplete|connection"),
        (f"#sha256={'0' * 64}", None, 200, "(?i)do not match|expected"),
    ],
    ids=["gone", "broken off", "not what the index promised"],
)
def test_a_download_that_fails_is_one_sentence_and_leaves_nothing(
    index: dict[str, Answer], links: Path, fragment: str, length: int | None, status: int, words: str
) -> None:
    index["/simple/made-up/"] = listing(fragment)
    if status == 200:
        index[f"/{WHEEL}"] = page(zip_bytes(MEMBERS), "x/y", length)
    with pytest.raises(SourceError, match=words) as caught:
        fetch_package("made-up", "1.0")
    assert str(caught.value).startswith("package made-up 1.0 could not be fetched: ")
    assert "\n" not in str(caught.value) and cached(links) == []


def test_a_failure_while_showing_progress_ends_the_download(links: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (links / WHEEL).write_bytes(zip_bytes(MEMBERS))
    started: list[subprocess.Popen[str]] = []
    real = subprocess.Popen

    def remembered(*arguments: object, **options: object) -> subprocess.Popen[str]:
        started.append(real(*arguments, **options))  # type: ignore[call-overload]
        return started[-1]

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", remembered)
    monkeypatch.setattr(Bar, "update", stopped)
    with pytest.raises(KeyboardInterrupt):
        fetch_package("made-up", "1.0")
    assert started[0].poll() is not None and cached(links) == []


# ---- archives


def test_a_member_that_is_not_there_is_named_with_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "a.whl"
    path.write_bytes(zip_bytes(MEMBERS))
    with pytest.raises(SourceError, match=r"a\.whl: holds no made_up/dat\.txt; did you mean made_up/data\.txt\?"):
        open_member(path, "made_up/dat.txt")
    with pytest.raises(SourceError, match=r"a\.whl: holds no 中\.$"):
        open_member(path, "中")


def test_folders_are_no_members(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as z:
        z.writestr("folder/", b"")
        z.writestr("folder/file", b"1")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as t:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        t.addfile(folder)
        t.addfile(tarfile.TarInfo("folder/file"))
    assert [list_members(tmp_path / name) for name in ("a.zip", "a.tar.gz")] == [["folder/file"]] * 2


@pytest.mark.parametrize("name", ["none.zip", "."])
def test_an_archive_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    for read in (list_members, lambda path: open_member(path, "a")):
        with pytest.raises(SourceError, match="cannot be read") as caught:
            read(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)


@given(
    kind=st.sampled_from([zip_bytes, tar_bytes]),
    at=st.floats(0, 1, exclude_max=True),
    bits=st.integers(1, 255) | st.none(),
)
def test_a_cut_or_changed_archive_gives_the_right_bytes_or_one_sentence(
    kind: Callable[[dict[str, bytes]], bytes], at: float, bits: int | None
) -> None:
    data = bytearray(kind(MEMBERS))
    place = int(at * len(data))
    if bits is None:
        del data[place:]
    else:
        data[place] ^= bits
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a"
        path.write_bytes(data)
        for name, content in MEMBERS.items():
            try:
                assert open_member(path, name) == content
            except SourceError as error:
                assert str(path) in str(error) and "\n" not in str(error)
