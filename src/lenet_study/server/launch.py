"""Starting the server, and asking whether it is healthy."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

import requests
from filelock import FileLock, Timeout

from lenet_study.errors import StoreError, UserError
from lenet_study.server.postgres import private_server
from lenet_study.server.secrets import ADMIN, read_secret
from lenet_study.server.settings import ServerSettings, check_port


def run_until_terminated(command: list[str], environment: Mapping[str, str]) -> int:
    """Run a command in a process group that ends with this process, and return its exit code."""
    # The umask keeps other users of this machine from the files: they have to come by the server, too.
    process = subprocess.Popen(command, env=environment, start_new_session=True, umask=0o077)
    try:
        return process.wait()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def serve(
    settings: ServerSettings,
    *,
    postgres: Callable[[Path], AbstractContextManager[str]] = private_server,
    run: Callable[[list[str], Mapping[str, str]], int] = run_until_terminated,
) -> int:
    """Serve until interrupted, and return the exit code.

    Args:
        settings: Checked arguments.
        postgres: Runs a database in a folder, and yields its address, or nothing where it cannot.
        run: Runs a command in an environment.
    """
    check_port(settings.host, settings.port)
    state, local = settings.state, (settings.state / "mlflow.db").resolve()
    state.mkdir(parents=True, exist_ok=True)
    state.chmod(0o711)
    # A store that began in SQLite stays there, even once PostgreSQL has been installed.
    address = settings.database or (f"sqlite:///{local}" if local.exists() else "")
    own_database = nullcontext("") if address else postgres(state / "postgres")
    with _exclusive(state), own_database as own_address:
        database = address or own_address or f"sqlite:///{local}"
        environment = {**os.environ, **settings.write_environment(database)}
        # The tables of users, before several processes make them at once.
        tables = [sys.executable, "-m", "lenet_study.server.middleware"]
        if run(tables, {**environment, "_MLFLOW_SGI_NAME": "uvicorn"}):
            raise StoreError(
                "The database of users could not be opened; the lines above say why. If its password is "
                "refused, it was made with another docker/secrets: bring that back, or remove the database's "
                "volume"
            )
        file = settings.secrets / "admin_password"
        print(f"MLflow on http://{settings.host_headers[0]} for user {ADMIN}, password in {file}", flush=True)
        try:
            return run(settings.command(), environment)
        except (KeyboardInterrupt, SystemExit):
            return 0


@contextmanager
def _exclusive(state: Path) -> Iterator[None]:
    """Hold a state's lock, so that programs found running on it were left by a server that was killed."""
    try:
        with FileLock(state / "lock", timeout=0):
            yield
    except Timeout as error:
        taken = f"state={state.resolve()} is being served by another process"
        raise UserError(f"{taken}: stop that, or name another state") from error


def wait_until_healthy(address: str, secrets: Path, host_header: str = "", patience: float = 0) -> None:
    """Ask a server whether it is healthy until it is.

    ``host_header`` is what the server is called there, if not by its address; ``patience`` is in seconds.
    """
    login, headers = (ADMIN, read_secret(secrets, "admin_password")), {"Host": host_header or None}
    deadline = time.monotonic() + patience
    while True:
        try:
            requests.get(f"{address}/health", auth=login, headers=headers, timeout=5).raise_for_status()
            return
        except requests.RequestException as error:
            if time.monotonic() > deadline:
                answer = type(error).__name__ if error.response is None else error.response.status_code
                raise StoreError(f"The server at {address} is not healthy ({answer})") from error
            time.sleep(1)
