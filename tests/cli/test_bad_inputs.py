"""Bad input everywhere: one sentence that names field and value, the right exit code, nothing left."""

import functools
import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import bad_inputs
import pytest
from conftest import open_store, toy_split, write_data_files
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lenet_study
from lenet_study.__main__ import main
from lenet_study.cli.commands import COMMANDS
from lenet_study.cli.parameters import options_of
from lenet_study.training import data_files
from lenet_study.training.data_files import SHA256

LIMIT = 15  # seconds that an answer may take
_HANDLED = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


@pytest.fixture(scope="module")
def folder(initialised_database, tmp_path_factory):
    """A working directory with a store, toy images and what is broken; nothing can be fetched."""
    place = tmp_path_factory.mktemp("bad inputs")
    toys = write_data_files(place / "data", toy_split(200, seed=1), toy_split(60, seed=2))
    handlers = {signum: signal.getsignal(signum) for signum in _HANDLED}
    with open_store(initialised_database, place), pytest.MonkeyPatch.context() as patch:
        for name, sha256 in toys.sha256.items():
            patch.setitem(SHA256, name, sha256)
        # Replaced, not emptied: its order, which users see, would not come back.
        patch.setattr(data_files, "SOURCES", {})
        bad_inputs.write_broken_things(place)
        yield place
    for signum, handler in handlers.items():
        signal.signal(signum, handler)


@pytest.fixture
def answer(folder, monkeypatch, capfd):
    """Run a command line in an environment: its exit code and what it wrote."""

    def run(arguments, environment):
        monkeypatch.setenv("LENET_STUDY_DATA", str(folder / "data"))
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        code = main(list(arguments))
        return code, capfd.readouterr()

    signal.signal(signal.SIGALRM, _too_late)
    signal.alarm(LIMIT)
    yield run
    signal.alarm(0)


def _too_late(signum, frame):
    pytest.fail(f"no answer within {LIMIT} s")


def left_behind(folder: Path):
    """What a refused command must leave as it is: the files, but for locks, and the store's runs."""
    names = {
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.suffix not in (".lock", ".claims")
    }
    with sqlite3.connect(folder / "mlflow.db") as store:
        return names, store.execute("SELECT count(*) FROM runs").fetchone()


def assert_refused(case, folder, answer):
    case, before = case.filled(folder), left_behind(folder)
    code, (_, errors) = answer(case.arguments, case.environment)
    assert code == case.code, errors
    assert "Traceback" not in errors
    sentence = errors.splitlines()[-1]
    assert sentence.startswith("Error: ")
    for words in case.named:
        assert words in sentence
    assert len(sentence) < 2500
    assert left_behind(folder) == before


@pytest.mark.parametrize("case", bad_inputs.cases(), ids=str)
def test_bad_input_is_refused_in_one_sentence(case, folder, answer):
    assert_refused(case, folder, answer)


OPTIONS = [
    (command, option) for command, function in COMMANDS.items() for option in options_of(function).values()
]
NONSENSE = st.text(min_size=1).filter(lambda text: not re.fullmatch(r"[\w.+-]+", text))


@given(chosen=st.sampled_from(OPTIONS), value=NONSENSE | st.integers() | st.floats())
@settings(
    max_examples=60,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_nonsense_is_refused_or_converted(chosen, value, capsys):
    """Only the command line is asked: a value that it takes would be worked with for minutes."""
    command, option = chosen
    text = str(value)
    taken = []
    commands = {command: functools.wraps(COMMANDS[command])(lambda **values: taken.append(values))}
    others = [other for other in options_of(COMMANDS[command]).values() if other.name != option.name]
    required = [word for other in others if other.required for word in (other.opts[0], "x")]
    code = main([command, *required, option.opts[0], text], commands)
    errors = capsys.readouterr().err
    assert (code, len(taken), errors.count("\n")) in ((0, 1, 0), (2, 0, 1))
    if code:
        assert errors.startswith("Error: ")
        assert option.opts[0] in errors


PROCESSES = [  # a few as users start them: bytes that are no text, a pipe, an address that names nothing
    ((b"train", b"--data-dir", b"\xff\xfe"), {}, b"--data-dir"),
    ((b"train", b"--epochs", b"\xef\xbc\x91"), {}, b"--epochs"),
    ((b"train", b"--recipe", b"fifo"), {}, b"recipe=fifo"),
    ((b"reap",), {"MLFLOW_TRACKING_URI": "http://[::1"}, b"http://[::1"),
]


@pytest.mark.parametrize(
    ("arguments", "environment", "named"), PROCESSES, ids=lambda value: ascii(value)[:40]
)
def test_a_process_refuses_bad_input(arguments, environment, named, folder, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(Path(lenet_study.__file__).parents[1]))
    before = left_behind(folder)
    command = [sys.executable, "-m", "lenet_study", *arguments]
    answer = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert answer.returncode == 2, answer.stderr
    assert answer.stderr.startswith(b"Error: ")
    assert answer.stderr.count(b"\n") == 1
    assert named in answer.stderr
    assert left_behind(folder) == before
