"""A search that commit c940516 began goes on: names of old are read, and none of them is written."""

from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from conftest import open_store
from old_store import unpack
from searches import Recorder, aliases, runs_of, study_of

from lenet_study.search.config import SearchConfig
from lenet_study.search.driver import search
from lenet_study.search.space import Space
from lenet_study.training.hardware import Hardware

DATA = Path(__file__).parents[1] / "data"
CONFIG = SearchConfig(
    search_name="old",
    trials=5,
    max_parameters=13_000,  # none of the variants is within it
    max_epochs=2,
    sampler="RandomSampler",
    pruner="NopPruner",
    confirm_seeds=2,
    seed=2,
)
SEARCH = "74e82e5b1b96425d9381c81692a5a9f0"  # run of the old search
NEXT = {  # what c940516 itself suggested next in this store, and the accuracy that it trained to
    3: (0.4, {"first_channels": 2, "hidden_share": 0.26378749258897005, "erase": 0.3955395341853244}),
    4: (0.4, {"first_channels": 2, "hidden_share": 0.3804264804368216, "erase": 0.32804968665129586}),
}
CONFIRMED = ["trial 2, seeds [3, 4], champion ef935cd3b01a5b6b"]


def leave_running(client, study):
    """What a killed process of c940516 leaves: the search's run, one of its trials, an evaluation."""
    tags = {"search": study.user_attrs["id"], "host": "vm"}
    trial = study.ask()
    trial.set_user_attr("host", "vm")
    Space(13_000, 2).suggest(trial)
    trial.set_user_attr("parameters", 11_000)
    trial.set_user_attr("alive", 0.0)
    runs = {
        "search": tags | {"stage": "search"},
        "trial": tags | {"stage": "trial", "trial": str(trial.number)},
        "evaluation": {"stage": "evaluate", "study": SEARCH},  # the tag is `parent_work` now
    }
    ids = {name: client.create_run("1", run_name=name, tags=tags).info.run_id for name, tags in runs.items()}
    trial.set_user_attr("run_id", ids["trial"])
    return trial.number, ids


@pytest.fixture(scope="module")
def continued(tmp_path_factory, toy_files):
    """The old search, gone on with for two trials."""
    folder, work = tmp_path_factory.mktemp("old"), tmp_path_factory.mktemp("work")
    unpack(DATA / "store-c940516.tar.xz", folder)
    (folder / "optuna.db").rename(work / "optuna.db")
    with open_store(folder / "mlflow.db", work) as client:
        reporter = Recorder()
        search(CONFIG, Hardware(device="cpu"), 1, toy_files, reporter)
        yield SimpleNamespace(client=client, folder=work, text=reporter.text)


def test_it_goes_on_with_what_the_old_code_would_have_trained(continued):
    assert "Search old goes on after 3 trials" in continued.text
    trials = study_of(continued.folder, "old").trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 5
    for number, (accuracy, params) in NEXT.items():
        assert trials[number].value == accuracy
        assert params.items() <= trials[number].params.items()


def test_what_it_confirmed_is_not_confirmed_again(continued):
    assert "Trial 2 was confirmed before" in continued.text
    assert study_of(continued.folder, "old").user_attrs["confirmed"] == CONFIRMED
    assert aliases(continued.client) == {"challenger": 5, "champion": 3, "previous": 1}


def test_new_trials_are_stored_under_the_names_of_the_old_ones(continued):
    study = study_of(continued.folder, "old")
    assert {frozenset(trial.user_attrs) for trial in study.trials} == {
        frozenset(("alive", "host", "parameters", "run_id"))
    }
    assert study.user_attrs.keys() == {"id", "identity", "compared", "confirmed"}


def test_its_new_run_has_new_names(continued):
    old, new = runs_of(continued.client, "search")
    assert old.info.run_id == SEARCH
    assert new.data.tags["search"] == old.data.tags["search"]
    assert "hardware.threads" in new.data.tags
    assert "machine.threads" not in new.data.tags
    assert new.data.params["search_name"] == old.data.params["study_name"] == "old"
    assert "study_name" not in new.data.params


def test_what_a_killed_process_left_is_closed(continued, toy_files):
    client = continued.client
    storage = f"sqlite:///{continued.folder}/optuna.db"
    number, left = leave_running(client, optuna.load_study(study_name="old", storage=storage))
    search(CONFIG, Hardware(device="cpu"), 1, toy_files)
    assert {name: client.get_run(run).info.status for name, run in left.items()} == {
        "search": "FAILED",
        "trial": "FAILED",
        "evaluation": "FAILED",
    }
    trials = study_of(continued.folder, "old").trials
    assert trials[number].state.name == "FAIL"
    assert trials[number + 1].user_attrs["retry_of"] == number
