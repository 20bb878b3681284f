"""``python -m lenet_study.server``: a team's MLflow server, safe by default, in a container or without."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import click

from lenet_study.errors import StudyError, UserError
from lenet_study.execution.signals import stop_on_signals
from lenet_study.server import launch, server_backup
from lenet_study.server.secrets import prepare_secrets
from lenet_study.server.settings import ServerSettings, check_port


def options(*names: str) -> list[click.Parameter]:
    """Return the options of these fields of ``ServerSettings``; of all of them if none is named."""
    hints = get_type_hints(ServerSettings, include_extras=True)
    result: list[click.Parameter] = []
    for field in fields(ServerSettings):
        if field.name in names or not names:
            *_, kind, meaning = get_args(hints[field.name])
            result.append(click.Option([f"--{field.name}"], type=kind, default=field.default, help=meaning))
    return result


@click.group(help=__doc__)
def main() -> None:
    """The command line."""


@main.command(params=options("port"))
def free(port: int) -> None:
    """Say what to do about a port of this machine that is taken."""
    check_port("127.0.0.1", port)


@main.command(params=options("secrets", "port", "hosts", "artifacts"))
def prepare(**values: Any) -> None:
    """Make the passwords that do not exist yet, and files with which clients of this machine log in."""
    settings = ServerSettings(**values)
    settings.check_own_address()
    prepare_secrets(settings.secrets, settings.port)


@main.command(params=options())
def serve(**values: Any) -> None:
    """Serve until interrupted."""
    sys.exit(launch.serve(ServerSettings(**values)))


@main.command(params=options("secrets"))
@click.option("--address", default="http://127.0.0.1:5000", help="Where the server listens.")
@click.option("--name", default="", help="What it is called there, if not by its address.")
@click.option("--patience", default=0, help="Seconds to wait for it.")
def check(secrets: Path, address: str, name: str, patience: int) -> None:
    """Ask a server whether it is healthy; the exit code tells."""
    launch.wait_until_healthy(address, secrets, name, patience)


_COMPOSE = click.option("--compose", required=True, help="Words that begin the stack's commands of Compose.")


@main.command()
@_COMPOSE
@click.option("--to", required=True, type=click.Path(path_type=Path), help="Archive to make.")
def backup(compose: str, to: Path) -> None:
    """Write an archive of what a server in Docker holds."""
    print(server_backup.backup(server_backup.Stack.of(compose), to))


@main.command()
@_COMPOSE
@click.option("--source", required=True, type=click.Path(path_type=Path), help="Archive to take.")
def restore(compose: str, source: Path) -> None:
    """Fill a server's empty volumes from its archive."""
    print(server_backup.restore(server_backup.Stack.of(compose), source))


def run(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit code: 2 for what the user can cure, 1 for what failed."""
    stop_on_signals()
    try:
        main(arguments)
    except (StudyError, OSError) as error:
        print(f"Error: {error}.", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(run())
