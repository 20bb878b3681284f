"""A server's start: one at a time, and on which database."""

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from filelock import FileLock
from servers import folder_for_all, free_port

from lenet_study.errors import StoreError, UserError
from lenet_study.server.__main__ import run
from lenet_study.server.launch import serve
from lenet_study.server.postgres import INSTALLED, private_server
from lenet_study.server.secrets import prepare_secrets
from lenet_study.server.settings import ServerSettings


def settings_of(state: Path, **options) -> ServerSettings:
    """Settings of a server with passwords and a free port."""
    prepare_secrets(state / "secrets", 5000)
    return ServerSettings(secrets=state / "secrets", state=state, port=free_port(), **options)


LEFT_RUNNING = """
import os, pathlib, sys
from lenet_study.server.postgres import private_server
with private_server(pathlib.Path(sys.argv[1])):
    os.kill(os.getpid(), 9)
"""


@pytest.mark.skipif(not list(INSTALLED.glob("*/bin/initdb")), reason="PostgreSQL is not installed")
def test_a_database_of_ones_own_keeps_what_it_has():
    from sqlalchemy import create_engine, text

    with folder_for_all() as parent:
        folder = parent / "postgres"
        for expected in ([], [(1,)], [(1,), (1,)]):
            if len(expected) == 2:
                subprocess.run([sys.executable, "-c", LEFT_RUNNING, folder])
                assert (folder / "data" / "postmaster.pid").exists()
            with private_server(folder) as address:
                assert "listen" not in address
                engine = create_engine(address)
                with engine.begin() as connection:
                    connection.execute(text("CREATE TABLE IF NOT EXISTS kept (number integer)"))
                    assert [tuple(row) for row in connection.execute(text("SELECT * FROM kept"))] == expected
                    connection.execute(text("INSERT INTO kept VALUES (1)"))
                engine.dispose()
        assert not (folder / "data" / "postmaster.pid").exists()


def databases_of(state: Path, **options) -> tuple[list[Path], str]:
    """Folders of the PostgreSQL that a server starts, and the address that its processes get."""
    folders, addresses = [], []

    def postgres(folder):
        folders.append(folder)
        return nullcontext("postgresql://its-own")

    def no_process(command, environment):
        addresses.append(environment["MLFLOW_BACKEND_STORE_URI"])
        return 0

    assert serve(settings_of(state, **options), postgres=postgres, run=no_process) == 0
    (address,) = {*addresses}
    assert len(addresses) == 2  # the command that makes tables, and the server
    return folders, address


def test_a_store_in_sqlite_stays_there(tmp_path):
    """Even once PostgreSQL has been installed."""
    (tmp_path / "mlflow.db").touch()
    assert databases_of(tmp_path) == ([], f"sqlite:///{tmp_path}/mlflow.db")


def test_a_new_store_is_in_postgresql_and_a_named_one_where_it_is(tmp_path):
    assert databases_of(tmp_path) == ([tmp_path / "postgres"], "postgresql://its-own")
    assert databases_of(tmp_path, database="postgresql://team") == ([], "postgresql://team")
    assert not (tmp_path / "postgres").exists()


def test_tables_that_cannot_be_made_are_one_sentence(tmp_path):
    (tmp_path / "mlflow.db").touch()
    with pytest.raises(StoreError, match="The database of users could not be opened"):
        serve(settings_of(tmp_path), run=lambda command, environment: 1)


def test_data_of_a_postgresql_that_is_gone_is_one_sentence(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "PG_VERSION").write_text("9.6\n")
    with (
        pytest.raises(UserError, match=r"was made by PostgreSQL 9\.6, which is not installed"),
        private_server(tmp_path),
    ):
        pass


def test_a_state_that_is_served_already_is_one_sentence(tmp_path, capsys):
    settings = settings_of(tmp_path)
    options = ["--secrets", str(settings.secrets), "--state", str(tmp_path), "--port", str(settings.port)]
    with FileLock(tmp_path / "lock"):
        assert run(["serve", *options]) == 2
    assert f"state={tmp_path} is being served by another process" in capsys.readouterr().err
