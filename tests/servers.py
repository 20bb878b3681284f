"""Real programs as child processes, for the tests that talk to them."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import requests

START_LIMIT = 120  # seconds


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def folder_for_all():
    """A folder that other users reach too; the next pytest to start closes those below its own."""
    with tempfile.TemporaryDirectory(prefix="lenet-test-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@contextmanager
def serving(command: list[str], answers: str, folder: Path, **environment: str):
    """Start a server, wait until the address ``answers`` does, stop the server at the end."""
    log = folder / "server.log"
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with log.open("w") as output:
        server = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "PATH": programs, **environment},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + START_LIMIT
        while not _ok(answers):
            assert server.poll() is None, f"{command} stopped: {log.read_text()}"
            assert time.monotonic() < deadline, f"{command} does not answer: {log.read_text()}"
            time.sleep(0.2)
        yield
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def wait_until_said(process: subprocess.Popen, log: Path, text: str, times: int) -> None:
    """Until a running program has written a text so many times."""
    deadline = time.monotonic() + 240
    while log.read_text().count(text) < times:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def _ok(address: str) -> bool:
    try:
        return requests.get(address, timeout=5).ok
    except requests.RequestException:
        return False
