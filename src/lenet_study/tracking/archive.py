"""One file that holds a store: a tar of its files and, last, their SHA-256 sums, as `sha256sum` writes them.

An archive appears whole or not at all: it is written under another name, forced to disk, and read again
before it is renamed. Nothing that is read from one is believed before all of its sums are right.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO

from lenet_study.errors import DiskError, UserError

ABOUT, SUMS = "backup.json", "SHA256SUMS"
FORMAT = 1
_BLOCK = 2**20  # bytes
_IN_MEMORY = 2**26  # bytes of a file; a larger one is copied to disk first, alone


class Writer:
    """Adds files to an archive, each as it is at one reading, however it grows or shrinks meanwhile."""

    def __init__(self, tar: tarfile.TarFile, folder: Path) -> None:
        self._tar, self._folder = tar, folder
        self.sums: dict[str, str] = {}

    def add(self, name: str, source: IO[bytes]) -> None:
        """Add what a file holds, from its present position to its end.

        Raises:
            UserError: Its name cannot be written.
        """
        if "\n" in name or not _is_safe(name):
            raise UserError(f"The file {name!a} has a name that no backup can hold: rename it")
        # Its size stands before it in a tar, and is known once it has been read.
        with tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=str(self._folder)) as copy:
            digest = hashlib.sha256()
            while block := source.read(_BLOCK):
                digest.update(block)
                copy.write(block)
            member = tarfile.TarInfo(name)
            member.size, member.mtime = copy.tell(), int(time.time())
            copy.seek(0)
            self._tar.addfile(member, copy)
        self.sums[name] = digest.hexdigest()


@contextmanager
def writing(path: Path, about: Mapping[str, Any]) -> Iterator[Writer]:
    """Write an archive, which is there when the context ends without an error.

    Args:
        path: Of the archive, which does not exist.
        about: What a restoration has to know, as JSON; read when the context ends.

    Raises:
        UserError: The archive is there already, or its folder is not.
        DiskError: The disk is full, or what was written cannot be read again.
    """
    if not _answers(path.parent.is_dir):
        raise UserError(f"to={path} is in no existing folder: make it first")
    if os.path.lexists(path):
        raise UserError(f"to={path} is there already: name another file")
    partial = path.with_name(f".{path.name}.partial")
    try:
        with _room(path.parent), _private(partial, path) as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                writer = Writer(tar, path.parent)
                yield writer
                content = json.dumps({"format": FORMAT, **about}, indent=1)
                writer.add(ABOUT, io.BytesIO(content.encode()))
                writer.add(SUMS, io.BytesIO(_listing(writer.sums)))
            file.flush()
            os.fsync(file.fileno())
        try:
            read(partial)
        except UserError as error:
            raise DiskError(f"The disk of {path.parent} does not keep what is written: {error}") from error
        partial.rename(path)
        _force(path.parent)
    finally:
        with suppress(OSError):  # a name that is too long
            partial.unlink()


def read(path: Path, folder: Path | None = None) -> dict[str, Any]:
    """Compare an archive with its sums, and return what it says about itself.

    Args:
        path: Of the archive.
        folder: To be filled with its files; exists, and is worth nothing if an error is raised.

    Raises:
        UserError: It is no archive, was damaged or cut off, or holds what no backup does.
        DiskError: The folder's disk is full.
    """
    if not _answers(path.is_file):
        raise UserError(f"source={path} is no file: name a backup")
    cure = "use another backup"
    sums: dict[str, str] = {}
    texts = {ABOUT: b"", SUMS: b""}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                _check(path, member, sums)
                source = tar.extractfile(member)
                assert source is not None, "a regular file"
                if member.name in texts:
                    texts[member.name] = source.read()
                    source = io.BytesIO(texts[member.name])
                with _room((folder or path).parent):
                    sums[member.name] = _extract(source, folder and folder / member.name)
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise UserError(f"source={path} is no backup, or was damaged ({error}): {cure}") from error
    if [*sums][-2:] != [ABOUT, SUMS]:
        raise UserError(f"source={path} was cut off, or is no backup: {cure}")
    del sums[SUMS]
    if texts[SUMS] != _listing(sums):
        raise UserError(f"source={path} was damaged: {_first_difference(texts[SUMS], sums)}; {cure}")
    about: dict[str, Any] = json.loads(texts[ABOUT])
    if about["format"] != FORMAT:
        raise UserError(
            f"source={path} has format {about['format']}, not {FORMAT}: use the program's version then"
        )
    return about


@contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """Fill a new folder, which is there when the context ends without an error; yield where to write.

    Raises:
        UserError: The folder holds something, or cannot be made.
    """
    if not _answers(folder.parent.is_dir):
        raise UserError(f"to={folder} is in no existing folder: make it first")
    if os.path.lexists(folder) and not (folder.is_dir() and not folder.is_symlink()):
        raise UserError(f"to={folder} is no folder: name another")
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"to={folder} is not empty: name another folder")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a restoration that was killed
    try:
        partial.mkdir()
    except OSError as error:
        raise UserError(f"to={folder} cannot be made ({error.strerror}): name another") from error
    try:
        yield partial
        os.sync()
        partial.rename(folder)  # an empty folder gives way
        _force(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _listing(sums: Mapping[str, str]) -> bytes:
    return "".join(f"{sha256}  {name}\n" for name, sha256 in sums.items()).encode(errors="surrogateescape")


def _first_difference(text: bytes, sums: Mapping[str, str]) -> str:
    lines = set(text.splitlines())
    differing = (name for name, sha256 in sums.items() if _listing({name: sha256}).strip() not in lines)
    return f"{next(differing, SUMS)} is not what was written"


def _check(path: Path, member: tarfile.TarInfo, seen: Mapping[str, str]) -> None:
    """Refuse a member that no backup holds: a link, a device, a file outside its folder or a second time."""
    plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and member.sparse is None
    if not plain or not _is_safe(member.name) or member.name in seen:
        raise UserError(f"source={path} holds {member.name!a}, which no backup does: use another")


def _is_safe(name: str) -> bool:
    """Return whether a name leads to a file below the folder in which it is made."""
    pure = PurePosixPath(name)
    return str(pure) == name and name != "." and not pure.is_absolute() and ".." not in pure.parts


def _extract(source: Any, path: Path | None) -> str:
    """Return the sum of what a file holds, and write it to a path if there is one."""
    digest = hashlib.sha256()
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") if path else io.BytesIO() as target:
        while block := source.read(_BLOCK):
            digest.update(block)
            if path:
                target.write(block)
    return digest.hexdigest()


@contextmanager
def _private(partial: Path, path: Path) -> Iterator[BinaryIO]:
    """Open a file anew that only its owner reads: a store tells who works on what, a server's has users."""
    try:
        partial.unlink(missing_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise UserError(f"to={path} cannot be made ({error.strerror}): name another file") from error
    with os.fdopen(descriptor, "wb") as file:
        yield file


@contextmanager
def _room(folder: Path) -> Iterator[None]:
    """Turn a full disk into one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskError(f"The disk of {folder} is full: make room there") from error
        raise


def _answers(look: Callable[[], bool]) -> bool:
    """Return what is found at a path; False if its name alone is impossible, such as one that is too long."""
    try:
        return look()
    except OSError:
        return False


def _force(folder: Path) -> None:
    """Force a folder's entries to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
