"""A search that is killed and issued again; and one of several computers on PostgreSQL."""

import os
import random
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
from searches import aliases, poor_recipe, runs_of, set_champion, study_of
from servers import folder_for_all, wait_until_said
from sqlalchemy import create_engine, make_url, text

from lenet_study.recipes.variants import VARIANTS
from lenet_study.server.postgres import private_server

ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, str(Path(__file__).with_name("toy_process.py"))]
KILLS = 3
COMPUTERS = 6
TRIALS_EACH = 4
SEARCH = "lenet_study.search"
POINTS = {
    "while the search is made": f"{SEARCH}.space:Space.variant_points after",
    "a trial is asked for, and its training has not begun": f"{SEARCH}.trials:TrialStore.ask after",
    "an orphan is queued again, and not yet closed": "optuna.study:Study.tell before",
    "a trial's run is open, and its id not yet stored": f"{SEARCH}.trials:TrialStore.set_run_id before",
    "an epoch is reported": f"{SEARCH}.trials:TrialStore.report after",
    "a trial has trained, and its result is not yet told": f"{SEARCH}.trials:TrialStore.tell before",
    "a result is told": f"{SEARCH}.trials:TrialStore.tell after",
    "both sides of a confirmation are trained": f"{SEARCH}.confirmation:corrected_paired_t_test before",
    "one side is evaluated": "lenet_study.workflows.evaluate:evaluate after",
    "the challenger is registered": "lenet_study.tracking.registry:set_challenger after",
}


def environment(**variables):
    paths = [ROOT / "src", ROOT / "tests", Path(__file__).parent]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), **variables}


def complete_trials(folder):
    """Accuracy of each complete trial by its number; none before the search is made."""
    try:
        trials = study_of(folder).trials
    except KeyError:
        return {}
    return {trial.number: trial.value for trial in trials if trial.state == TrialState.COMPLETE}


def test_a_search_killed_at_every_point_goes_on_and_loses_nothing(store, tmp_path):
    set_champion(store, poor_recipe())
    complete = {}
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(
            [*PROGRAM, "points"],
            cwd=tmp_path,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as program,
    ):
        for name, point in {**POINTS, "nothing kills it": ""}.items():
            program.stdin.write(f"{point}\n")
            program.stdin.flush()
            code = program.stdout.readline().strip()
            assert code == ("-9" if point else "0"), (name, (tmp_path / "log").read_text())
            now = complete_trials(tmp_path)
            assert complete.items() <= now.items(), name
            complete = now

    trials = study_of(tmp_path).trials
    assert [trial.state.name for trial in trials] == ["FAIL", "FAIL", "FAIL", "COMPLETE", "COMPLETE"]
    # Killed as it was asked for, as its run was open, and as an epoch was over: only this cost it an attempt.
    assert [trial.user_attrs.get("retry_of") for trial in trials] == [None, 0, 0, 0, None]
    assert [trial.user_attrs.get("kills") for trial in trials] == [None, 0, 0, 1, None]
    assert trials[0].params == trials[1].params == trials[2].params == trials[3].params != trials[4].params
    runs = runs_of(store, "trial")
    finished = Counter(int(run.data.tags["trial"]) for run in runs if run.info.status == "FINISHED")
    assert finished == {3: 1, 4: 1}  # none twice, none lost
    for run in runs:
        if run.info.status == "FINISHED":
            assert run.data.metrics["best/val_accuracy"] == complete[int(run.data.tags["trial"])]
    assert "RUNNING" not in {run.info.status for run in store.search_runs(["1"], max_results=1000)}
    assert [run.info.status for run in runs_of(store, "confirm")] == ["FINISHED"] * 2
    evaluated = [run.data.tags["model.run_id"] for run in runs_of(store, "evaluate", "FINISHED")]
    assert sorted(evaluated) == sorted(run.info.run_id for run in runs_of(store, "confirm"))
    assert aliases(store) == {"champion": 1, "challenger": 2}
    version = store.get_model_version_by_alias("fashion-mnist-lenet", "challenger")
    assert version.tags["confirm.comparisons"] == "1.0"
    notes = study_of(tmp_path).user_attrs
    assert len(notes["confirmed"]) == 1
    assert notes["confirmed"] == notes["compared"]


def issue(folder, trials):
    log = (folder / "log").open("a")
    command = [*PROGRAM, "search", str(trials), "2"]
    return subprocess.Popen(command, cwd=folder, env=environment(), stdout=log, stderr=log)


@pytest.mark.random_kills
def test_a_search_killed_at_random_moments_loses_nothing(store, tmp_path):
    moments = random.Random(0)
    left, complete = [], {}
    for number in range(KILLS):
        process = issue(tmp_path, 1000)
        try:
            if number:  # while trials run
                wait_until_said(process, tmp_path / "log", " of 1000 trials", number)
            time.sleep(moments.uniform(0, 3))
            left += psutil.Process(process.pid).children(recursive=True)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        now = complete_trials(tmp_path)
        assert complete.items() <= now.items()
        complete = now
    assert complete, (tmp_path / "log").read_text()
    assert psutil.wait_procs(left, timeout=60)[1] == []  # workers end with their command
    process = issue(tmp_path, len(complete) + 2)
    assert process.wait(timeout=300) == 0, (tmp_path / "log").read_text()

    trials = study_of(tmp_path).trials
    known = {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.WAITING}
    assert {trial.state for trial in trials} <= known
    now = complete_trials(tmp_path)
    assert complete.items() <= now.items()
    runs = store.search_runs(["1"], "tags.stage = 'trial'", max_results=1000)
    counted = Counter(int(run.data.tags["trial"]) for run in runs if run.info.status == "FINISHED")
    assert counted == dict.fromkeys(now, 1)  # none twice, none lost
    assert "RUNNING" not in {run.info.status for run in store.search_runs(["1"], max_results=1000)}
    done = Counter(str(sorted(trial.params.items())) for trial in trials if trial.number in now)
    assert max(done.values()) == 1


@pytest.fixture
def postgres():
    """A PostgreSQL server of its own: addresses of databases for MLflow and Optuna."""
    with folder_for_all() as folder, private_server(folder / "postgres") as runs:
        if not runs:
            pytest.skip("PostgreSQL is not installed, and `make test` can only install it as root")
        engine = create_engine(runs, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text("CREATE DATABASE trials"))
        engine.dispose()
        yield [runs, make_url(runs).set(database="trials").render_as_string()]


@pytest.mark.server
def test_computers_share_a_search_on_postgresql_and_lose_nothing(postgres, tmp_path, monkeypatch):
    import mlflow

    runs, storage = postgres
    monkeypatch.setenv("MLFLOW_TRACKING_URI", runs)
    client = mlflow.MlflowClient()
    client.create_experiment("fashion-mnist-lenet", artifact_location=str(tmp_path))
    arguments = ["computers", storage, str(COMPUTERS), str(TRIALS_EACH)]
    process = subprocess.run(
        [*PROGRAM, *arguments], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=400
    )
    assert process.returncode == 0, process.stderr

    trials = optuna.load_study(study_name="shared", storage=storage).trials
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert len(complete) == COMPUTERS * TRIALS_EACH == len(trials)
    assert [trial.number for trial in trials] == list(range(len(trials)))
    assert Counter(trial.user_attrs.get("variant") for trial in trials) == {
        None: len(trials) - len(VARIANTS),
        **dict.fromkeys(VARIANTS, 1),
    }
    assert len({trial.user_attrs["run_id"] for trial in trials}) == len(trials)
    assert Counter(trial.user_attrs["host"] for trial in trials) == {
        f"computer-{number}": TRIALS_EACH for number in range(COMPUTERS)
    }
    for trial in trials:
        history = client.get_metric_history(trial.user_attrs["run_id"], "val/accuracy")
        epochs = trial.params["epochs"]
        assert [(p.step, p.value) for p in history] == [
            (e, trial.number + e / 100) for e in range(1, epochs + 1)
        ]
        assert len(trial.intermediate_values) == 10
