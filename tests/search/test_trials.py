"""The store of a search's trials: order, pruning, resume, and storages that fail; no training."""

import shutil
import sqlite3
import tempfile
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import get_args, get_type_hints

import optuna
import pytest
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from lenet_study.errors import StoreError, UserError
from lenet_study.recipes.variants import VARIANTS
from lenet_study.search.config import SearchConfig
from lenet_study.search.sampling import Settings
from lenet_study.search.space import Space
from lenet_study.search.storage import open_trial_store
from lenet_study.search.trials import GRACE_PERIOD, TrialStore

CONFIG = SearchConfig(
    search_name="toy", max_parameters=500_000, max_epochs=9, sampler="RandomSampler", pruner="NopPruner"
)
SPACE = Space(500_000, 9)
FINGERPRINT = {"max_parameters": 500_000, "seed": 0}
QUEUED = len(VARIANTS) + 3  # the variants, and three from practice
CHOICES = {name: get_args(hint) for name, hint in get_type_hints(SearchConfig).items()}


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory):
    """A database with Optuna's tables: making one takes a second, copying it does not."""
    path = tmp_path_factory.mktemp("optuna") / "optuna.db"
    RDBStorage(f"sqlite:///{path}")
    return path


@pytest.fixture
def urls(empty_database, tmp_path):
    """Two empty databases, in memory if possible: SQLite waits for the disk after every change."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        for name in ("one", "two"):
            shutil.copy(empty_database, Path(folder, f"{name}.db"))
        yield [f"sqlite:///{folder}/{name}.db" for name in ("one", "two")]


@pytest.fixture
def url(urls):
    return urls[0]


def database_of(url) -> Path:
    return Path(url.removeprefix("sqlite:///"))


def settings(url, workers=1, **changes):
    return Settings(replace(CONFIG, storage=url, **changes), workers)


def opened(url, fingerprint=FINGERPRINT, **changes):
    return open_trial_store(settings(url, **changes), fingerprint)


def accuracy_of(recipe) -> float:
    """A stand-in for a training: the more units the better."""
    return sum(recipe.variant.hidden_units) / 2000


def run_trials(store, count, order=None):
    """Ask for as many as may run at a time, and tell them in some order; gives their params."""
    running, suggested = {}, {}
    while len(store.finished()) < count:
        while store.can_ask() and len(running) + len(store.finished()) < count:
            number, recipe = store.ask()
            running[number] = recipe
            suggested[number] = store.study.get_trials()[number].params
        number = (order or min)(running)
        store.tell(number, TrialState.COMPLETE, accuracy_of(running.pop(number)))
    return suggested


def states(store):
    return [trial.state.name for trial in store.study.get_trials()]


def test_the_variants_come_first(url):
    with opened(url) as store:
        names = []
        for _ in range(QUEUED + 1):
            number, _recipe = store.ask()
            trial = store.study.get_trials()[number]
            names.append((trial.user_attrs.get("variant"), "fixed_params" in trial.system_attrs))
            store.tell(number, TrialState.COMPLETE, 0.5)
        variants = [(name, True) for name in VARIANTS]
        assert names == [*variants, *[(None, True)] * 3, (None, False)]


@pytest.mark.parametrize("sampler", CHOICES["sampler"])
def test_a_seed_decides_the_sequence_and_a_restart_does_not_change_it(sampler, urls):
    one, two = urls
    with opened(one, sampler=sampler) as store:
        whole = run_trials(store, 12)
    with opened(two, sampler=sampler) as store:
        parts = run_trials(store, 9)
    with opened(two, sampler=sampler) as store:
        parts |= run_trials(store, 12)
    with opened(two, sampler=sampler, seed=1, search_name="other") as store:
        other = run_trials(store, QUEUED + 2)
    assert parts == whole
    assert all(other[number] != whole[number] for number in range(QUEUED, QUEUED + 2))
    assert len({str(params) for params in whole.values()}) == 12


@pytest.mark.parametrize("workers", [2, 3])
def test_the_order_in_which_trials_end_does_not_change_what_is_suggested(workers, urls):
    suggested = []
    for url, order in zip(urls, (min, max), strict=True):
        with opened(url, sampler="TPESampler", workers=workers) as store:
            suggested.append(run_trials(store, 11 + 2 * workers - 1, order))  # the last is TPE's own
    assert suggested[0] == suggested[1]


def test_no_more_trials_begin_than_may_be_unknown_to_one(url):
    with opened(url, workers=2) as store:
        numbers = []
        while store.can_ask():
            numbers.append(store.ask()[0])
        assert numbers == [0, 1, 2, 3]
        store.tell(2, TrialState.COMPLETE, 0.5)
        assert not store.can_ask()  # trial 0 is to be known to trial 4
        store.tell(0, TrialState.COMPLETE, 0.5)
        assert store.can_ask()


def train_all(store, count, curve):
    """Trials one after the other, ``curve`` giving each epoch's accuracy; gives the epochs of each."""
    epochs = {}
    for _ in range(count):
        number, recipe = store.ask()
        for epoch in range(1, recipe.config.epochs + 1):
            epochs[number] = epoch
            if reason := store.report(number, epoch, curve(number, epoch)):
                assert "at this share of their epochs" in reason
                store.tell(number, TrialState.PRUNED)
                break
        else:
            store.tell(number, TrialState.COMPLETE, curve(number, epoch))
    return epochs


@pytest.mark.parametrize("pruner", CHOICES["pruner"])
def test_a_bad_trial_is_pruned_and_a_good_one_goes_on(pruner, url):
    def curve(number, epoch):
        return 0.1 if number % 2 else 0.8

    with opened(url, pruner=pruner) as store:
        epochs = train_all(store, 12, curve)
        pruned = {t.number for t in store.study.get_trials()[:12] if t.state == TrialState.PRUNED}
    assert all(number % 2 for number in pruned)
    assert bool(pruned) == (pruner != "NopPruner")
    assert all(epochs[number] < 9 for number in pruned)


def test_pruning_does_not_depend_on_restarts(urls):
    def curve(number, epoch):
        return (number * 37 % 10) / 20 + 0.01 * epoch

    with opened(urls[0], pruner="HyperbandPruner") as store:
        whole = train_all(store, 12, curve)
    parts = {}
    for _ in range(6):
        with opened(urls[1], pruner="HyperbandPruner") as store:
            parts |= train_all(store, 2, curve)
    assert parts == whole
    assert len(set(whole.values())) > 1


def test_a_trial_is_not_pruned_after_its_last_epoch(url):
    with opened(url, pruner="MedianPruner") as store:
        train_all(store, 6, lambda number, epoch: 0.9)
        number, recipe = store.ask()
        for epoch in range(1, recipe.config.epochs):
            assert store.report(number, epoch, 0.95) is None
        assert store.report(number, recipe.config.epochs, 0.1) is None


def test_two_objectives_are_told_and_nothing_is_pruned(url):
    with opened(url, objectives="accuracy,parameters", pruner="MedianPruner") as store:
        for accuracy in (0.8, 0.7, 0.9):  # baseline, v1 of the same size, and v2, which is larger
            number, _ = store.ask()
            for epoch in range(1, 9):
                assert store.report(number, epoch, 0.01) is None
            store.tell(number, TrialState.COMPLETE, accuracy)
        assert sorted(trial.number for trial in store.study.best_trials) == [0, 2]
        assert store.best().number == 2


def leave_four_running(url):
    """What a killed process leaves that asked for trials 0 to 3, and told the result of 1."""
    with opened(url, workers=2) as store:
        for number in range(4):
            store.ask()
            store.set_run_id(number, "its run")
        store.tell(1, TrialState.COMPLETE, 0.5)


def unknown(trial):
    return TrialState.FAIL, None


def repeats(store):
    """Numbers of the trials that repeat another."""
    return [trial.number for trial in store.study.get_trials() if "retry_of" in trial.user_attrs]


def test_what_a_killed_process_left_is_tried_again_once_unless_it_has_ended(url):
    outcomes = {2: (TrialState.COMPLETE, 0.7), 3: (TrialState.PRUNED, None)}
    leave_four_running(url)
    with opened(url, workers=2) as store:
        left = store.study.get_trials()[0].params
        assert store.recover_orphans(lambda trial: outcomes.get(trial.number, unknown(trial))) == [0]
        assert states(store)[:4] == ["FAIL", "COMPLETE", "COMPLETE", "PRUNED"]
        assert [trial.number for trial in store.finished()] == [1, 2, 3]
        assert store.study.get_trials()[2].value == 0.7
        suggested = run_trials(store, QUEUED + 1)
        assert [suggested[number] for number in sorted(suggested)].count(left) == 1
        assert "RUNNING" not in states(store)
    with opened(url, workers=2) as store:
        assert store.recover_orphans(unknown) == []


def test_a_trial_that_is_killed_twice_counts_as_failed(url):
    leave_four_running(url)
    with opened(url) as store:
        assert store.recover_orphans(unknown) == [0, 2, 3]
        waiting = repeats(store)
    counted = set()
    while set(waiting) - counted:
        with opened(url) as store:
            store.recover_orphans(unknown)
            counted = {trial.number for trial in store.finished()}
            number, _ = store.ask()
            store.set_run_id(number, "its run")
    assert {store.study.get_trials()[number].state for number in waiting} == {TrialState.FAIL}


def test_interruptions_and_kills_before_the_training_cost_no_trial(url):
    params = []
    with opened(url) as store:
        run_trials(store, QUEUED)
    for trained, interrupted in ((True, True), (False, False), (True, False)):
        with opened(url) as store:
            number, _ = store.ask()
            params.append(store.study.get_trials()[number].params)
            if trained:
                store.set_run_id(number, "its run")
            if interrupted:
                assert store.release_own(unknown) == [number]
        with opened(url) as store:
            assert store.recover_orphans(unknown) == ([] if interrupted else [number])
            assert len(store.finished()) == QUEUED
    with opened(url) as store:
        params.append(*run_trials(store, QUEUED + 1).values())
        assert params == [params[0]] * 4
        assert repeats(store) == [QUEUED + 1, QUEUED + 2, QUEUED + 3]
        assert [trial.number for trial in store.finished()][-1] == QUEUED + 3
        run_trials(store, QUEUED + 3)
        assert len(store.finished()) == QUEUED + 3


def test_an_interruption_does_not_change_what_is_suggested(urls):
    """The repeated trial takes the slot of the one that was interrupted."""
    with opened(urls[0], sampler="TPESampler") as store:
        whole = run_trials(store, 12)
    with opened(urls[1], sampler="TPESampler") as store:
        run_trials(store, 10)
        store.ask()
    with opened(urls[1], sampler="TPESampler") as store:
        assert store.recover_orphans(unknown) == [10]
        run_trials(store, 12)
        parts = [trial.params for trial in store.finished()]
    assert parts == [whole[number] for number in range(12)]


class InterruptedSpace(Space):
    """Interrupts the second suggestion, which goes into the storage, after its first param."""

    suggestions = 0

    def suggest(self, trial, seed=0):
        if isinstance(trial, optuna.trial.Trial):
            InterruptedSpace.suggestions += 1
            if InterruptedSpace.suggestions % 2 == 0:
                trial.suggest_int("epochs", 4, 9, step=1)
                raise KeyboardInterrupt
        return super().suggest(trial, seed)


class InterruptedSettings(Settings):
    space = InterruptedSpace(SPACE.max_parameters, SPACE.epochs)


@pytest.mark.parametrize("interrupted", [3, QUEUED + 1])
def test_a_kill_while_a_trial_is_being_suggested_loses_no_variant_and_mixes_nothing(interrupted, url):
    """What is trained is what is stored, whether the trial was queued or suggested."""
    with opened(url) as store:
        run_trials(store, interrupted)
    interrupted_settings = InterruptedSettings(settings(url).config)
    with (
        open_trial_store(interrupted_settings, FINGERPRINT) as store,
        pytest.raises(KeyboardInterrupt),
    ):
        store.ask()
    with opened(url) as store:
        store.recover_orphans(unknown)
        assert "RUNNING" not in states(store)
        while len(store.finished()) < QUEUED + 3:
            number, recipe = store.ask()
            stored = store.study.get_trials()[number].params
            assert SPACE.suggest(optuna.trial.FixedTrial(stored)) == recipe
            store.tell(number, TrialState.COMPLETE, 0.5)
        counted = [trial.user_attrs.get("variant") for trial in store.finished()]
        assert sorted(filter(None, counted)) == sorted(VARIANTS)


def elsewhere(url) -> TrialStore:
    """The same search on another computer, or in another container."""
    storage = RDBStorage(url)
    study = optuna.load_study(study_name="toy", storage=storage)
    return TrialStore(study, storage, url, settings(url), shared=True, host="elsewhere")


def test_every_running_trial_is_an_orphan_where_the_storage_is_not_shared(url):
    """A container has another host name each time."""
    with opened(url) as store:
        elsewhere(url).ask()
        store.study.ask()  # killed right after
    with opened(url) as store:
        assert store.recover_orphans(unknown) == [0, 1]
        assert "RUNNING" not in states(store)
        run_trials(store, 9)
        assert {"baseline", "v1"} <= {trial.user_attrs.get("variant") for trial in store.finished()}


def test_a_running_trial_of_another_computer_is_left_alone(url):
    with opened(url) as store:
        store.shared = True
        elsewhere(url).ask()
        assert store.recover_orphans(unknown) == []
        assert states(store)[0] == "RUNNING"
        assert store.unfinished() == 1


def test_a_trial_of_a_computer_gone_silent_is_tried_again_and_its_return_harms_nothing(url):
    with opened(url) as store:
        store.shared = True
        other = elsewhere(url)
        number, _ = other.ask()
        store.clock = lambda: time.time() + GRACE_PERIOD - 60
        assert store.recover_orphans(unknown) == []
        store.clock = lambda: time.time() + GRACE_PERIOD + 60
        assert store.recover_orphans(unknown) == [number]
        assert store.study.get_trials()[repeats(store)[0]].user_attrs["variant"] == "baseline"
        assert "given to another" in other.report(number, 9, 0.9)  # it wakes up
        other.tell(number, TrialState.COMPLETE, 0.9)
        assert states(store)[number] == "FAIL"


def test_a_search_of_another_space_is_refused(url):
    with opened(url):
        pass
    with (
        pytest.raises(UserError, match=r"search_name=toy was begun with seed=0: .* another search_name"),
        opened(url, fingerprint={**FINGERPRINT, "seed": 1}),
    ):
        pass
    with opened(url, search_name="other", fingerprint={**FINGERPRINT, "seed": 1}):
        pass


def test_a_search_that_runs_is_not_begun_a_second_time(url):
    with opened(url):
        with pytest.raises(UserError, match=r"search_name=toy is being searched"), opened(url):
            pass
        with opened(url, search_name="other"):
            pass


def test_one_database_is_one_whatever_it_is_called_and_two_are_two(tmp_path, monkeypatch):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "one")
    with opened("sqlite:///optuna.db"):
        with (
            pytest.raises(UserError, match="is being searched"),
            opened(f"sqlite:///{tmp_path}/one/optuna.db"),
        ):
            pass
        monkeypatch.chdir(tmp_path / "two")
        with opened("sqlite:///optuna.db"):
            pass


def test_a_search_that_was_killed_while_it_was_made_is_made_again(url):
    study = optuna.create_study(study_name="toy", storage=url, direction="maximize")
    study.set_user_attr("id", "known")
    with opened(url) as store:
        assert store.id == "known"
        run_trials(store, 1)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("nonsense", "is no address"),
        ("postgresql//me:secret@host/name", "is no address"),
        ("postgresql://me:secret@host:port/name", "is no address"),
        ("sqlite:////nosuch/folder/optuna.db", "is in no existing folder"),
        ("postgresql://nobody:secret@127.0.0.1:1/none", "cannot be used"),
        ("postgresql://127.0.0.1:1/none?user=me&password=secret", "cannot be used"),
        ("nosuch://host/name", "cannot be used"),
        ("sqlite://", "would be lost"),
        ("sqlite:///:memory:", "would be lost"),
    ],
)
def test_a_storage_that_cannot_be_used_is_refused_without_its_password(address, said):
    with pytest.raises(UserError, match=said) as caught, opened(address):
        pass
    assert "secret" not in str(caught.value)
    assert str(caught.value).startswith("storage")


def test_the_database_of_mlflow_is_refused(initialised_database):
    with (
        pytest.raises(UserError, match="cannot share one with MLflow"),
        opened(f"sqlite:///{initialised_database}"),
    ):
        pass


def test_a_storage_that_sqlite_finds_damaged_is_refused(url):
    with opened(url) as store:
        run_trials(store, 2)
    content = database_of(url).read_bytes()
    database_of(url).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"is damaged \(.*malformed.*\): bring it back"), opened(url):
        pass


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE trial_params SET distribution_json = replace(distribution_json, '{', 'z')",
        "UPDATE trials SET state = 'COMPLETD' WHERE number = 0",
        "UPDATE trial_user_attributes SET value_json = '\"toy'",
    ],
)
def test_a_storage_with_a_value_that_is_none_of_its_kind_is_refused(url, change):
    with opened(url) as store:
        run_trials(store, 2)
    with closing(sqlite3.connect(database_of(url))) as connection, connection:
        assert connection.execute(change).rowcount > 0
    with pytest.raises(UserError, match=r"is damaged \(.*\): bring it back"), opened(url):
        pass


def test_a_storage_that_fails_later_is_a_failure_of_the_store(url):
    def broken():
        with opened(url) as store:
            database_of(url).write_bytes(b"no database" * 1000)
            store.ask()

    with pytest.raises(StoreError, match="the same command goes on"):
        broken()


def test_the_command_line_offers_what_optuna_has():
    assert all(issubclass(getattr(optuna.samplers, name), BaseSampler) for name in CHOICES["sampler"])
    assert all(issubclass(getattr(optuna.pruners, name), BasePruner) for name in CHOICES["pruner"])


def test_optuna_s_own_eyes_can_read_the_search(url):
    with opened(url) as store:
        run_trials(store, 6)
    study = optuna.load_study(study_name="toy", storage=url)
    assert len([trial for trial in study.trials if trial.state == TrialState.COMPLETE]) == 6
    assert study.best_trial.value == max(trial.value for trial in study.trials if trial.value)


@pytest.mark.parametrize(
    ("objectives", "names"),
    [("accuracy", ["validation accuracy"]), ("accuracy,parameters", ["validation accuracy", "parameters"])],
)
def test_objectives_have_names_in_optuna_s_own_tables(url, objectives, names):
    with opened(url, objectives=objectives) as store:
        assert store.study.metric_names == names
