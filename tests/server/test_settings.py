"""What a server is started with; what no server can use is refused in one sentence."""

import asyncio
import shutil
import socket
import stat
import subprocess
from pathlib import Path

import pytest
from servers import free_port

from lenet_study.errors import UserError
from lenet_study.server.__main__ import main, run
from lenet_study.server.settings import ServerSettings

PASSWORD = "it's 50%(off)s $HOME; today"


def prepared(folder: Path, **options) -> Path:
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    assert main(["prepare", "--secrets", str(folder), *arguments], standalone_mode=False) is None
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
    assert run(["serve", "--secrets", str(tmp_path), "--state", state, "--port", str(free_port())]) == 2
    assert run(["check", "--secrets", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "admin_password cannot be read (No such file or directory)" in error
    assert "lenet_study.server prepare" in error


@pytest.mark.parametrize(
    ("password", "reason"),
    [
        ("short", "admin_password has 5 characters; MLflow wants 12"),
        ("pässword and more", "admin_password has characters beyond ASCII"),
    ],
)
def test_a_password_that_mlflow_does_not_take_is_one_sentence(password, reason, tmp_path, capsys):
    secrets = prepared(tmp_path / "secrets")
    (secrets / "admin_password").unlink()
    (secrets / "admin_password").write_text(f"{password}\n")
    with pytest.raises(UserError, match=reason):
        ServerSettings(secrets=secrets, state=tmp_path).write_environment("sqlite:///mlflow.db")
    assert run(["prepare", "--secrets", str(secrets)]) == 2
    assert reason in capsys.readouterr().err


def test_a_port_that_is_taken_is_one_sentence(tmp_path, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert run(["serve", "--secrets", str(prepared(tmp_path)), "--port", str(port)]) == 2
        assert run(["free", "--port", str(port)]) == 2
    assert capsys.readouterr().err.count(f"port={port} cannot be listened on at 127.0.0.1") == 2


@pytest.mark.parametrize("port", ["abc", "0", "99999"])
def test_a_port_that_is_none_is_refused(port, capsys):
    with pytest.raises(SystemExit) as ended:
        run(["free", "--port", port])
    assert ended.value.code == 2
    assert "Invalid value for '--port'" in capsys.readouterr().err


def test_a_server_that_is_away_is_one_sentence(tmp_path, capsys):
    address = f"http://127.0.0.1:{free_port()}"
    assert run(["check", "--secrets", str(prepared(tmp_path)), "--address", address]) == 1
    assert f"The server at {address} is not healthy (ConnectionError)" in capsys.readouterr().err


def test_passwords_reach_the_server_by_files_that_only_its_user_reads(tmp_path):
    secrets = prepared(tmp_path / "secrets")
    (secrets / "admin_password").unlink()
    (secrets / "admin_password").write_text(PASSWORD)
    (secrets / "database_password").unlink()
    (secrets / "database_password").write_text(r"a:b\c")
    settings = ServerSettings(secrets=secrets, state=tmp_path)
    environment = settings.write_environment("postgresql://mlflow@database/mlflow")
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

    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".mlflow").mkdir()
    shutil.copy(secrets / "credentials", tmp_path / ".mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD", raising=False)
    assert credentials.read_mlflow_creds().password == PASSWORD


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert run(["prepare", "--secrets", str(tmp_path / "file" / "secrets")]) == 1
    assert "Not a directory" in capsys.readouterr().err


INEXACT = "Error: hosts={}: "
UNKNOWN = "artifacts={} cannot hold artifacts: write s3://"


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
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
    option, value, sentence, tmp_path, capsys
):
    secrets = tmp_path / "secrets"
    assert run(["prepare", "--secrets", str(secrets), option, value]) == 2
    assert run(["serve", "--secrets", str(secrets), option, value]) == 2
    assert not secrets.exists()
    assert capsys.readouterr().err.count(sentence.format(value)) == 2


@pytest.mark.parametrize("hosts", ["localhost:5000", "mlflow.example.com", "[::1]:5000"])
def test_exact_hosts_are_taken_if_this_machine_s_own_is_among_them(hosts, tmp_path, capsys):
    prepared(tmp_path / "secrets", hosts=f"{hosts},127.0.0.1:5000")
    assert run(["prepare", "--secrets", str(tmp_path / "others"), "--hosts", hosts]) == 2
    assert f"hosts={hosts} lacks 127.0.0.1:5000" in capsys.readouterr().err
    assert not (tmp_path / "others").exists()


def test_hosts_that_are_not_exact_are_refused(monkeypatch):
    from lenet_study.server.middleware import create_app

    for hosts in ("", "10.*", "*"):
        monkeypatch.setenv("MLFLOW_SERVER_ALLOWED_HOSTS", hosts)
        with pytest.raises(RuntimeError, match="not exact"):
            create_app()


def test_web_sockets_are_closed():
    from lenet_study.server.middleware import Guard

    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(Guard(app=None, hosts=["here"])({"type": "websocket"}, None, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]
