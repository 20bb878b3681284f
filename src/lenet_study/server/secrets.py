"""The server's passwords: files in one folder, made once, which only their owner's programs can reach."""

from __future__ import annotations

import os
import secrets
import shlex
from collections.abc import Mapping
from pathlib import Path

from lenet_study.errors import UserError

ADMIN = "admin"  # name of the first user
MIN_PASSWORD_LENGTH = 12  # MLflow's
# The first user's, the server's at its database, and the key that signs the server's forms.
GENERATED = ("admin_password", "database_password", "session_key")


def prepare_secrets(folder: Path, port: int) -> None:
    """Generate the passwords that do not exist yet, and write files with which clients here log in."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)  # only its owner gets in; containers, of other users, are given single files
    for name in (*GENERATED, "aws"):
        if not (folder / name).exists():
            write_file(folder / name, "" if name == "aws" else secrets.token_urlsafe(24), 0o444)
    login = {"MLFLOW_TRACKING_USERNAME": ADMIN, "MLFLOW_TRACKING_PASSWORD": admin_password(folder)}
    write_config(folder / "credentials", {name.lower(): value for name, value in login.items()}, 0o444)
    variables = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}", **login}
    exports = (f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())
    write_file(folder / "client.sh", "".join(exports), 0o600)


def read_secret(folder: Path, name: str) -> str:
    """Return a secret's value."""
    try:
        return (folder / name).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise UserError(
            f"secrets={folder}: {name} cannot be read ({error.strerror}): make it with "
            f"`python -m lenet_study.server prepare --secrets {folder}`"
        ) from error


def admin_password(folder: Path) -> str:
    """Return the first user's password, unless MLflow does not take it."""
    password = read_secret(folder, "admin_password")
    subject = f"secrets={folder}: admin_password has"
    if len(password) < MIN_PASSWORD_LENGTH:
        raise UserError(f"{subject} {len(password)} characters; MLflow wants {MIN_PASSWORD_LENGTH}")
    if not (password.isascii() and password.isprintable()):
        raise UserError(f"{subject} characters beyond ASCII, with which nobody could log in: choose another")
    return password


def write_config(path: Path, values: Mapping[str, str], mode: int) -> None:
    """Write a file as MLflow's ``configparser`` reads it, which interpolates ``%``."""
    lines = (f"{name} = {value.replace('%', '%%')}\n" for name, value in values.items())
    write_file(path, "".join(["[mlflow]\n", *lines]), mode)


def write_file(path: Path, text: str, mode: int) -> None:
    """Write a file, whole or not at all, that never has wider permissions than ``mode``."""
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        os.fchmod(file.fileno(), mode)
        file.write(text)
    partial.replace(path)
