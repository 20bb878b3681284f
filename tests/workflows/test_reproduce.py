"""A finished training is done again, in a process of its own, and judged."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Recorder, add_training, open_store, short_training
from toys import toy_split, write_data_files

from lenet_study.errors import ReproductionError, UserError
from lenet_study.recipes.recipe import TrainingConfig
from lenet_study.tracking.provenance import ROOT
from lenet_study.tracking.stored_training import StoredTraining
from lenet_study.workflows.reproduce import fact_changes, reproduce
from lenet_study.workflows.train import train


@pytest.fixture(scope="module")
def trained(initialised_database, tmp_path_factory, toy_files):
    """A store with one finished training, and that training's id."""
    with open_store(initialised_database, tmp_path_factory.mktemp("trained")) as store:
        yield store, train(short_training(toy_files)).run_id


def latest(store):
    (run, *_) = store.search_runs(["1"], order_by=["attributes.start_time DESC"])
    return run


@contextmanager
def tampered(store, run_id, **tags):
    """Other tags of a run, for a while."""
    before = store.get_run(run_id).data.tags
    changed = {name.replace("_", "."): value for name, value in tags.items()}
    for name, value in changed.items():
        store.set_tag(run_id, name, value)
    yield
    for name in changed:
        store.set_tag(run_id, name, before[name]) if name in before else store.delete_tag(run_id, name)


def test_a_training_is_reproduced_and_the_verdict_logged(trained, toy_files, tmp_path):
    store, run_id = trained
    recorder = Recorder()
    worktrees = subprocess.run(["git", "worktree", "list"], cwd=ROOT, capture_output=True, check=False).stdout
    verdict = reproduce(run_id, data=toy_files, reporter=recorder)
    assert verdict.kind == "identical", verdict.sentence
    assert [event[2].epoch for event in recorder.events if event[0] == "on_epoch_end"] == [1, 2, 3]
    assert "nothing has changed" in recorder.text
    assert f"run_id={run_id} is identical" in recorder.text
    run = latest(store)
    tags, metrics = run.data.tags, run.data.metrics
    assert (run.info.status, tags["stage"], tags["verdict"]) == ("FINISHED", "reproduce", "identical")
    assert tags["reproduced.run_id"] == run_id
    assert metrics["reproduce/class_agreement"] == metrics["reproduce/p_value"] == 1
    assert metrics["reproduce/max_abs_difference"] == 0
    content = json.loads(
        Path(store.download_artifacts(run.info.run_id, "verdict.json", tmp_path)).read_text()
    )
    assert content["recorded"] == content["repeated"]
    assert content["changed"] == content["not_recorded"] == []
    rows = Path(store.download_artifacts(run.info.run_id, "histories.csv", tmp_path)).read_text().splitlines()
    assert len(rows) == 1 + 3 * 5
    assert all(row.endswith("True") for row in rows[1:])
    after = subprocess.run(["git", "worktree", "list"], cwd=ROOT, capture_output=True, check=False).stdout
    assert after == worktrees


@pytest.mark.parametrize(
    "change",
    [
        {"stage": "retrain"},
        {"stage": "fold", "fold": 2, "folds": 3},
    ],
    ids=lambda change: change["stage"],
)
def test_other_stages_are_reproduced(store, job, toy_files, change):
    job = replace(job, **change)
    dropout = replace(job.recipe.variant, dropout=0.2, change="dropout", parent="baseline")
    recipe = replace(job.recipe, name="mine", variant=dropout, config=TrainingConfig(epochs=2, seed=7))
    run_id = train(replace(job, recipe=recipe)).run_id
    verdict = reproduce(run_id, data=toy_files)
    assert verdict.kind == "identical", verdict.sentence


@pytest.mark.parametrize(
    ("variables", "threads", "named"),
    [({}, 2, "threads: 1, now 2"), ({"ATEN_CPU_CAPABILITY": "default"}, 0, "processor: ")],
    ids=["threads", "instruction set"],
)
def test_other_threads_or_instructions_are_equivalent_and_named(
    trained, toy_files, monkeypatch, variables, threads, named
):
    store, run_id = trained
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    recorder = Recorder()
    verdict = reproduce(run_id, threads=threads, data=toy_files, reporter=recorder)
    assert verdict.kind == "equivalent", verdict.sentence
    assert "weights" in verdict.unequal
    lines = recorder.text.splitlines()
    assert any(f"changed: {named}" in line for line in lines[:-2])  # before the verdict and the address
    assert latest(store).data.tags["verdict"] == "equivalent"


def test_what_comes_out_otherwise_though_nothing_has_changed_differs(trained, toy_files):
    store, run_id = trained
    with (
        tampered(store, run_id, weights_sha256="0" * 64),
        pytest.raises(ReproductionError, match=r"differs: nothing that decides bits .* weights not equal"),
    ):
        reproduce(run_id, data=toy_files)
    run = latest(store)
    assert (run.info.status, run.data.tags["verdict"]) == ("FINISHED", "differs")


@pytest.mark.parametrize(
    ("tags", "named"),
    [
        ({"environment_code_sha256": "0" * 64, "git_commit": "0" * 40}, "git fetch"),
        ({"environment_code_sha256": "0" * 64, "git_commit": ""}, "no commit of it was recorded"),
        ({"environment_code_sha256": "0" * 64, "git_changes": "they are large"}, "because they are large"),
        ({"dataset_validation_sha256": "0" * 64}, "validation images are not those"),
        ({"torchscript_sha256": "0" * 64}, "was changed since"),
    ],
    ids=["commit", "no commit", "changes", "data", "model"],
)
def test_what_is_missing_is_named_and_the_run_fails(trained, toy_files, tags, named):
    store, run_id = trained
    with tampered(store, run_id, **tags), pytest.raises(UserError, match=named):
        reproduce(run_id, data=toy_files)
    run = latest(store)
    assert (run.info.status, run.data.tags["verdict"]) == ("FAILED", "cannot")
    assert named in run.data.tags["verdict.reason"]


@pytest.mark.parametrize("name", ["recipe.json", "history.csv"])
def test_a_file_that_is_missing_is_named(trained, toy_files, name):
    store, run_id = trained
    path = Path(store.get_run(run_id).info.artifact_uri.removeprefix("file://"), name)
    content = path.read_bytes()
    path.unlink()
    try:
        with pytest.raises(UserError, match=f"cannot be reproduced: the store has no {name}"):
            reproduce(run_id, data=toy_files)
    finally:
        path.write_bytes(content)


def test_a_run_of_before_says_what_was_not_recorded_and_whether_packages_changed(trained, toy_files):
    store, run_id = trained
    training, now = StoredTraining.load(run_id), {"device": "cpu", "threads": "1", "libc": "glibc 2.36"}
    with tampered(store, run_id, environment_sha256="0" * 64):
        changes, unknown = fact_changes(StoredTraining.load(run_id), {}, now)
    assert unknown == ["libc"]
    assert "packages" in {change.fact for change in changes}
    recorded = {"deciding": {"variable OMP_DYNAMIC": "true", "torch": "1"}}
    changes, unknown = fact_changes(training, recorded, {**now, "torch": "2", "variable MKL_CBWR": "AVX2"})
    named = [str(change) for change in changes]
    assert "torch: 1, now 2" in named
    assert "variable OMP_DYNAMIC: true, now not set" in named
    assert "variable MKL_CBWR: not set, now AVX2" in named
    assert not any("packages" in change for change in named)


def test_what_is_no_finished_training_is_refused_without_a_run(store, toy_files):
    evaluation = add_training(store, "v1 on test", 0.9, stage="evaluate")
    running = add_training(store, "v1", 0.9, status="RUNNING")
    for run_id, named in (
        (evaluation, "stage 'evaluate'"),
        (running, "is RUNNING"),
        ("nosuch", "names no run"),
    ):
        with pytest.raises(UserError, match=f"run_id={run_id} .*{named}"):
            reproduce(run_id, data=toy_files)
    assert len(store.search_runs(["1"])) == 2


def test_a_store_that_fails_is_no_difference(store, monkeypatch, toy_files):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    with pytest.raises(UserError, match=r"run_id=0123 cannot be reproduced: .*does not answer"):
        reproduce("0123", data=toy_files)


def git(root, *command):
    identity = ("-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *identity, *command], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout.strip()


TRAIN = """
import json, sys
from toys import run_command
from pathlib import Path
run_command(sys.argv[3:], json.loads(sys.argv[1]), Path(sys.argv[2]))
"""


def train_with(root, files, log):
    """Train with the code of a checkout and old instructions, in a process of its own."""
    path = os.pathsep.join([str(root / "src"), str(Path(__file__).parents[1])])
    arguments = ["train", "--variant", "baseline", "--epochs", "2", "--device", "cpu"]
    arguments += ["--data-dir", str(files.folder)]
    command = [sys.executable, "-c", TRAIN, json.dumps(dict(files.sha256)), str(log), *arguments]
    variables = {"PYTHONPATH": path, "ATEN_CPU_CAPABILITY": "default"}
    subprocess.run(command, check=True, env={**os.environ, **variables})


def test_a_dirty_tree_is_reproduced_from_its_commit_its_patch_and_its_variables(store, tmp_path):
    files = write_data_files(tmp_path / "images", toy_split(200, seed=1), toy_split(60, seed=2))
    root = tmp_path / "checkout"
    shutil.copytree(ROOT / "src", root / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "first")
    loop = root / "src/lenet_study/training/loop.py"
    committed = loop.read_text()
    loop.write_text(committed.replace("EVALUATION_BATCH = 100", "EVALUATION_BATCH = 99"))
    train_with(root, files, tmp_path / "log.txt")
    run = latest(store)
    assert run.data.tags["git.dirty"] == "true"
    loop.write_text(committed)
    recorder = Recorder()
    verdict = reproduce(run.info.run_id, data=files, root=root, reporter=recorder)
    assert verdict.kind == "identical", f"{verdict.sentence} {recorder.text}"
    assert f"with the code of commit {git(root, 'rev-parse', 'HEAD')[:12]} and the changes" in recorder.text
    assert git(root, "status", "--porcelain") == ""
    assert git(root, "worktree", "list").count("\n") == 0
    (root / "src/lenet_study/workflows/repetition.py").unlink()
    git(root, "commit", "-qam", "older")
    store.set_tag(run.info.run_id, "git.commit", git(root, "rev-parse", "HEAD"))
    with pytest.raises(UserError, match="older than `reproduce`"):
        reproduce(run.info.run_id, data=files, root=root)
