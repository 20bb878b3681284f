"""Bad input everywhere: one sentence that names field and value, the right exit code, nothing left."""

import signal
import sqlite3
from pathlib import Path

import bad_inputs
import pytest
from conftest import open_store, toy_split, write_data_files

from lenet_study.__main__ import main
from lenet_study.training.data_files import SHA256, SOURCES

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
        for source in [*SOURCES]:
            patch.delitem(SOURCES, source)
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


@pytest.mark.parametrize("case", bad_inputs.cases(), ids=str)
def test_bad_input_is_refused_in_one_sentence(case, folder, answer):
    def filled(text):
        return text.replace("{folder}", str(folder))

    before = left_behind(folder)
    environment = {name: filled(value) for name, value in case.environment.items()}
    code, (_, errors) = answer(map(filled, case.arguments), environment)
    assert code == case.code, errors
    assert "Traceback" not in errors
    sentence = errors.splitlines()[-1]
    assert sentence.startswith("Error: ")
    for words in case.named:
        assert filled(words) in sentence
    assert len(sentence) < 2500
    assert left_behind(folder) == before
