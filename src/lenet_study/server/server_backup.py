"""The volumes of a server in Docker as one archive: what PostgreSQL dumps, users too, and the artifacts.

Every command runs in a container of the stack, so that no password is needed: in the database's own, its
superuser comes by the socket.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lenet_study.errors import StoreError, UserError
from lenet_study.tracking import archive

KIND = "server"
_DUMP, _ARTIFACTS = "database.dump", "artifacts"
_OWN_TABLES = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"


@dataclass(frozen=True)
class Stack:
    """The commands that work within a stack's containers.

    Attributes:
        database: Words before a program of PostgreSQL's and its options.
        files: Words before a program that sees the folder of artifacts.
        folder: That folder, as the program sees it.
        connection: Options by which PostgreSQL's programs find the database.
    """

    database: Sequence[str]
    files: Sequence[str]
    folder: str = "/artifacts"
    connection: Sequence[str] = ("--username", "mlflow", "--dbname", "mlflow")

    @classmethod
    def of(cls, compose: str) -> Stack:
        """Return those of a stack, given the words that begin its commands of Compose."""
        words = shlex.split(compose)
        files = [*words, "run", "--rm", "-T", "--no-deps", "--entrypoint", "env", "server"]
        return cls([*words, "exec", "-T", "database"], files)


def backup(stack: Stack, to: Path) -> str:
    """Write an archive of what a server holds, which may go on working; return what to say about it.

    The database is taken first: the artifacts that it names were there then.

    Raises:
        UserError: The archive is there already.
        StoreError: A program of the stack failed.
        DiskError: The archive's disk is full.
    """
    with archive.writing(to, {"kind": KIND}) as writer:
        with _output(stack.database, "pg_dump", "--format=custom", *stack.connection) as dump:
            writer.add(_DUMP, dump)
        # 1: a file changed while it was read; what is in the archive is what its sums say.
        pack = ("tar", "--create", "--directory", stack.folder, ".")
        with _output(stack.files, *pack, allowed=(0, 1)) as output:
            with tarfile.open(fileobj=output, mode="r|") as tar:
                for member in tar:
                    if member.isreg() and (source := tar.extractfile(member)):
                        writer.add(str(Path(_ARTIFACTS, member.name)), source)
            while output.read(2**16):  # what tar writes after the last file
                pass
    return f"{to}: the database and {len(writer.sums) - 3} artifacts, {to.stat().st_size / 2**20:.1f} MiB"


def restore(stack: Stack, source: Path) -> str:
    """Fill a server's empty volumes from its archive, once all sums are right; return what to say about it.

    Raises:
        UserError: The volumes hold something, or the archive was damaged or is another thing's.
        StoreError: A program of the stack failed.
        DiskError: The disk of temporary files is full.
    """
    with tempfile.TemporaryDirectory(prefix=f".{source.name}.", dir=source.parent) as name:
        folder = Path(name)
        if archive.read(source, folder).get("kind") != KIND:
            raise UserError(
                f"source={source} is no server's backup: `lenet-study restore` takes a local store's"
            )
        _require_empty(stack)
        artifacts = folder / _ARTIFACTS
        artifacts.mkdir(exist_ok=True)
        unpack = ("tar", "--extract", "--no-same-owner", "--directory", stack.folder)
        try:
            with _input(stack.files, *unpack) as pipe, tarfile.open(fileobj=pipe, mode="w|") as tar:
                tar.add(artifacts, ".", filter=_for_all)
            options = ("--exit-on-error", "--single-transaction", "--no-owner", *stack.connection)
            with (folder / _DUMP).open("rb") as dump, _input(stack.database, "pg_restore", *options) as pipe:
                shutil.copyfileobj(dump, pipe)
        except StoreError:
            _run(stack.files, "find", stack.folder, "-mindepth", "1", "-delete")
            raise
        count = sum(path.is_file() for path in artifacts.rglob("*"))
    return f"The database and {count} artifacts are in the server's volumes: `make server` starts it"


def _require_empty(stack: Stack) -> None:
    tables = _run(stack.database, "psql", "--tuples-only", *stack.connection, "--command", _OWN_TABLES)
    files = _run(stack.files, "find", stack.folder, "-mindepth", "1", "-print", "-quit")
    if int(tables) or files.strip():
        raise UserError(
            "The server's volumes hold something: back that up, then `make server-stop` and remove the "
            "volumes, or name another stack by STACK_NAME"
        )


def _for_all(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Let files be the server's user's alone, as those are that it writes."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o700 if member.isdir() else 0o600
    return member


@contextmanager
def _output(prefix: Sequence[str], *command: str, allowed: Sequence[int] = (0,)) -> Iterator[IO[bytes]]:
    """Yield what a program writes; it must have ended in order at the end."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen([*prefix, *command], stdout=subprocess.PIPE, stderr=errors)
        with process:
            assert process.stdout is not None
            yield process.stdout
        _check(process.returncode, allowed, command[0], errors)


@contextmanager
def _input(prefix: Sequence[str], *command: str) -> Iterator[IO[bytes]]:
    """Yield what a program reads; it must have ended in order at the end."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen([*prefix, *command], stdin=subprocess.PIPE, stdout=errors, stderr=errors)
        try:
            with process:
                assert process.stdin is not None
                yield process.stdin
        except BrokenPipeError:  # it ended early, and says why
            process.wait()
        _check(process.returncode, (0,), command[0], errors)


def _run(prefix: Sequence[str], *command: str) -> bytes:
    with _output(prefix, *command) as output:
        return output.read()


def _check(code: int, allowed: Sequence[int], program: str, errors: IO[bytes]) -> None:
    if code not in allowed:
        errors.seek(0)
        reason = " ".join(errors.read().decode(errors="replace").split())[-300:]
        raise StoreError(f"{program} failed in the server's stack ({reason}): start it with `make server`")
