"""Debian's and npm's packages come by their own clients (here: scripts in their place) and are read as archives."""

import io
import os
import tarfile
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest

from qwill.base.errors import SourceError
from qwill.base.other_packages import fetch_debian, fetch_npm
from qwill.base.packages import list_members, open_member, unpack

MEMBERS = {"./usr/share/a/text/1.html": b"<p>one</p>", "./usr/share/a/text/b/2.html": b"<p>two</p>"}


def tar(members: dict[str, bytes], mode: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as t:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("./usr/share/a/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        t.addfile(link)
    return out.getvalue()


def deb(members: dict[str, bytes], kind: str = "xz") -> bytes:
    def entry(name: str, data: bytes) -> bytes:
        head = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode()
        return head + data + b"\n" * (len(data) % 2)

    if kind == "zst":
        zstandard = pytest.importorskip("zstandard")
        data = zstandard.ZstdCompressor().compress(tar(members, "w"))
    else:
        data = tar(members, f"w:{kind}")
    # An odd length before the data, so that a reader that forgets the padding is found out.
    return (
        b"!<arch>\n"
        + entry("debian-binary", b"2.0")
        + entry("control.tar.xz", b"odd")
        + entry(f"data.tar.{kind}", data)
    )


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of PATH beside the system's; Qwill's cache is `tmp_path`/cache."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.setenv("QWILL_CACHE", str(tmp_path / "cache"))
    return folder


def script(path: Path, lines: str) -> None:
    path.write_text("#!/bin/sh\n" + lines)
    path.chmod(0o755)


@pytest.mark.parametrize("kind", ["xz", "gz", "zst"])
def test_a_debian_package_is_fetched_once_and_read(client: Path, tmp_path: Path, kind: str) -> None:
    data = deb(MEMBERS, kind)
    (tmp_path / "there.deb").write_bytes(data)
    script(
        client / "apt-get", f'[ "$*" = "download -q made-up=4:1.0" ] && cp {tmp_path}/there.deb made-up_4%3a1.0.deb\n'
    )
    path = fetch_debian("made-up", "4:1.0", sha256(data).hexdigest())
    (client / "apt-get").unlink()
    assert fetch_debian("made-up", "4:1.0", sha256(data).hexdigest()) == path
    assert list_members(path) == list(MEMBERS)
    assert {name: open_member(path, name) for name in MEMBERS} == MEMBERS
    folder = unpack(path)
    files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert files == {name.removeprefix("./"): content for name, content in MEMBERS.items()}
    assert unpack(path) == folder


def test_an_npm_package_is_fetched_without_its_scripts(client: Path, tmp_path: Path) -> None:
    data = tar({"package/a.json": b"[]"}, "w:gz")
    (tmp_path / "there.tgz").write_bytes(data)
    script(
        client / "npm",
        f'[ "$*" = "pack --ignore-scripts --loglevel=error made-up@1.0" ] && cp {tmp_path}/there.tgz made-up-1.0.tgz\n',
    )
    assert open_member(fetch_npm("made-up", "1.0", sha256(data).hexdigest()), "package/a.json") == b"[]"
    with pytest.raises(SourceError, match=r"made-up-1\.0\.tgz has sha256"):
        fetch_npm("made-up", "1.0", "00ff")


def test_why_a_package_cannot_be_had_is_one_sentence(client: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(client / "apt-get", 'echo "W: a warning" >&2; echo "E: Version \'2\' was not found" >&2; exit 100\n')
    with pytest.raises(
        SourceError, match=r"made-up 2 could not be fetched: Version '2' was not found; run `apt-get update`"
    ):
        fetch_debian("made-up", "2", "00ff")
    script(
        client / "npm", 'echo "npm error code ETARGET" >&2; echo "npm error notarget No such version." >&2; exit 1\n'
    )
    with pytest.raises(SourceError, match=r"made-up 2 could not be fetched: No such version; check the network"):
        fetch_npm("made-up", "2", "00ff")
    script(client / "npm", "exit 0\n")
    with pytest.raises(SourceError, match="npm brought no file"):
        fetch_npm("made-up", "2", "00ff")
    monkeypatch.setenv("PATH", str(client.parent))
    with pytest.raises(SourceError, match="apt-get is not installed"):
        fetch_debian("made-up", "2", "00ff")


@pytest.mark.parametrize("name", ["../../out", "/etc/out"])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "a.zip", "w") as z:
        z.writestr("fine", b"1")
        z.writestr(name, b"1")
    with pytest.raises(SourceError, match="leads out of its folder"):
        unpack(folder / "a.zip")
    assert [p.name for p in tmp_path.rglob("*")] == ["a", "b", "a.zip"]


@pytest.mark.parametrize("cut", [9, 30, 75, 140, 250, -10])
def test_a_cut_debian_package_is_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.deb"
    path.write_bytes(deb(MEMBERS)[:cut])
    with pytest.raises(SourceError, match=r"a\.deb: not a sound archive"):
        list_members(path)
