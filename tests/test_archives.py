"""Archives of strangers: what is good in them arrives, what is not is refused, and nothing of it stays."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.helpers_fuzz import damaged, fuzz, inputs, written
from utils import archives
from utils.archives import unpack
from utils.errors import UserError

CONTENT = b"some words of text\n" * 500


def member(name: str, content: bytes = b"x", kind: bytes = tarfile.REGTYPE, target: str = "") -> tuple[Any, bytes]:
    """A member of an archive and what it holds."""
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    entry.size = len(content) if kind == tarfile.REGTYPE else 0
    return entry, content


def archive_of(*members: tuple[Any, bytes], mode: Any = "w:gz") -> bytes:
    """The bytes of an archive."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for entry, content in members:
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def quiet(_: str) -> None:
    """Says nothing."""


def everything_below(folder: Path) -> set[str]:
    """The paths of all that lies in a folder."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_plain_archive_is_unpacked(tmp_path: Path, mode: str) -> None:
    """Folders and files arrive, whatever the compression; permissions do not."""
    entry, content = member("corpus/deep/train.txt", CONTENT)
    entry.mode = 0o7777
    members = (member("corpus", kind=tarfile.DIRTYPE), (entry, content), member("corpus/valid.txt"))
    unpack(written(tmp_path / "a", archive_of(*members, mode=mode)), tmp_path / "corpus", say=quiet)
    assert everything_below(tmp_path / "corpus") == {"deep", "deep/train.txt", "valid.txt"}
    found = tmp_path / "corpus" / "deep" / "train.txt"
    assert found.read_bytes() == CONTENT and not found.stat().st_mode & 0o7111


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (member("../out.txt"), "leads out of the folder"),
        (member("corpus/../../out.txt"), "leads out of the folder"),
        (member("/out.txt"), "leads out of the folder"),
        (member("corpus/link", kind=tarfile.SYMTYPE, target="/etc"), "a link or a device"),
        (member("corpus/link", kind=tarfile.SYMTYPE, target="train.txt"), "a link or a device"),
        (member("corpus/link", kind=tarfile.LNKTYPE, target="corpus/train.txt"), "a link or a device"),
        (member("corpus/pipe", kind=tarfile.FIFOTYPE), "a link or a device"),
        (member("corpus/disk", kind=tarfile.BLKTYPE), "a link or a device"),
    ],
)
def test_a_hostile_member_is_refused(tmp_path: Path, bad: tuple[Any, bytes], told: str) -> None:
    """Behind good ones too: nothing of the archive stays, and nothing lies outside of it."""
    if bad[0].name.startswith("/"):
        bad[0].name = str(tmp_path / "out.txt")
    content = archive_of(member("corpus/train.txt"), bad)
    with pytest.raises(UserError, match=f"a: refused, .*{told}"):
        unpack(written(tmp_path / "a", content), tmp_path / "inner" / "corpus", say=quiet)
    assert everything_below(tmp_path) == {"a"}


def test_one_file_does_not_replace_another(tmp_path: Path) -> None:
    """Two members of one name, or a file where a folder is: no honest archive has them."""
    for second in ("corpus/train.txt", "corpus/train.txt/deeper"):
        content = archive_of(member("corpus/train.txt"), member(second))
        with pytest.raises(UserError, match="not a tar archive that can be read"):
            unpack(written(tmp_path / "a", content), tmp_path / "corpus", say=quiet)
        assert everything_below(tmp_path) == {"a"}


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that grows far more than text does is refused before it is written; text of that length is not."""
    monkeypatch.setattr(archives, "ALWAYS_BYTES", 1 << 16)
    bomb = written(tmp_path / "bomb", archive_of(member("corpus/train.txt", bytes(10_000_000))))
    assert bomb.stat().st_size * archives.MOST_EXPANSION < 10_000_000
    with pytest.raises(UserError, match=r"bomb: refused, it holds more than [\d,]+ bytes"):
        unpack(bomb, tmp_path / "corpus", say=quiet)
    assert everything_below(tmp_path) == {"bomb"}
    text = b"".join(b"%d words of text " % number for number in range(200_000))
    unpack(written(tmp_path / "a", archive_of(member("corpus/train.txt", text))), tmp_path / "corpus", say=quiet)


def test_many_small_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits are the archive's, not each member's: of bytes and of files."""
    monkeypatch.setattr(archives, "ALWAYS_BYTES", 1 << 12)
    monkeypatch.setattr(archives, "MOST_EXPANSION", 1)
    parts = [member(f"corpus/{number}", os.urandom(1000) + bytes(1000)) for number in range(40)]
    with pytest.raises(UserError, match=r"refused, it holds more than .* bytes"):
        unpack(written(tmp_path / "a", archive_of(*parts)), tmp_path / "corpus", say=quiet)
    monkeypatch.setattr(archives, "MOST_MEMBERS", 39)
    monkeypatch.setattr(archives, "MOST_EXPANSION", 1000)
    with pytest.raises(UserError, match="refused, it holds more than 39 files"):
        unpack(written(tmp_path / "a", archive_of(*parts)), tmp_path / "corpus", say=quiet)


def test_a_header_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    """A name of a gigabyte: what a header promises is not read at once."""
    entry = tarfile.TarInfo("././@PaxHeader")
    entry.type, entry.size = tarfile.XHDTYPE, 1 << 30
    content = entry.tobuf(tarfile.USTAR_FORMAT) + bytes(1 << 12)
    with pytest.raises(UserError, match="refused, a header in it is larger than any name"):
        unpack(written(tmp_path / "a", content), tmp_path / "corpus", say=quiet)


@inputs
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_damaged_archives(tmp_path: Path, mode: str, count: int) -> None:
    """Whatever the bytes, either files arrive in the folder or one sentence says why not; nothing else is left."""
    members = (member("corpus/train.txt", CONTENT), member("corpus/a/b.txt"), member("c", kind=tarfile.DIRTYPE))
    whole = archive_of(*members, mode=mode)
    outer = tmp_path / "outer"

    def check(content: bytes) -> None:
        archive, folder = written(tmp_path / "a", content), outer / "corpus"
        shutil.rmtree(outer, ignore_errors=True)
        try:
            unpack(archive, folder, say=quiet)
        finally:
            left = set(os.listdir(outer)) if outer.is_dir() else set()
            assert left <= {"corpus"} and set(os.listdir(tmp_path)) <= {"a", "outer"}

    fuzz(count, damaged(whole), check)
