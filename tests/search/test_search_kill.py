"""A search on the real data, killed and issued again; and one of several machines on PostgreSQL."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import optuna
import psutil
import pytest
from optuna.trial import TrialState
from servers import free_port, wait_until_said

ROOT = Path(__file__).parents[2]
DATA = os.environ.get("LENET_STUDY_DATA", str(ROOT / "data"))
KILLS = 10
MACHINES = 8
TRIALS_EACH = 4
SEARCH = [sys.executable, "-m", "lenet_study", "search", "--max-parameters", "20000", "--max-epochs", "1"]
SEARCH += ["--confirm-seeds", "0", "--threads", "1", "--workers", "2", "--data-dir", DATA]


def environment(**variables):
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])
    return {**os.environ, "PYTHONPATH": paths, **variables}


def issue(folder, trials):
    log = (folder / "log").open("a")
    command = [*SEARCH, "--trials", str(trials)]
    return subprocess.Popen(command, cwd=folder, env=environment(), stdout=log, stderr=log)


@pytest.mark.realdata
def test_a_search_killed_at_random_moments_loses_nothing(store, tmp_path):
    moments = random.Random(0)
    left, finished = [], {}
    for number in range(KILLS):
        process = issue(tmp_path, 1000)
        try:
            if number % 2:  # while trials run
                wait_until_said(process, tmp_path / "log", " of 1000 trials", number // 2 + 1)
            time.sleep(moments.uniform(0, 8))
            left += psutil.Process(process.pid).children(recursive=True)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        now = {t.number: t.value for t in trials_of(tmp_path) if t.state == TrialState.COMPLETE}
        assert finished.items() <= now.items()
        finished = now
    assert finished, (tmp_path / "log").read_text()
    assert psutil.wait_procs(left, timeout=60)[1] == []  # workers end with their command
    process = issue(tmp_path, len(finished) + 4)
    assert process.wait(timeout=300) == 0, (tmp_path / "log").read_text()

    trials = trials_of(tmp_path)
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.FAIL, TrialState.WAITING}
    assert finished.items() <= {trial.number: trial.value for trial in trials}.items()
    runs = store.search_runs(["1"], "tags.stage = 'trial'", max_results=1000)
    complete = {trial.number for trial in trials if trial.state == TrialState.COMPLETE}
    counted = Counter(int(run.data.tags["trial"]) for run in runs if run.info.status == "FINISHED")
    assert counted == dict.fromkeys(complete, 1)  # none twice, none lost
    assert "RUNNING" not in {run.info.status for run in store.search_runs(["1"], max_results=1000)}
    done = Counter(str(sorted(trial.params.items())) for trial in trials if trial.number in complete)
    assert max(done.values()) == 1


def trials_of(folder):
    if not (folder / "optuna.db").exists():
        return []
    try:
        return optuna.load_study(study_name="lenet", storage=f"sqlite:///{folder}/optuna.db").trials
    except KeyError:  # killed before the search was made
        return []


@pytest.fixture
def postgres(tmp_path):
    """A PostgreSQL server of its own on this machine: addresses of databases for MLflow and Optuna."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        pytest.skip("PostgreSQL is not installed, and `make test` can only install it as root")
    programs, data = found[-1], tmp_path / "postgres"
    data.mkdir()
    for folder in (data, *tmp_path.parents[:2], tmp_path):
        folder.chmod(0o755)
    as_postgres = (
        ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"] if os.getuid() == 0 else []
    )
    if as_postgres:
        shutil.chown(data, "postgres", "postgres")
    run = {"check": True, "stdout": subprocess.DEVNULL, "cwd": "/"}
    subprocess.run(
        [*as_postgres, programs / "initdb", "-D", data / "db", "-U", "study", "-A", "trust"], **run
    )
    port = free_port()
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={data}"
    control = [*as_postgres, programs / "pg_ctl", "-D", data / "db", "-l", data / "log", "-w"]
    subprocess.run([*control, "-o", options, "start"], **run)
    try:
        server = ["-h", "127.0.0.1", "-p", str(port), "-U", "study"]
        for name in ("runs", "trials"):
            subprocess.run([programs / "createdb", *server, name], **run)
        yield [f"postgresql://study@127.0.0.1:{port}/{name}" for name in ("runs", "trials")]
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], **run)


MACHINE = """
import os, socket, sys
machine, url, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
socket.gethostname = lambda: machine
from optuna.trial import TrialState
from lenet_study.tracking import run as tracking
from lenet_study.search.sampling import Settings
from lenet_study.search.storage import open_ledger
from lenet_study.search.space import Space
settings = Settings(space=Space(500_000, 10), sampler="RandomSampler")
with open_ledger(url, "shared", settings, {"seed": 0}) as ledger:
    for _ in range(count):
        number, recipe = ledger.begin()
        with tracking.run(f"trial {number}", stage="trial", params={}, tags={"trial": number}) as run:
            ledger.note(number, run.id)
            for epoch in range(1, recipe.config.epochs + 1):
                run.log_metrics({"val/accuracy": number + epoch / 100}, step=epoch)
                ledger.report(number, epoch, 0.9)
        ledger.end(number, TrialState.COMPLETE, 0.9)
"""


@pytest.mark.server
def test_machines_share_a_search_on_postgresql_and_lose_nothing(postgres, tmp_path, monkeypatch):
    import mlflow

    runs, storage = postgres
    monkeypatch.setenv("MLFLOW_TRACKING_URI", runs)
    client = mlflow.MlflowClient()
    client.create_experiment("fashion-mnist-lenet", artifact_location=str(tmp_path))
    processes = []
    for number in range(MACHINES):
        folder = tmp_path / f"machine-{number}"  # a machine's lock lies in its own folder
        folder.mkdir()
        command = [sys.executable, "-c", MACHINE, f"machine-{number}", storage, str(TRIALS_EACH)]
        processes.append(
            subprocess.Popen(command, env=environment(TMPDIR=str(folder)), stderr=subprocess.PIPE, text=True)
        )
    errors = [process.communicate(timeout=400)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * MACHINES, errors

    trials = optuna.load_study(study_name="shared", storage=storage).trials
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert len(complete) == MACHINES * TRIALS_EACH == len(trials)
    assert [trial.number for trial in trials] == list(range(len(trials)))
    assert Counter(trial.user_attrs.get("variant") for trial in trials) == {
        None: len(trials) - 5,
        **dict.fromkeys(("baseline", "v1", "v2", "v3", "v4"), 1),
    }
    assert len({trial.user_attrs["run_id"] for trial in trials}) == len(trials)
    for trial in trials:
        history = client.get_metric_history(trial.user_attrs["run_id"], "val/accuracy")
        epochs = trial.params["epochs"]
        assert [(p.step, p.value) for p in history] == [
            (e, trial.number + e / 100) for e in range(1, epochs + 1)
        ]
        assert len(trial.intermediate_values) == 10
