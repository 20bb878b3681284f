"""A server's database and artifacts come back from their archive, into an empty place alone."""

import subprocess
import sys
from pathlib import Path

import pytest
from servers import folder_for_all
from sqlalchemy import create_engine, text

from lenet_study.errors import StoreError, UserError
from lenet_study.server.postgres import INSTALLED, private_server
from lenet_study.server.server_backup import Stack, backup, restore

pytestmark = pytest.mark.skipif(
    not list(INSTALLED.glob("*/bin/initdb")), reason="PostgreSQL is not installed"
)
FILES = {"1/run/artifacts/a b.txt": b"", "1/models/m-1/artifacts/data/model.pth": bytes(range(256)) * 99}


@pytest.fixture
def folder():
    with folder_for_all() as folder:
        yield folder


def stack_of(address: str, artifacts: Path) -> Stack:
    """The same commands as in containers, on this machine."""
    socket = address.partition("?host=")[2]
    programs = sorted(INSTALLED.glob("*/bin"))[-1]
    connection = ("--host", socket, "--username", "mlflow", "--dbname", "mlflow")
    return Stack(["env", f"PATH={programs}:/usr/bin:/bin"], ["env"], str(artifacts), connection)


def rows(address: str) -> list[tuple[object, ...]]:
    engine = create_engine(address)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE IF NOT EXISTS users (name text)"))
        found = [tuple(row) for row in connection.execute(text("SELECT * FROM users"))]
    engine.dispose()
    return found


def test_a_server_comes_back_into_an_empty_place(folder):
    old, new, archive = folder / "old", folder / "new", folder / "server.tar"
    for name, content in FILES.items():
        (old / name).parent.mkdir(parents=True, exist_ok=True)
        (old / name).write_bytes(content)
    new.mkdir()
    with private_server(folder / "postgres-old") as address:
        rows(address)
        engine = create_engine(address)
        with engine.begin() as connection:
            connection.execute(text("INSERT INTO users VALUES ('admin'), ('ü')"))
        engine.dispose()
        assert "the database and 2 artifacts" in backup(stack_of(address, old), archive)
        with pytest.raises(UserError, match="hold something"):
            restore(stack_of(address, new), archive)
    with private_server(folder / "postgres-new") as address:
        with pytest.raises(UserError, match="hold something"):
            restore(stack_of(address, old), archive)
        restore(stack_of(address, new), archive)
        assert rows(address) == [("admin",), ("ü",)]
    assert {
        str(path.relative_to(new)): path.read_bytes() for path in new.rglob("*") if path.is_file()
    } == FILES


def test_a_failing_program_leaves_nothing(folder):
    (folder / "artifacts").mkdir()
    away = stack_of(f"postgresql://mlflow@/mlflow?host={folder}", folder / "artifacts")
    with pytest.raises(StoreError, match="pg_dump failed in the server's stack"):
        backup(away, folder / "server.tar")
    assert [path.name for path in folder.iterdir()] == ["artifacts"]


def test_a_damaged_archive_touches_no_server(folder):
    (folder / "bad.tar").write_bytes(b"x" * 10_000)
    command = [sys.executable, "-m", "lenet_study.server", "restore", "--compose", "false"]
    answer = subprocess.run([*command, "--source", folder / "bad.tar"], capture_output=True, text=True)
    assert answer.returncode == 2
    assert "is no backup, or was damaged" in answer.stderr
    assert [path.name for path in folder.iterdir()] == ["bad.tar"]
