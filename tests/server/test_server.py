"""A team's server without Docker: closed, with its passwords nowhere to be seen, and lasting."""

import os
import signal
import socket
import stat
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import attacks
import boto3
import mlflow
import psutil
import pytest
from filelock import FileLock
from moto.server import ThreadedMotoServer
from servers import free_port, wait_until_said

from lenet_study.errors import UserError
from lenet_study.server import __main__ as server
from lenet_study.server import postgres
from lenet_study.tracking import run as tracking

ROOT = Path(__file__).parents[2]
WITH_SOURCE = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
PASSWORD = "it's 50%(off)s $HOME; today"


def prepared(folder: Path, **options) -> Path:
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    assert server.main(["prepare", "--secrets", str(folder), *arguments], standalone_mode=False) is None
    return folder


def test_passwords_are_made_once_and_guarded(tmp_path):
    folder = prepared(tmp_path / "secrets", port="7")
    values = {path.name: path.read_text() for path in folder.iterdir()}
    assert len({values[name] for name in ("admin_password", "database_password", "session_key")}) == 3
    assert len(values["admin_password"]) >= 32
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "client.sh").stat().st_mode) == 0o600
    assert "export MLFLOW_TRACKING_URI=http://127.0.0.1:7\n" in values["client.sh"]
    assert f"MLFLOW_TRACKING_PASSWORD={values['admin_password']}\n" in values["client.sh"]
    prepared(folder, port="7")
    assert {path.name: path.read_text() for path in folder.iterdir()} == values


def test_a_missing_password_is_one_sentence(tmp_path, capsys):
    state = str(tmp_path / "state")
    assert (
        server.run(["serve", "--secrets", str(tmp_path), "--state", state, "--port", str(free_port())]) == 2
    )
    assert server.run(["check", "--secrets", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "admin_password cannot be read (No such file or directory)" in error
    assert "lenet_study.server prepare" in error


@pytest.mark.parametrize(
    ("password", "said"),
    [
        ("short", "admin_password has 5 characters; MLflow wants 12"),
        ("pässword and more", "admin_password has characters beyond ASCII"),
    ],
)
def test_a_password_that_mlflow_does_not_take_is_one_sentence(password, said, tmp_path, capsys):
    secrets = prepared(tmp_path / "secrets")
    (secrets / "admin_password").unlink()
    (secrets / "admin_password").write_text(f"{password}\n")
    with pytest.raises(UserError, match=said):
        server.settings(secrets, tmp_path, "sqlite:///mlflow.db")
    assert server.run(["prepare", "--secrets", str(secrets)]) == 2
    assert said in capsys.readouterr().err


def test_a_port_that_is_taken_is_one_sentence(tmp_path, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert server.run(["serve", "--secrets", str(prepared(tmp_path)), "--port", str(port)]) == 2
        assert server.run(["free", "--port", str(port)]) == 2
    assert capsys.readouterr().err.count(f"port={port} cannot be listened on at 127.0.0.1") == 2


@pytest.mark.parametrize("port", ["abc", "0", "99999"])
def test_a_port_that_is_none_is_refused(port, capsys):
    with pytest.raises(SystemExit) as ended:
        server.run(["free", "--port", port])
    assert ended.value.code == 2
    assert "Invalid value for '--port'" in capsys.readouterr().err


def test_a_state_that_is_served_already_is_one_sentence(tmp_path, capsys):
    secrets = prepared(tmp_path / "secrets")
    options = ["--secrets", str(secrets), "--state", str(tmp_path), "--port", str(free_port())]
    with FileLock(tmp_path / "lock"):
        assert server.run(["serve", *options]) == 2
    assert f"state={tmp_path} is being served by another process" in capsys.readouterr().err


def test_a_server_that_is_away_is_one_sentence(tmp_path, capsys):
    address = f"http://127.0.0.1:{free_port()}"
    assert server.run(["check", "--secrets", str(prepared(tmp_path)), "--address", address]) == 1
    assert f"The server at {address} is not well (ConnectionError)" in capsys.readouterr().err


def test_passwords_reach_the_server_by_files_that_only_its_user_reads(tmp_path):
    secrets = prepared(tmp_path / "secrets")
    (secrets / "admin_password").unlink()
    (secrets / "admin_password").write_text(PASSWORD)
    (secrets / "database_password").unlink()
    (secrets / "database_password").write_text(r"a:b\c")
    environment = server.settings(secrets, tmp_path, "postgresql://mlflow@database/mlflow")
    config = Path(environment["MLFLOW_AUTH_CONFIG_PATH"])
    assert stat.S_IMODE(config.stat().st_mode) == stat.S_IMODE(config.parent.stat().st_mode) & 0o600 == 0o600
    assert PASSWORD not in str(environment)
    assert Path(environment["PGPASSFILE"]).read_text() == "*:*:*:*:a\\:b\\\\c\n"
    from mlflow.server.auth import config as auth_config

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_AUTH_CONFIG_PATH", str(config))
        assert auth_config.read_auth_config().admin_password == PASSWORD


def test_clients_log_in_with_whatever_password_the_file_has(tmp_path, monkeypatch):
    secrets = prepared(tmp_path / "secrets")
    (secrets / "admin_password").unlink()
    (secrets / "admin_password").write_text(PASSWORD)
    prepared(secrets)
    command = ["bash", "-c", '. "$0"; printenv MLFLOW_TRACKING_PASSWORD', str(secrets / "client.sh")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"{PASSWORD}\n"
    from mlflow.utils import credentials

    monkeypatch.setattr(credentials, "_get_credentials_path", lambda: str(secrets / "credentials"))
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD", raising=False)
    assert credentials.read_mlflow_creds().password == PASSWORD


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert server.run(["prepare", "--secrets", str(tmp_path / "file" / "secrets")]) == 1
    assert "Not a directory" in capsys.readouterr().err


LEFT_RUNNING = """
import os, pathlib, sys
from lenet_study.server import postgres
with postgres.private_server(pathlib.Path(sys.argv[1]), wanted=True):
    os.kill(os.getpid(), 9)
"""


@pytest.mark.skipif(not list(postgres.INSTALLED.glob("*/bin/initdb")), reason="PostgreSQL is not installed")
def test_a_database_of_ones_own_keeps_what_it_has(tmp_path):
    for folder in (*tmp_path.parents[:2], tmp_path):
        folder.chmod(0o755)
    from sqlalchemy import create_engine, text

    for expected in ([], [(1,)], [(1,), (1,)]):
        if len(expected) == 2:
            subprocess.run([sys.executable, "-c", LEFT_RUNNING, tmp_path / "postgres"], env=WITH_SOURCE)
            assert (tmp_path / "postgres" / "data" / "postmaster.pid").exists()
        with postgres.private_server(tmp_path / "postgres", wanted=True) as address:
            assert "listen" not in address
            engine = create_engine(address)
            with engine.begin() as connection:
                connection.execute(text("CREATE TABLE IF NOT EXISTS kept (number integer)"))
                assert [tuple(row) for row in connection.execute(text("SELECT * FROM kept"))] == expected
                connection.execute(text("INSERT INTO kept VALUES (1)"))
            engine.dispose()
    assert not (tmp_path / "postgres" / "data" / "postmaster.pid").exists()


def test_no_database_is_run_where_none_is_wanted(tmp_path):
    with postgres.private_server(tmp_path / "postgres", wanted=False) as address:
        assert address == ""
    assert not (tmp_path / "postgres").exists()


@contextmanager
def running(folder: Path, port: int, *options: str):
    """`python -m lenet_study.server.__main__ serve`, as `make server-local` starts it."""
    log = folder / "log"
    secrets = folder / "secrets"
    command = [sys.executable, "-m", "lenet_study.server", "serve", "--secrets", str(secrets)]
    command += ["--state", str(folder / "state"), "--port", str(port), *options]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    with log.open("a") as output:
        before = log.read_text().count("Application startup complete")
        process = subprocess.Popen(
            command, env={**environment, "PYTHONPATH": str(ROOT / "src")}, stdout=output, stderr=output
        )
    try:
        wait_until_said(process, log, "Application startup complete", before + 2)
        children = psutil.Process(process.pid).children(recursive=True)
        yield children
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []


@pytest.fixture(scope="module")
def team(tmp_path_factory):
    """A server with a run in it, started a second time."""
    folder = tmp_path_factory.mktemp("team")
    for each in (*folder.parents[:2], folder):
        each.chmod(0o755)  # for postgres
    (folder / attacks.CANARY).write_text(f"{attacks.CANARY}-content")
    (folder / "state").mkdir()
    (folder / "state" / attacks.CANARY).write_text(f"{attacks.CANARY}-content")
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    secrets = prepared(folder / "secrets", port=str(port))
    password = server.read_secret(secrets, "admin_password")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
            patch.delenv(name)
        patch.setenv("MLFLOW_TRACKING_URI", address)
        patch.setenv("MLFLOW_TRACKING_USERNAME", server.ADMIN)
        patch.setenv("MLFLOW_TRACKING_PASSWORD", password)
        with running(folder, port), tracking.run("first", stage="train", params={"epochs": 1}) as run:
            run.log_text("kept", "note.txt")
        with running(folder, port) as processes:
            client = attacks.Client(address, password)
            yield SimpleNamespace(
                folder=folder, client=client, run_id=run.id, processes=processes, password=password
            )


@pytest.mark.server
def test_a_run_is_there_after_a_restart(team):
    assert mlflow.MlflowClient().get_run(team.run_id).info.status == "FINISHED"
    assert mlflow.artifacts.load_text(f"runs:/{team.run_id}/note.txt") == "kept"


@pytest.mark.server
def test_every_route_wants_a_password(team, tmp_path):
    assert attacks.refuses_all_without_password(team.client, tmp_path) > 900


@pytest.mark.server
def test_other_names_and_other_pages_are_refused(team):
    assert len(attacks.HOSTILE_HOSTS) >= 30
    assert len(attacks.FOREIGN_ORIGINS) >= 10
    attacks.refuses_hosts_and_origins(team.client)


@pytest.mark.server
def test_no_path_leads_out_of_the_artifacts(team):
    def outside():
        files = (path for path in team.folder.rglob("*") if path.is_file() and path.name != "log")
        kept = (path for path in files if not {"artifacts", "postgres"} & {*path.parts})
        return {path: path.read_bytes() for path in kept}

    before = outside()
    tried = attacks.reads_nothing_outside(team.client, team.run_id, "note.txt", [team.password])
    assert tried > 1000
    assert outside() == before
    assert not Path("/etc", attacks.CANARY).exists()
    assert mlflow.MlflowClient().get_run(team.run_id)


@pytest.mark.server
def test_passwords_are_in_no_command_line_and_no_log(team):
    secrets = [path.read_text() for path in (team.folder / "secrets").glob("*_*")]
    lines = [" ".join(process.cmdline()) for process in team.processes]
    assert len(lines) >= 3
    for text in (*lines, (team.folder / "log").read_text()):
        assert not any(secret in text for secret in secrets)


@pytest.mark.server
def test_other_users_of_the_machine_find_nothing_to_read(team):
    state = team.folder / "state"
    assert stat.S_IMODE((state / "artifacts").stat().st_mode) == 0o700
    assert stat.S_IMODE((state / "private").stat().st_mode) == 0o700


@pytest.mark.server
def test_the_file_decides_which_password_is_admins(tmp_path):
    """Also when the user is there already, with another."""
    secrets, database = prepared(tmp_path / "secrets"), f"sqlite:///{tmp_path}/users.db"
    ask = "sys.exit(not guard.auth.store.authenticate_user('admin', 'another password'))"
    code = f"import sys; from lenet_study import guard; guard.create_app(); guard.adopt_password(); {ask}"
    for expected in (1, 0):
        variables = {**server.settings(secrets, tmp_path, database), "MLFLOW_SERVER_ALLOWED_HOSTS": "here"}
        environment = {**WITH_SOURCE, **variables}
        assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == expected
        (secrets / "admin_password").unlink()
        (secrets / "admin_password").write_text("another password")


def test_a_store_in_sqlite_stays_there(tmp_path, monkeypatch):
    """Even once PostgreSQL has been installed."""
    (tmp_path / "mlflow.db").touch()
    asked = []
    monkeypatch.setattr(
        server, "private_server", lambda folder, wanted: asked.append(wanted) or nullcontext("")
    )
    monkeypatch.setattr(server, "_make_tables", lambda environment: None)
    monkeypatch.setattr(server, "_until_terminated", lambda command, environment: 0)
    monkeypatch.setattr(os, "umask", lambda mask: 0)
    options = ["--secrets", str(prepared(tmp_path / "secrets")), "--state", str(tmp_path)]
    with pytest.raises(SystemExit):
        server.run(["serve", *options, "--port", str(free_port())])
    assert asked == [False]


def test_data_of_a_postgresql_that_is_gone_is_one_sentence(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "PG_VERSION").write_text("9.6\n")
    with pytest.raises(UserError, match=r"was made by PostgreSQL 9\.6, which is not installed"):
        postgres._programs(tmp_path)


def test_a_model_replaces_a_model_and_nothing_else(tmp_path, capsys):
    (tmp_path / "home").mkdir()
    assert server.run(["fetch", "--to", str(tmp_path / "home")]) == 2
    assert "holds no model" in capsys.readouterr().err
    assert (tmp_path / "home").is_dir()


@pytest.mark.server
def test_artifacts_may_be_kept_in_an_s3_compatible_store(tmp_path, monkeypatch):
    store, port = ThreadedMotoServer("127.0.0.1", 0), free_port()
    store.start()
    try:
        endpoint = "http://{}:{}".format(*store.get_host_and_port())
        secrets = prepared(tmp_path / "secrets", port=str(port))
        (secrets / "aws").unlink()
        (secrets / "aws").write_text(
            "[default]\naws_access_key_id = a\naws_secret_access_key = b\nregion = us-east-1\n"
            f"endpoint_url = {endpoint}\n"
        )
        credentials = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
        bucket = boto3.resource("s3", endpoint_url=endpoint, **credentials).create_bucket(Bucket="studies")
        for name in [name for name in os.environ if name.startswith(("MLFLOW_", "AWS_"))]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", server.ADMIN)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", server.read_secret(secrets, "admin_password"))
        database = f"sqlite:///{tmp_path}/mlflow.db"
        options = ("--database", database, "--artifacts", "s3://studies/lenet")
        with running(tmp_path, port, *options):
            with tracking.run("first", stage="train", params={}) as run:
                run.log_text("kept", "note.txt")
            assert mlflow.artifacts.load_text(f"runs:/{run.id}/note.txt") == "kept"
        stored = {each.key: each.get()["Body"].read() for each in bucket.objects.all()}
        assert stored[f"lenet/{run.experiment_id}/{run.id}/artifacts/note.txt"] == b"kept"
    finally:
        store.stop()


@pytest.mark.server
def test_the_server_never_unpickles(team):
    workers = [process for process in team.processes if "uvicorn" in " ".join(process.cmdline())]
    assert workers
    assert {process.environ()["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] for process in workers} == {"false"}


INEXACT = "Error: hosts={}: "
UNKNOWN = "artifacts={} is no known place: write s3://"


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--hosts", "10.*", INEXACT),
        ("--hosts", "*", INEXACT),
        ("--hosts", "a.example.com,", INEXACT),
        ("--hosts", "a.example.com, b.example.com", INEXACT),
        ("--hosts", "http://a", INEXACT),
        ("--artifacts", "foo://bar", UNKNOWN),
        ("--artifacts", "s3://", UNKNOWN),
        ("--artifacts", "http://here", UNKNOWN),
    ],
)
def test_what_no_server_can_use_is_one_sentence_before_anything_is_made(
    option, value, said, tmp_path, capsys
):
    secrets = tmp_path / "secrets"
    assert server.run(["prepare", "--secrets", str(secrets), option, value]) == 2
    assert server.run(["serve", "--secrets", str(secrets), option, value]) == 2
    assert not secrets.exists()
    assert capsys.readouterr().err.count(said.format(value)) == 2


@pytest.mark.parametrize("hosts", ["localhost:5000", "mlflow.example.com", "[::1]:5000"])
def test_exact_hosts_are_taken_if_this_machine_s_own_is_among_them(hosts, tmp_path, capsys):
    prepared(tmp_path / "secrets", hosts=f"{hosts},127.0.0.1:5000")
    assert server.run(["prepare", "--secrets", str(tmp_path / "others"), "--hosts", hosts]) == 2
    assert f"hosts={hosts} lacks 127.0.0.1:5000" in capsys.readouterr().err
    assert not (tmp_path / "others").exists()


def test_hosts_that_are_not_exact_are_refused(monkeypatch):
    from lenet_study.server import middleware as guard

    for hosts in ("", "10.*", "*"):
        monkeypatch.setenv("MLFLOW_SERVER_ALLOWED_HOSTS", hosts)
        with pytest.raises(RuntimeError, match="not exact"):
            guard.create_app()
