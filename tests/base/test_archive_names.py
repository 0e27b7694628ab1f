"""Names inside archives are only names: nothing is ever written where they point, and links are not followed."""

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from qwill.base.errors import SourceError
from qwill.base.packages import list_members, open_member

NAMES = ["../../outside.txt", "/etc/outside.txt", "pkg-1.0/../../../outside.txt", "pkg-1.0/data/in.txt", "C:\\x.txt"]


def make_zip(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as z:
        for name in NAMES:
            z.writestr(zipfile.ZipInfo(name), name.encode())
    return path


def make_tar(path: Path) -> Path:
    with tarfile.open(path, "w:gz") as t:
        for name in NAMES:
            info = tarfile.TarInfo(name)
            info.size = len(name.encode())
            t.addfile(info, io.BytesIO(name.encode()))
    return path


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_names_that_point_outside_are_read_and_written_nowhere(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    folder = tmp_path / "a" / "b" / "c"
    folder.mkdir(parents=True)
    archive = make(folder / "archive")
    before = sorted(tmp_path.rglob("*"))
    for name in list_members(archive):
        assert open_member(archive, name) == name.encode()
    assert open_member(archive, "data/in.txt") == b"pkg-1.0/data/in.txt"
    assert sorted(tmp_path.rglob("*")) == before and not Path("/etc/outside.txt").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_no_members(tmp_path: Path, kind: bytes) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as t:
        info = tarfile.TarInfo("pkg-1.0/data.txt")
        info.type, info.linkname = kind, str(secret)
        t.addfile(info)
    assert list_members(tmp_path / "a.tar.gz") == []
    for name in ("pkg-1.0/data.txt", "data.txt"):
        with pytest.raises(SourceError, match=f"holds no {name}"):
            open_member(tmp_path / "a.tar.gz", name)


def test_a_name_in_full_goes_before_one_without_its_folder(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as z:
        z.writestr("pkg-1.0/data.txt", b"inner")
        z.writestr("data.txt", b"outer")
    assert open_member(tmp_path / "a.zip", "data.txt") == b"outer"
    assert open_member(tmp_path / "a.zip", "pkg-1.0/data.txt") == b"inner"
