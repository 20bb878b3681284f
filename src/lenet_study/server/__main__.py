"""``python -m lenet_study.server``: a team's MLflow server, safe by default, in a container or without."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from lenet_study.errors import StoreError, UserError
from lenet_study.execution.signals import stop_on_signals
from lenet_study.server import launch
from lenet_study.server.secrets import prepare_secrets
from lenet_study.server.settings import ServerSettings, check_port

_FOLDER = click.Path(path_type=Path, file_okay=False)
_secrets = click.option(
    "--secrets", type=_FOLDER, default=ServerSettings.secrets, help="Folder of the passwords."
)
_port = click.option(
    "--port", type=click.IntRange(1, 65535), default=ServerSettings.port, help="Port of the server."
)
_hosts = click.option(
    "--hosts", default="", help="Host headers to answer to, exactly; else this machine's own."
)
_artifacts = click.option(
    "--artifacts", default="", help="A folder, or an address s3://bucket/path; else STATE/artifacts."
)


@click.group(help=__doc__)
def main() -> None:
    """The command line."""


@main.command()
@_port
def free(port: int) -> None:
    """Say what to do about a port of this machine that is taken."""
    check_port("127.0.0.1", port)


@main.command()
@_secrets
@_port
@_hosts
@_artifacts
def prepare(**options: Any) -> None:
    """Make the passwords that do not exist yet, and files with which clients of this machine log in."""
    settings = ServerSettings(**options)
    settings.check_own_address()
    prepare_secrets(settings.secrets, settings.port)


@main.command()
@_secrets
@_port
@_hosts
@_artifacts
@click.option(
    "--state", type=_FOLDER, default=ServerSettings.state, help="Folder of what the server keeps on disk."
)
@click.option(
    "--database", default="", help="Address; else a PostgreSQL of its own if installed, else SQLite."
)
@click.option("--host", default=ServerSettings.host, help="Address to listen on.")
@click.option("--workers", type=click.IntRange(1), default=ServerSettings.workers, help="Processes.")
def serve(**options: Any) -> None:
    """Serve until interrupted."""
    sys.exit(launch.serve(ServerSettings(**options)))


@main.command()
@_secrets
@click.option("--address", default="http://127.0.0.1:5000", help="Where the server listens.")
@click.option("--name", default="", help="What it is called there, if not by its address.")
@click.option("--patience", default=0, help="Seconds to wait for it.")
def check(secrets: Path, address: str, name: str, patience: int) -> None:
    """Ask a server whether it is healthy; the exit code tells."""
    launch.wait_until_healthy(address, secrets, name, patience)


def run(arguments: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 2 for what the user can cure, 1 for what failed.
    """
    stop_on_signals()
    try:
        main(arguments)
    except (UserError, StoreError, OSError) as error:
        print(f"Error: {error}.", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(run())
