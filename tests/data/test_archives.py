"""Archives whose headers or contents are too large are refused before they are read."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

import pytest

from pydistill.data import archives
from pydistill.data.archives import unpacked
from pydistill.errors import FormatError
from tests.data.files import two_classes, write_tar


class Zeros:
    """A file without end."""

    def read(self, count: int) -> bytes:
        return bytes(count)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE])
@pytest.mark.parametrize("first", [True, False])
def test_large_headers_are_not_read(tmp_path: Path, kind: bytes, first: bool) -> None:
    path = write_tar(tmp_path / "d.tar", {} if first else two_classes())
    header = tarfile.TarInfo("x")
    header.type, header.size = kind, 2**33  # only announced
    with tarfile.open(path, "a") as archive:
        archive.fileobj.write(header.tobuf())  # type: ignore[union-attr]
    with pytest.raises(FormatError), unpacked(path, tmp_path / "cache"):
        pass


@pytest.mark.parametrize("name", ["train/a/x.png", "notes.bin"])
@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
def test_contents_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, name: str) -> None:
    monkeypatch.setattr(archives, "_SMALLEST_LIMIT", 2**20)
    path, size = tmp_path / f"d.{kind}", 2**23
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
            zipped.writestr(name, bytes(size))
    else:
        with tarfile.open(path, "w:gz" if kind == "tar.gz" else "w") as archive:
            member = tarfile.TarInfo(name)
            member.size = size
            archive.addfile(member, Zeros())  # type: ignore[arg-type]
    if kind == "tar":  # as large as its content
        with unpacked(path, tmp_path / "cache") as folder:
            assert (folder / name).stat().st_size == size
        return
    with pytest.raises(FormatError), unpacked(path, tmp_path / "cache"):
        pass
    assert not list((tmp_path / "cache").iterdir())


def test_long_names_are_unpacked(tmp_path: Path) -> None:
    name = "/".join(["long" * 20] * 5)
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with tarfile.open(tmp_path / "d.tar", "w", format=form) as archive:
            archive.addfile(tarfile.TarInfo(name))
        with unpacked(tmp_path / "d.tar", tmp_path / "cache") as folder:
            assert (folder / name).is_file()
