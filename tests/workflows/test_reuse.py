"""Work is done once: finished trainings are used again, interrupted studies go on in their own run."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Recorder, open_store
from toys import start_process

from lenet_study.execution.executor import Monitor
from lenet_study.execution.reporter import Reporter
from lenet_study.execution.signals import stop_on_signals
from lenet_study.recipes.recipe import TrainingConfig, variant_recipes
from lenet_study.tracking.provenance import code_digest
from lenet_study.tracking.store import checkpoint_folder
from lenet_study.training.hardware import Hardware
from lenet_study.workflows.kfold import kfold_side_by_side
from lenet_study.workflows.resume import interrupted, resume
from lenet_study.workflows.reuse import interrupted as interrupted_run
from lenet_study.workflows.study import study
from lenet_study.workflows.train import TrainingJob, train

CONFIG = TrainingConfig(epochs=2, batch_size=16, learning_rate=0.002, seed=3)
CPU = Hardware(device="cpu")
SAID = Path("said.txt")  # by a process that was struck


@pytest.fixture
def job(toy_files):
    recipe = variant_recipes(CONFIG)["baseline"]
    return TrainingJob(recipe=recipe, hardware=CPU, data=toy_files, once=True)


def trainings(store, **tags):
    """Finished trainings by their names."""
    conditions = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
    return store.search_runs(["1"], conditions, order_by=["attributes.start_time ASC"])


def run_once(job, reporter=None):
    return job.run(reporter or Reporter(), Monitor())


def test_a_finished_training_is_used_again_by_another_study(store, job):
    first = run_once(job)
    recorder = Recorder()
    again = run_once(replace(job, study="another-study"), recorder)
    assert again == replace(first, reused=True, seconds=again.seconds)
    assert f"baseline: used again from run {first.run_id}; force=true trains it anew" in recorder.text
    (run,) = store.search_runs(["1"])
    assert run.data.tags["study"] == "another-study"
    run_once(replace(job, study="a-third"))
    assert store.get_run(first.run_id).data.tags["study"] == "another-study a-third"


@pytest.mark.parametrize(
    "change",
    [
        {"stage": "confirm"},
        {"hardware": Hardware(device="cpu", threads=2)},
        {"recipe": variant_recipes(replace(CONFIG, seed=4))["baseline"]},
        {"recipe": variant_recipes(replace(CONFIG, learning_rate=0.001))["baseline"]},
        {"recipe": variant_recipes(CONFIG)["v1"]},
        {"stage": "fold", "fold": 1, "folds": 2},
        {"stage": "fold", "fold": 2, "folds": 2},
    ],
)
def test_what_decides_the_weights_or_the_name_is_in_the_fingerprint(job, change):
    assert replace(job, **change).fingerprint() != job.fingerprint()


def test_other_data_and_other_code_have_other_fingerprints(job, tmp_path):
    sums = {**job.data.sha256, "t10k-labels-idx1-ubyte": "0" * 64}
    assert replace(job, data=replace(job.data, sha256=sums)).fingerprint() != job.fingerprint()
    (tmp_path / "training").mkdir()
    digests = set()
    for code in ("rate = 1", "rate = 2"):
        (tmp_path / "training" / "loop.py").write_text(code)
        digests.add(code_digest(tmp_path))
        code_digest.cache_clear()
    assert len(digests) == 2


def test_where_the_work_belongs_is_not_in_the_fingerprint(job):
    elsewhere = replace(
        job, study="s", parent="p", tags={"a": "b"}, checkpoint_dir="c", resume="r", once=False
    )
    assert elsewhere.fingerprint() == job.fingerprint()


def test_a_training_whose_model_is_damaged_is_done_anew(store, job):
    first = run_once(job)
    (script,) = Path().rglob("model.pth")
    script.write_bytes(script.read_bytes()[:-1])
    again = run_once(job)
    assert not again.reused
    assert again.run_id != first.run_id
    assert again.model.weights_sha256 == first.model.weights_sha256


def test_an_interrupted_training_goes_on_in_its_own_run(store, job):
    process = start_process(train_and_die, job)
    process.join(240)
    assert process.exitcode == -signal.SIGKILL
    (run,) = store.search_runs(["1"])
    result = run_once(job)
    assert (result.run_id, result.reused) == (run.info.run_id, False)
    assert [epoch.epoch for epoch in result.history] == [1, 2]
    assert not checkpoint_folder(run.info.run_id).exists()


def train_and_die(job):
    class Dying(Monitor):
        def on_epoch_end(self, epoch):
            os.kill(os.getpid(), signal.SIGKILL)

    job.run(Reporter(), Dying())


def test_two_processes_do_the_same_training_once(store, job):
    processes = [start_process(train_in_process, job) for _ in range(2)]
    for process in processes:
        process.join(240)
    assert [process.exitcode for process in processes] == [0, 0]
    (run,) = store.search_runs(["1"])
    assert run.info.status == "FINISHED"
    assert len(store.search_model_versions("name = 'fashion-mnist-lenet'")) == 1


def train_in_process(job):
    run_once(job)


def run_study(files, reporter, **options):
    chosen = {"folds": 2, "workers": 1, "variants": ["baseline", "v1"]}
    return study(CONFIG, hardware=CPU, data=files, reporter=reporter, **chosen, **options)


class Striking(Reporter):
    """Sends this process a signal as soon as a line begins so; what came before is in a file."""

    def __init__(self, beginning, number):
        self.beginning, self.number = beginning, number

    def message(self, line):
        with SAID.open("a") as file:
            file.write(f"{line}\n")
        if line.startswith(self.beginning):
            os.kill(os.getpid(), self.number)


def study_and_die(files, beginning, number):
    stop_on_signals()
    run_study(files, Striking(beginning, number))


def kfold_and_die(job, beginning, number):
    stop_on_signals()
    kfold_side_by_side(job, 1, Striking(beginning, number))


def weights(store):
    """Weights and status by the names of the trainings' runs; refuses two of one name."""
    runs = [run for run in store.search_runs(["1"]) if run.data.tags["stage"] in ("train", "fold", "retrain")]
    assert len({run.info.run_name for run in runs}) == len(runs)
    return {run.info.run_name: (run.data.tags["weights.sha256"], run.info.status) for run in runs}


@pytest.fixture(scope="module")
def whole(initialised_database, tmp_path_factory, toy_files):
    """The weights of a study that nothing interrupted."""
    with open_store(initialised_database, tmp_path_factory.mktemp("whole")) as store:
        run_study(toy_files, Reporter())
        yield weights(store)


STRIKES = [
    ("v1: best epoch", signal.SIGKILL, "v1: goes on after epoch 2 of 2"),  # within its run
    ("Selected", signal.SIGTERM, "v1: used again from run"),
    ("baseline fold 1/2: best", signal.SIGKILL, "retrained: used again from run"),
]


@pytest.mark.parametrize(("beginning", "number", "said"), STRIKES)
def test_a_study_issued_again_goes_on_in_its_run(store, toy_files, whole, beginning, number, said):
    process = start_process(study_and_die, toy_files, beginning, number)
    process.join(240)
    assert process.exitcode == (-number if number == signal.SIGKILL else 143)
    (before,) = trainings(store, stage="study")
    recorder = Recorder()
    run_study(toy_files, recorder)
    (after,) = trainings(store, stage="study")
    assert (after.info.run_id, after.info.status) == (before.info.run_id, "FINISHED")
    assert said in recorder.text, f"{SAID.read_text()}\n---- and then\n{recorder.text}"
    assert weights(store) == whole
    for stage, count in {"kfold": 1, "evaluate": 2}.items():
        assert [run.info.status for run in trainings(store, stage=stage)] == ["FINISHED"] * count
    assert len(store.search_model_versions("name = 'fashion-mnist-lenet'")) == 3
    assert interrupted() == []


def test_a_study_is_resumed_by_its_id_and_found_without(store, toy_files, whole):
    process = start_process(study_and_die, toy_files, "v1: best epoch", signal.SIGTERM)
    process.join(240)
    (run,) = trainings(store, stage="study")
    assert [work.run_id for work in interrupted()] == [run.info.run_id]
    resume(run.info.run_id, data=toy_files)
    assert store.get_run(run.info.run_id).info.status == "FINISHED"
    assert {name: sums for name, sums in weights(store).items() if name in whole} == whole


def test_a_finished_study_issued_again_is_a_new_run_of_the_same_trainings(store, toy_files, whole):
    run_study(toy_files, Reporter())
    run_study(toy_files, Reporter())
    first, second = trainings(store, stage="study")
    assert weights(store) == whole
    assert second.data.tags["reused"].startswith("baseline: ")
    runs = store.search_runs(["1"], f"tags.study LIKE '%{second.info.run_id}%' and tags.stage = 'train'")
    assert sorted(run.info.run_name for run in runs) == ["baseline", "v1"]
    assert first.data.tags["fingerprint"] == second.data.tags["fingerprint"]
    assert interrupted_run(first.data.tags["fingerprint"]) == ""


def test_a_cross_validation_issued_again_goes_on_in_its_run(store, job):
    job = replace(job, folds=2)
    process = start_process(kfold_and_die, job, "baseline fold 1/2: best", signal.SIGTERM)
    process.join(240)
    (before,) = trainings(store, stage="kfold")
    assert before.info.status == "KILLED"
    kfold_side_by_side(job, 1, Reporter())
    (after,) = trainings(store, stage="kfold")
    assert (after.info.run_id, after.info.status) == (before.info.run_id, "FINISHED")
    assert [run.info.status for run in trainings(store, stage="fold")] == ["FINISHED"] * 2


def test_force_trains_anew(store, job, toy_files):
    train(job)
    run_study(toy_files, Reporter(), force=True)
    assert len([run for run in trainings(store, stage="train") if run.info.run_name == "baseline"]) == 2
