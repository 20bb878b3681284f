"""A team's server without Docker: closed, with its passwords nowhere to be seen, and lasting."""

import os
import signal
import stat
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import attacks
import boto3
import mlflow
import psutil
import pytest
from moto.server import ThreadedMotoServer
from servers import folder_for_all, free_port, wait_until_said

from lenet_study.server.__main__ import main, run
from lenet_study.server.secrets import ADMIN, prepare_secrets, read_secret
from lenet_study.server.settings import ServerSettings
from lenet_study.tracking.run import open_run


@contextmanager
def running(folder: Path, port: int, *options: str):
    """`python -m lenet_study.server serve`, as `make server-local` starts it."""
    log = folder / "log"
    secrets = folder / "secrets"
    command = [sys.executable, "-m", "lenet_study.server", "serve", "--secrets", str(secrets)]
    command += ["--state", str(folder / "state"), "--port", str(port), *options]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    with log.open("a") as output:
        before = log.read_text().count("Application startup complete")
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
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
def team():
    """A server with a run in it, started a second time; PostgreSQL runs as a user of its own."""
    with folder_for_all() as folder, pytest.MonkeyPatch.context() as patch:
        yield from restarted(folder, patch)


def restarted(folder: Path, patch: pytest.MonkeyPatch):
    (folder / attacks.CANARY).write_text(f"{attacks.CANARY}-content")
    (folder / "state").mkdir()
    (folder / "state" / attacks.CANARY).write_text(f"{attacks.CANARY}-content")
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    secrets = folder / "secrets"
    prepare_secrets(secrets, port)
    password = read_secret(secrets, "admin_password")
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        patch.delenv(name)
    patch.setenv("MLFLOW_TRACKING_URI", address)
    patch.setenv("MLFLOW_TRACKING_USERNAME", ADMIN)
    patch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    with running(folder, port), open_run("first", stage="train", params={"epochs": 1}) as run:
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
def test_its_health_can_be_asked(team, capsys):
    options = ["--secrets", str(team.folder / "secrets"), "--address", f"http://{team.client.host}"]
    main(["check", *options], standalone_mode=False)
    assert run(["check", *options, "--name", "another.example.com"]) == 1
    assert "is not healthy (403)" in capsys.readouterr().err


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
        others = (path for path in files if not {"artifacts", "postgres"} & {*path.parts})
        return {path: path.read_bytes() for path in others}

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


ADOPT = """
import sys
from lenet_study.server import middleware
middleware.create_app()
middleware.adopt_password()
sys.exit(not middleware.auth.store.authenticate_user("admin", "another password"))
"""


@pytest.mark.server
def test_the_file_decides_which_password_is_admins(tmp_path):
    """Also when the user is there already, with another."""
    secrets, database = tmp_path / "secrets", f"sqlite:///{tmp_path}/users.db"
    prepare_secrets(secrets, 5000)
    settings = ServerSettings(secrets=secrets, state=tmp_path, hosts="here")
    for expected in (1, 0):
        environment = {**os.environ, **settings.write_environment(database)}
        result = subprocess.run([sys.executable, "-c", ADOPT], env=environment)
        assert result.returncode == expected
        (secrets / "admin_password").unlink()
        (secrets / "admin_password").write_text("another password")


@pytest.mark.server
def test_artifacts_may_be_kept_in_an_s3_compatible_store(tmp_path, monkeypatch):
    store, port = ThreadedMotoServer("127.0.0.1", 0), free_port()
    store.start()
    try:
        endpoint = "http://{}:{}".format(*store.get_host_and_port())
        secrets = tmp_path / "secrets"
        prepare_secrets(secrets, port)
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
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", ADMIN)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", read_secret(secrets, "admin_password"))
        database = f"sqlite:///{tmp_path}/mlflow.db"
        options = ("--database", database, "--artifacts", "s3://studies/lenet")
        with running(tmp_path, port, *options):
            with open_run("first", stage="train", params={}) as run:
                run.log_text("kept", "note.txt")
            assert mlflow.artifacts.load_text(f"runs:/{run.id}/note.txt") == "kept"
        stored = {item.key: item.get()["Body"].read() for item in bucket.objects.all()}
        assert stored[f"lenet/{run.experiment_id}/{run.id}/artifacts/note.txt"] == b"kept"
    finally:
        store.stop()


@pytest.mark.server
def test_the_server_never_unpickles(team):
    workers = [process for process in team.processes if "uvicorn" in " ".join(process.cmdline())]
    assert workers
    assert {process.environ()["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] for process in workers} == {"false"}
