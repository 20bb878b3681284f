"""A PostgreSQL server of our own for as long as it is needed, where PostgreSQL is installed."""

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

INSTALLED = Path("/usr/lib/postgresql")  # Debian's folder, by version
_USER = "postgres"  # that root runs it as: PostgreSQL refuses to run as root
_DATABASE = "mlflow"


@contextmanager
def private_server(folder: Path) -> Iterator[str]:
    """Run PostgreSQL on data in a folder; only this user (and postgres, for root) can reach its socket.

    The caller sees to it that no other process uses the folder. Yield the address of the database; nothing
    where PostgreSQL is not installed or cannot run.
    """
    folder = folder.resolve()
    programs = _programs(folder / "data" / "PG_VERSION")
    if programs is None or not _within_reach(folder):
        yield ""
        return
    data = folder / "data"
    folder.mkdir(mode=0o700, exist_ok=True)
    # A socket's path may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="lenet-study-", ignore_cleanup_errors=True) as sockets:
        if os.getuid() == 0:
            shutil.chown(folder, _USER)
            shutil.chown(sockets, _USER)
        control = (programs / "pg_ctl", "-D", data, "-w")
        if not (data / "PG_VERSION").exists():
            _run(programs / "initdb", "-D", data, "-U", _DATABASE, "-A", "trust", "-E", "UTF8")
        if (data / "postmaster.pid").exists():  # left by a command that was killed, perhaps running
            with suppress(StoreError):
                _run(*control, "-m", "fast", "stop")
        options = f"-c listen_addresses='' -c unix_socket_directories={sockets}"
        _run(*control, "-l", folder / "log", "-o", options, "start")
        try:
            address = ("-h", sockets, "-U", _DATABASE)
            databases = _run(programs / "psql", *address, "-lqtA", "postgres")
            if not any(line.split("|")[0] == _DATABASE for line in databases.splitlines()):
                _run(programs / "createdb", *address, _DATABASE)
            yield f"postgresql://{_DATABASE}@/{_DATABASE}?host={sockets}"
        finally:
            _run(*control, "-m", "fast", "stop")


def _programs(version_file: Path) -> Path | None:
    """Return the folder of PostgreSQL's programs: of the version that made the data, else the newest."""
    version = version_file.read_text().strip() if version_file.exists() else "*"
    folders = sorted(INSTALLED.glob(f"{version}/bin"), key=lambda path: float(path.parent.name))
    if not folders and version != "*":
        made = f"{version_file.parents[1]} was made by PostgreSQL {version}"
        raise UserError(f"{made}, which is not installed: install it again")
    return folders[-1] if folders else None


def _within_reach(folder: Path) -> bool:
    """Return whether the user that PostgreSQL would run as can come to the folder."""
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
    with tempfile.TemporaryFile("w+") as file:  # the server that pg_ctl starts would keep a pipe open
        result = subprocess.run(command, cwd="/", check=False, stdout=file, stderr=subprocess.STDOUT)
        file.seek(0)
        output = file.read()
    if result.returncode:
        reason = " ".join(output.split())[-300:]
        raise StoreError(f"PostgreSQL's {program.name} failed ({reason}): its log is beside its data")
    return output
