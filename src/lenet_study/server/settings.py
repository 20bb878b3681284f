"""The start of the server: arguments, checked, and the environment and command that follow from them."""

from __future__ import annotations

import re
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import click

from lenet_study.errors import UserError
from lenet_study.server.secrets import ADMIN, admin_password, read_secret, write_config, write_file

_FOLDER = click.Path(path_type=Path, file_okay=False)


@dataclass(frozen=True)
class ServerSettings:
    """Arguments of the server, each an option of its command line."""

    secrets: Annotated[Path, _FOLDER, "Folder of the passwords."] = Path("docker/secrets")
    port: Annotated[int, click.IntRange(1, 65535), "Port of the server."] = 5000
    hosts: Annotated[str, "Host headers to answer to, exactly; else this machine's own."] = ""
    artifacts: Annotated[str, "A folder, or an address s3://bucket/path; else STATE/artifacts."] = ""
    state: Annotated[Path, _FOLDER, "Folder of what the server keeps on disk."] = Path(".server")
    database: Annotated[str, "Address; else a PostgreSQL of its own if installed, else SQLite."] = ""
    host: Annotated[str, "Address to listen on."] = "127.0.0.1"
    workers: Annotated[int, click.IntRange(1), "Processes."] = 2

    def __post_init__(self) -> None:
        for host in self.host_headers:
            if not re.fullmatch(r"[\w.\-]+(:\d+)?|\[[\da-fA-F:]+\](:\d+)?", host):
                raise UserError(
                    f"hosts={self.hosts}: {host!r} is no exact value of a Host header: write name:port, "
                    "without * and spaces, and commas between several"
                )
        if "://" in self.artifacts and not re.fullmatch(r"s3://[\w.\-]+(/.*)?", self.artifacts):
            refused = f"artifacts={self.artifacts} cannot hold artifacts"
            raise UserError(f"{refused}: write s3://bucket/path, or nothing")

    @property
    def host_headers(self) -> list[str]:
        """Values of the Host header that the server answers; the first is its address for people."""
        return self.hosts.split(",") if self.hosts else [f"127.0.0.1:{self.port}", f"localhost:{self.port}"]

    def check_own_address(self) -> None:
        """Refuse Host headers that shut out this machine's own clients."""
        if f"127.0.0.1:{self.port}" not in self.host_headers:
            raise UserError(
                f"hosts={self.hosts} lacks 127.0.0.1:{self.port}, where this machine finds the server: add it"
            )

    def command(self) -> list[str]:
        """Return the command that serves."""
        hosts = self.host_headers
        origins = (f"{scheme}://{host}" for host in hosts for scheme in ("http", "https"))
        return [
            *(sys.executable, "-m", "mlflow", "server", "--app-name", "lenet-study"),
            *("--host", self.host, "--port", str(self.port), "--workers", str(self.workers)),
            *("--allowed-hosts", ",".join(hosts), "--cors-allowed-origins", ",".join(origins)),
            *("--x-frame-options", "DENY"),
            *("--serve-artifacts", "--default-artifact-root", "mlflow-artifacts:/"),
            *("--artifacts-destination", self.artifacts or str((self.state / "artifacts").resolve())),
        ]

    def write_environment(self, database: str) -> dict[str, str]:
        """Write the server's configuration into files that only its user reads.

        Neither ``database``, the store's address, nor the environment variables that are returned hold a
        user's or the database's password.
        """
        private = self.state / "private"
        private.mkdir(exist_ok=True)
        private.chmod(0o700)
        auth = {
            "database_uri": database,
            "default_permission": "READ",
            "admin_username": ADMIN,
            "admin_password": admin_password(self.secrets),
            "auth_cache_ttl_seconds": "60",  # until a password is checked against the database again
        }
        write_config(private / "auth.ini", auth, 0o600)
        password = re.sub(r"([\\:])", r"\\\1", read_secret(self.secrets, "database_password"))
        write_file(private / "pgpass", f"*:*:*:*:{password}\n", 0o600)
        aws = self.secrets / "aws"
        return {
            **({"AWS_CONFIG_FILE": str(aws)} if aws.exists() and aws.stat().st_size else {}),
            "MLFLOW_AUTH_CONFIG_PATH": str(private / "auth.ini"),
            "MLFLOW_BACKEND_STORE_URI": database,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": read_secret(self.secrets, "session_key"),
            "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(self.host_headers),
            "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "PGPASSFILE": str(private / "pgpass"),
        }


def check_port(host: str, port: int) -> None:
    """Refuse a port that is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(
                f"port={port} cannot be listened on at {host} ({error.strerror}): stop what does, or choose "
                "another port"
            ) from error
