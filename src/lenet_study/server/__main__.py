"""``python -m lenet_study.server``: a team's MLflow server, safe by default, in a container or without."""

from __future__ import annotations

import configparser
import importlib
import os
import re
import secrets as random
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import click
import requests
from filelock import FileLock, Timeout

from lenet_study.errors import StoreError, UserError
from lenet_study.execution.signals import exit_on_sigterm
from lenet_study.server.postgres import private_server

ADMIN = "admin"
SHORTEST = 12  # characters of a password, for MLflow
FORGET_AFTER = 60  # seconds until a password is checked against the database again
_SECRETS = {
    "admin_password": "of the first user, admin",
    "database_password": "of the server at its database",
    "session_key": "signs the server's forms",
}
_FOLDER = click.Path(path_type=Path, file_okay=False)
_secrets = click.option(
    "--secrets", "folder", type=_FOLDER, default="docker/secrets", help="Folder of the passwords."
)
_port = click.option("--port", type=click.IntRange(1, 65535), default=5000, help="Port of the server.")


@click.group(help=__doc__)
def main() -> None:
    """The command line."""


@main.command()
@_port
def free(port: int) -> None:
    """Say what to do about a port of this machine that is taken."""
    _refuse_taken("127.0.0.1", port)


@main.command()
@_secrets
@_port
@click.option("--hosts", default="", help="Host headers that it is to answer to, to be checked.")
@click.option("--artifacts", default="", help="Where it is to keep artifacts, to be checked.")
def prepare(folder: Path, port: int, hosts: str, artifacts: str) -> None:
    """Make the passwords that do not exist yet, and files with which clients of this machine log in."""
    _refuse_inexact(hosts)
    if hosts and f"127.0.0.1:{port}" not in hosts.split(","):
        raise UserError(f"hosts={hosts} lacks 127.0.0.1:{port}, where this machine finds the server: add it")
    _refuse_unknown(artifacts)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)  # only its owner gets in; containers, of other users, are given single files
    for name in _SECRETS:
        if not (folder / name).exists():
            _write(folder / name, random.token_urlsafe(24), 0o444)
    if not (folder / "aws").exists():
        _write(folder / "aws", "", 0o444)
    password = _admin_password(folder)
    login = {"mlflow_tracking_username": ADMIN, "mlflow_tracking_password": password}
    lines = (f"{name} = {_interpolated(value)}\n" for name, value in login.items())
    _write(folder / "credentials", "".join(["[mlflow]\n", *lines]), 0o444)
    address = f"http://127.0.0.1:{port}"
    variables = {"MLFLOW_TRACKING_URI": address, **{name.upper(): value for name, value in login.items()}}
    exports = (f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())
    _write(folder / "client.sh", "".join(exports), 0o600)


@main.command()
@_secrets
@click.option("--state", type=_FOLDER, default=".server", help="Folder of what the server keeps on disk.")
@click.option(
    "--database", default="", help="Address; else a PostgreSQL of its own if installed, else SQLite."
)
@click.option(
    "--artifacts", default="", help="A folder, or an address s3://bucket/path; else STATE/artifacts."
)
@click.option("--host", default="127.0.0.1", help="Address to listen on.")
@_port
@click.option("--hosts", default="", help="Host headers to answer to, exactly; else this machine's own.")
@click.option("--workers", type=click.IntRange(1), default=2, help="Processes.")
def serve(
    folder: Path, state: Path, database: str, artifacts: str, host: str, port: int, hosts: str, workers: int
) -> None:
    """Serve until interrupted."""
    _refuse_inexact(hosts)
    _refuse_unknown(artifacts)
    _refuse_taken(host, port)
    os.umask(0o077)  # other users of this machine are to come by the server, too
    state.mkdir(parents=True, exist_ok=True)
    state.chmod(0o711)
    local = (state / "mlflow.db").resolve()
    with (
        _alone(state),
        private_server(state / "postgres", wanted=not database and not local.exists()) as own,
    ):
        address = database or own or f"sqlite:///{local}"
        hosts = hosts or f"127.0.0.1:{port},localhost:{port}"
        environment = {**os.environ, **settings(folder, state, address)}
        environment["MLFLOW_SERVER_ALLOWED_HOSTS"] = hosts
        _make_tables(environment)
        command = [sys.executable, "-m", "mlflow", "server", "--app-name", "lenet-study"]
        command += ["--host", host, "--port", str(port), "--workers", str(workers)]
        command += ["--allowed-hosts", hosts, "--x-frame-options", "DENY"]
        origins = (f"{scheme}://{each}" for each in hosts.split(",") for scheme in ("http", "https"))
        command += ["--cors-allowed-origins", ",".join(origins)]
        command += ["--serve-artifacts", "--default-artifact-root", "mlflow-artifacts:/"]
        command += ["--artifacts-destination", artifacts or str((state / "artifacts").resolve())]
        where = f"http://{hosts.split(',')[0]}"
        print(f"MLflow on {where} for user {ADMIN}, password in {folder / 'admin_password'}", flush=True)
        sys.exit(_until_terminated(command, environment))


def _make_tables(environment: Mapping[str, str]) -> None:
    """Make the tables of users before several processes do; admin's password is that of the file."""
    command = [sys.executable, "-m", "lenet_study.server.middleware"]
    environment = {**environment, "_MLFLOW_SGI_NAME": "uvicorn"}
    if subprocess.run(command, env=environment, check=False).returncode:
        raise StoreError(
            "The database of users could not be opened; the lines above say why. If its password is refused, "
            "it was made with another docker/secrets: bring that back, or remove the database's volume"
        )


def _until_terminated(command: list[str], environment: Mapping[str, str]) -> int:
    """Run a command with all its processes in a group of their own, which is terminated with this one."""
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        return process.wait()
    except (KeyboardInterrupt, SystemExit):
        return 0
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def settings(folder: Path, state: Path, database: str) -> dict[str, str]:
    """The server's environment; passwords are in files that only its user can read.

    Args:
        folder: Of the secrets.
        state: Folder for these files.
        database: Address of the store, without a password.
    """
    password = _admin_password(folder)
    private = state / "private"
    private.mkdir(exist_ok=True)
    private.chmod(0o700)
    config = configparser.ConfigParser(interpolation=None)
    config["mlflow"] = {
        "database_uri": _interpolated(database),
        "default_permission": "READ",
        "admin_username": ADMIN,
        "admin_password": _interpolated(password),
        "auth_cache_ttl_seconds": str(FORGET_AFTER),
    }
    with (private / "auth.ini").open("w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), 0o600)
        config.write(file)
    escaped = re.sub(r"([\\:])", r"\\\1", read_secret(folder, "database_password"))
    _write(private / "pgpass", f"*:*:*:*:{escaped}\n", 0o600)
    aws = folder / "aws"
    return {
        **({"AWS_CONFIG_FILE": str(aws)} if aws.exists() and aws.stat().st_size else {}),
        "MLFLOW_AUTH_CONFIG_PATH": str(private / "auth.ini"),
        "MLFLOW_BACKEND_STORE_URI": database,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": read_secret(folder, "session_key"),
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PGPASSFILE": str(private / "pgpass"),
    }


@main.command()
@_secrets
@click.option("--address", default="http://127.0.0.1:5000", help="Where the server listens.")
@click.option("--name", default="", help="What it is called there, if not by its address.")
@click.option("--patience", default=0, help="Seconds to wait for it.")
def check(folder: Path, address: str, name: str, patience: int) -> None:
    """Ask a server whether it is well; the exit code tells."""
    login = (ADMIN, read_secret(folder, "admin_password"))
    headers = {"Host": name} if name else {}
    deadline = time.monotonic() + patience
    while True:
        try:
            requests.get(f"{address}/health", auth=login, headers=headers, timeout=5).raise_for_status()
            return
        except requests.RequestException as error:
            if time.monotonic() > deadline:
                raise StoreError(f"The server at {address} is not well ({_reason(error)})") from error
            time.sleep(1)


@main.command()
@click.option("--model", default="models:/fashion-mnist-lenet@champion", help="As `evaluate` takes it.")
@click.option("--to", "folder", type=_FOLDER, required=True, help="Folder to make.")
def fetch(model: str, folder: Path) -> None:
    """Copy a logged model's files, checked against the sum that its run logged."""
    registry = importlib.import_module(
        "lenet_study.tracking.registry"
    )  # the other commands are to answer at once
    if folder.exists() and not (folder / "MLmodel").exists():
        raise UserError(f"to={folder} is there and holds no model: name another folder")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    fetched = registry.load_model(model, keep=partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)
    print(f"{fetched.name}: weights {fetched.weights_sha256[:12]}, in {folder}")


def _reason(error: requests.RequestException) -> str:
    return str(error.response.status_code) if error.response is not None else type(error).__name__


def read_secret(folder: Path, name: str) -> str:
    """A secret's value.

    Raises:
        UserError: It cannot be read.
    """
    try:
        return (folder / name).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise UserError(
            f"secrets={folder}: {name} cannot be read ({error.strerror}): make it with "
            f"`python -m lenet_study.server prepare --secrets {folder}`"
        ) from error


def _admin_password(folder: Path) -> str:
    password = read_secret(folder, "admin_password")
    if len(password) < SHORTEST:
        raise UserError(
            f"secrets={folder}: admin_password has {len(password)} characters; MLflow wants {SHORTEST}"
        )
    if not (password.isascii() and password.isprintable()):
        raise UserError(
            f"secrets={folder}: admin_password has characters beyond ASCII, with which nobody could log in: "
            "choose another"
        )
    return password


def _interpolated(value: str) -> str:
    """A value as MLflow's files spell it, which it reads with ``configparser``'s interpolation."""
    return value.replace("%", "%%")


def _write(path: Path, text: str, mode: int) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        os.fchmod(file.fileno(), mode)
        file.write(text)
    partial.replace(path)


@contextmanager
def _alone(state: Path) -> Iterator[None]:
    """One server at a time: what else runs on this state was left by one that was killed."""
    try:
        with FileLock(state / "lock", timeout=0):
            yield
    except Timeout as error:
        raise UserError(
            f"state={state.resolve()} is being served by another process: stop that, or name another state"
        ) from error


def _refuse_unknown(artifacts: str) -> None:
    if "://" in artifacts and not re.fullmatch(r"s3://[\w.\-]+(/.*)?", artifacts):
        raise UserError(f"artifacts={artifacts} is no known place: write s3://bucket/path, or nothing")


def _refuse_inexact(hosts: str) -> None:
    for host in hosts.split(",") if hosts else ():
        if not re.fullmatch(r"[\w.\-]+(:\d+)?|\[[\da-fA-F:]+\](:\d+)?", host):
            raise UserError(
                f"hosts={hosts}: {host!r} is no exact value of a Host header: write each as name:port, "
                "without * and spaces, and commas between them"
            )


def _refuse_taken(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(
                f"port={port} cannot be listened on at {host} ({error.strerror}): stop what does, or choose "
                "another port"
            ) from error


def run(arguments: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 2 for what the user can cure, 1 for what failed.
    """
    exit_on_sigterm()
    try:
        main(arguments)
    except (UserError, StoreError, OSError) as error:
        print(f"Error: {error}.", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(run())
