"""A PostgreSQL server of our own for as long as it is wanted, where PostgreSQL is installed."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lenet_study.errors import StoreError, UserError

INSTALLED = Path("/usr/lib/postgresql")  # Debian's place, by version
_USER = "postgres"  # that root runs it as: PostgreSQL refuses to run as root
_DATABASE = "mlflow"


@contextmanager
def private_server(folder: Path, *, wanted: bool) -> Iterator[str]:
    """Run PostgreSQL on data in a folder; only this user (and postgres, for root) can reach its socket.

    Args:
        folder: For the data, which stays; the caller sees to it that no other process uses it.
        wanted: Whether to run it at all.

    Yields:
        The address of its database; nothing where it is not wanted, not installed or cannot run there.

    Raises:
        UserError: The data was made by a version that is not installed any more.
        StoreError: It does not start.
    """
    folder = folder.resolve()
    programs = _programs(folder) if wanted else None
    if programs is None or not _within_reach(folder):
        yield ""
        return
    data, log = folder / "data", folder / "log"
    folder.mkdir(mode=0o700, exist_ok=True)
    sockets = Path(tempfile.mkdtemp(prefix="lenet-study-"))  # a socket's path may have 107 characters
    if os.getuid() == 0:
        for each in (folder, sockets):
            shutil.chown(each, _USER)
    try:
        if not (data / "PG_VERSION").exists():
            _run(programs / "initdb", "-D", data, "-U", _DATABASE, "-A", "trust", "-E", "UTF8")
        if (data / "postmaster.pid").exists():  # left by a command that was killed, perhaps running
            with suppress(StoreError):
                _run(programs / "pg_ctl", "-D", data, "-m", "fast", "-w", "stop")
        options = f"-c listen_addresses='' -c unix_socket_directories={sockets}"
        _run(programs / "pg_ctl", "-D", data, "-l", log, "-w", "-o", options, "start")
        try:
            reach = ("-h", sockets, "-U", _DATABASE)
            known = _run(programs / "psql", *reach, "-lqtA", "postgres")
            if not any(line.split("|")[0] == _DATABASE for line in known.splitlines()):
                _run(programs / "createdb", *reach, _DATABASE)
            yield f"postgresql://{_DATABASE}@/{_DATABASE}?host={sockets}"
        finally:
            _run(programs / "pg_ctl", "-D", data, "-m", "fast", "-w", "stop")
    finally:
        shutil.rmtree(sockets, ignore_errors=True)


def _programs(folder: Path) -> Path | None:
    """PostgreSQL's programs: of the version that made the data, else the newest."""
    version = folder / "data" / "PG_VERSION"
    try:
        wanted = version.read_text().strip()
    except OSError:
        wanted = "*"
    if wanted != "*" and not list(INSTALLED.glob(f"{wanted}/bin")):
        raise UserError(f"{folder} was made by PostgreSQL {wanted}, which is not installed: install it again")
    found = sorted(INSTALLED.glob(f"{wanted}/bin"), key=lambda path: float(path.parent.name))
    return found[-1] if found else None


def _within_reach(folder: Path) -> bool:
    """Whether the user that it would run as can come to the folder."""
    if os.getuid() != 0:
        return True
    try:
        pwd.getpwnam(_USER)
    except KeyError:
        return False
    return all(parent.stat().st_mode & 0o001 for parent in folder.parents)


def _run(program: Path, *arguments: object) -> str:
    drop = ["setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--init-groups"] if os.getuid() == 0 else []
    command = [*drop, str(program), *map(str, arguments)]
    with tempfile.TemporaryFile("w+") as output:  # the server that pg_ctl starts would keep a pipe open
        done = subprocess.run(command, cwd="/", check=False, stdout=output, stderr=subprocess.STDOUT)
        output.seek(0)
        said = output.read()
    if done.returncode:
        reason = " ".join(said.split())[-300:]
        raise StoreError(f"PostgreSQL's {program.name} failed ({reason}): its log is beside its data")
    return said
