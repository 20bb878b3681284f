"""An archive is whole or not there, and nothing that was damaged is believed."""

import errno
import io
import os
import random
import subprocess
import tarfile

import pytest

from lenet_study.errors import DiskError, UserError
from lenet_study.execution.signals import Stopped
from lenet_study.tracking import archive

FILES = {"mlflow.db": b"rows" * 500, "mlruns/1/a b.txt": b"", "mlruns/1/ü.bin": bytes(range(256)) * 9}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "store.tar"
    with archive.writing(path, {"kind": "toy"}) as writer:
        for name, content in FILES.items():
            writer.add(name, io.BytesIO(content))
    return path


def unpacked(path, folder):
    folder.mkdir()
    archive.read(path, folder)
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and file.name not in (archive.ABOUT, archive.SUMS)
    }


def test_what_was_written_is_read_again(path, tmp_path):
    assert unpacked(path, tmp_path / "there") == FILES
    assert archive.read(path) == {"format": 1, "kind": "toy"}
    assert path.stat().st_mode & 0o777 == 0o600
    assert {file.name for file in tmp_path.iterdir()} == {"store.tar", "there"}
    check = ["sha256sum", "--check", "--strict", archive.SUMS]
    assert subprocess.run(check, cwd=tmp_path / "there", capture_output=True).returncode == 0


def test_a_flipped_byte_or_a_cut_loses_nothing_silently(path, tmp_path):
    whole, chance, refused = path.read_bytes(), random.Random(1), 0
    damaged = tmp_path / "damaged.tar"
    for number in range(300):
        content = bytearray(whole)
        if number % 3:
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        else:
            del content[chance.randrange(len(content)) :]
        damaged.write_bytes(content)
        try:
            assert (
                unpacked(damaged, tmp_path / str(number)) == FILES
            )  # a byte between files, which is no one's
        except UserError:
            refused += 1
    assert refused > 100
    for content in filter(None, FILES.values()):
        for position in range(whole.index(content), whole.index(content) + len(content), 97):
            damaged.write_bytes(whole[:position] + bytes([whole[position] ^ 0x40]) + whole[position + 1 :])
            with pytest.raises(UserError, match="is not what was written; use another backup"):
                archive.read(damaged)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (tarfile.SYMTYPE, "link"),
        (tarfile.LNKTYPE, "link"),
        (tarfile.CHRTYPE, "device"),
        (tarfile.FIFOTYPE, "pipe"),
        (tarfile.DIRTYPE, "folder"),
        (tarfile.REGTYPE, "../outside"),
        (tarfile.REGTYPE, "/tmp/outside"),
        (tarfile.REGTYPE, "a/../../outside"),
        (tarfile.REGTYPE, "./outside"),
        (tarfile.REGTYPE, "mlflow.db"),
    ],
)
def test_a_member_that_no_backup_has_is_refused(tmp_path, kind, name):
    path, folder = tmp_path / "bad.tar", tmp_path / "there"
    folder.mkdir()
    with tarfile.open(path, "w") as tar:
        tar.addfile(tarfile.TarInfo("mlflow.db"))
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(UserError, match="which no backup does"):
        archive.read(path, folder)
    assert [file.name for file in folder.rglob("*")] == ["mlflow.db"]


def test_what_is_no_archive_is_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "text").write_text("no tar" * 1000)
    (tmp_path / "empty").touch()
    with tarfile.open(tmp_path / "other.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("x"))
    for name in ("fifo", "text", "empty", "other.tar", "nosuch", "."):
        with pytest.raises(UserError, match="source="):
            archive.read(tmp_path / name)


def test_nothing_is_left_of_an_archive_that_was_not_finished(tmp_path):
    class Full(io.BytesIO):
        def read(self, size=-1):
            raise OSError(errno.ENOSPC, "No space left on device")

    full = pytest.raises(DiskError, match=f"The disk of {tmp_path} is full")
    with full, archive.writing(tmp_path / "a.tar", {}) as writer:
        writer.add("x", Full())
    with pytest.raises(Stopped), archive.writing(tmp_path / "a.tar", {}):
        raise Stopped(15)
    assert [*tmp_path.iterdir()] == []


def test_a_file_that_changes_meanwhile_is_whole_in_itself(tmp_path):
    class Changing(io.BytesIO):
        def __init__(self, *blocks):
            super().__init__()
            self.blocks = [*blocks]

        def read(self, size=-1):
            return self.blocks.pop(0) if self.blocks else b""

    with archive.writing(tmp_path / "a.tar", {}) as writer:
        writer.add("grows", Changing(b"a" * 100, b"b" * 50_000))
        writer.add("shrinks", Changing())
    assert unpacked(tmp_path / "a.tar", tmp_path / "b") == {
        "grows": b"a" * 100 + b"b" * 50_000,
        "shrinks": b"",
    }


def test_nothing_is_overwritten(path, tmp_path):
    before = path.read_bytes()
    with pytest.raises(UserError, match="is there already"), archive.writing(path, {}):
        pass
    assert path.read_bytes() == before
    for folder in (tmp_path, path):
        with pytest.raises(UserError, match="to="), archive.filling(folder):
            pass
    with pytest.raises(ValueError, match="no"), archive.filling(tmp_path / "new"):
        raise ValueError("no")
    assert [*tmp_path.iterdir()] == [path]
