"""The ledger of a search: order, pruning, resume, and storages that fail; no training."""

import os
import socket
import subprocess
import sys

import optuna
import pytest
from optuna.trial import TrialState

from lenet_study.cli.parameters import PARAMETERS
from lenet_study.errors import Pruned, StoreError, UserError
from lenet_study.search import trials as search
from lenet_study.search.sampling import PRUNERS, SAMPLERS, Settings
from lenet_study.search.space import Space
from lenet_study.search.storage import open_ledger

SPACE = Space(500_000, 9)
IDENTITY = {"max_parameters": 500_000, "seed": 0}
FIXED = 8  # the variants, and three from practice


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/optuna.db"


def settings(**changes):
    return Settings(**{"space": SPACE, "sampler": "RandomSampler", "pruner": "NopPruner", **changes})


def opened(url, name="toy", identity=IDENTITY, **changes):
    return open_ledger(url, name, settings(**changes), identity)


def accuracy_of(recipe) -> float:
    """A stand-in for a training: the more units the better."""
    return sum(recipe.spec.hidden_units) / 2000


def run_trials(ledger, count, order=None):
    """Begin as many as may run at a time, and end them in some order; gives their parameters."""
    running, drawn = {}, {}
    while len(ledger.finished()) < count:
        while ledger.may_begin() and len(running) + len(ledger.finished()) < count:
            number, recipe = ledger.begin()
            running[number] = recipe
            drawn[number] = ledger.study.get_trials()[number].params
        number = (order or min)(running)
        ledger.end(number, TrialState.COMPLETE, accuracy_of(running.pop(number)))
    return drawn


def states(ledger):
    return [trial.state.name for trial in ledger.study.get_trials()]


def test_the_five_variants_come_first(url):
    with opened(url) as ledger:
        names = []
        for _ in range(FIXED + 1):
            number, _recipe = ledger.begin()
            trial = ledger.study.get_trials()[number]
            names.append((trial.user_attrs.get("variant"), "fixed_params" in trial.system_attrs))
            ledger.end(number, TrialState.COMPLETE, 0.5)
        variants = [(name, True) for name in ("baseline", "v1", "v2", "v3", "v4")]
        assert names == [*variants, *[(None, True)] * 3, (None, False)]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_seed_decides_the_sequence_and_a_restart_does_not_change_it(sampler, tmp_path):
    urls = [f"sqlite:///{tmp_path}/{name}.db" for name in ("whole", "parts", "other")]
    with opened(urls[0], sampler=sampler) as ledger:
        whole = run_trials(ledger, 12)
    with opened(urls[1], sampler=sampler) as ledger:
        parts = run_trials(ledger, 9)
    with opened(urls[1], sampler=sampler) as ledger:
        parts |= run_trials(ledger, 12)
    with opened(urls[2], sampler=sampler, seed=1) as ledger:
        other = run_trials(ledger, 12)
    assert parts == whole
    assert all(other[number] != whole[number] for number in range(FIXED, 12))
    assert len({str(params) for params in whole.values()}) == 12


@pytest.mark.parametrize("workers", [2, 3])
def test_the_order_in_which_trials_end_does_not_change_what_is_drawn(workers, tmp_path):
    drawn = []
    for name, order in (("first", min), ("last", max)):
        with opened(f"sqlite:///{tmp_path}/{name}.db", sampler="TPESampler", workers=workers) as ledger:
            drawn.append(run_trials(ledger, 16, order))
    assert drawn[0] == drawn[1]


def test_no_more_trials_begin_than_may_be_unknown_to_one(url):
    with opened(url, workers=2) as ledger:
        numbers = []
        while ledger.may_begin():
            numbers.append(ledger.begin()[0])
        assert numbers == [0, 1, 2, 3]
        ledger.end(2, TrialState.COMPLETE, 0.5)
        assert not ledger.may_begin()  # trial 0 is to be known to trial 4
        ledger.end(0, TrialState.COMPLETE, 0.5)
        assert ledger.may_begin()


def train_all(ledger, count, curve):
    """Trials one after the other, ``curve`` giving each epoch's accuracy; gives the epochs of each."""
    epochs = {}
    for _ in range(count):
        number, recipe = ledger.begin()
        try:
            for epoch in range(1, recipe.config.epochs + 1):
                epochs[number] = epoch
                ledger.report(number, epoch, curve(number, epoch))
        except Pruned:
            ledger.end(number, TrialState.PRUNED)
        else:
            ledger.end(number, TrialState.COMPLETE, curve(number, epoch))
    return epochs


@pytest.mark.parametrize("pruner", PRUNERS)
def test_a_bad_trial_is_pruned_and_a_good_one_goes_on(pruner, url):
    def curve(number, epoch):
        return 0.1 if number % 2 else 0.8

    with opened(url, pruner=pruner) as ledger:
        epochs = train_all(ledger, 16, curve)
        found = {trial.number: trial.state for trial in ledger.study.get_trials()[:16]}
    pruned = {number for number, state in found.items() if state == TrialState.PRUNED}
    assert all(number % 2 for number in pruned)
    assert bool(pruned) == (pruner != "NopPruner")
    assert all(epochs[number] < 9 for number in pruned)


def test_pruning_does_not_depend_on_restarts(tmp_path):
    def curve(number, epoch):
        return (number * 37 % 10) / 20 + 0.01 * epoch

    urls = [f"sqlite:///{tmp_path}/{name}.db" for name in ("whole", "parts")]
    with opened(urls[0], pruner="HyperbandPruner") as ledger:
        whole = train_all(ledger, 14, curve)
    parts = {}
    for _ in range(7):
        with opened(urls[1], pruner="HyperbandPruner") as ledger:
            parts |= train_all(ledger, 2, curve)
    assert parts == whole
    assert len(set(whole.values())) > 1


def test_a_trial_is_not_pruned_after_its_last_epoch(url):
    with opened(url, pruner="MedianPruner") as ledger:
        train_all(ledger, 6, lambda number, epoch: 0.9)
        number, recipe = ledger.begin()
        for epoch in range(1, recipe.config.epochs):
            ledger.report(number, epoch, 0.95)
        ledger.report(number, recipe.config.epochs, 0.1)


def test_two_objectives_are_told_and_nothing_is_pruned(url):
    with opened(url, objectives=("accuracy", "parameters"), pruner="MedianPruner") as ledger:
        for accuracy in (0.8, 0.7, 0.9):  # baseline, v1 of the same size, and v2, which is larger
            number, _ = ledger.begin()
            for epoch in range(1, 9):
                ledger.report(number, epoch, 0.01)
            ledger.end(number, TrialState.COMPLETE, accuracy)
        assert sorted(trial.number for trial in ledger.study.best_trials) == [0, 2]
        assert ledger.best().number == 2


KILLED = """
import os, sys
from test_search import opened
with opened(sys.argv[1], workers=2) as ledger:
    for number in range(4):
        ledger.begin()
        ledger.note(number, "its run")
    ledger.end(1, ledger.study.get_trials()[0].state.COMPLETE, 0.5)
    os.kill(os.getpid(), 9)
"""


def kill_a_search(url):
    """A process of its own begins trials 0 to 3, ends 1, and is killed."""
    paths = os.pathsep.join(["src", "tests"])
    process = subprocess.run([sys.executable, "-c", KILLED, url], env={**os.environ, "PYTHONPATH": paths})
    assert process.returncode == -9


@pytest.fixture
def in_root(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)


def unknown(trial):
    return TrialState.FAIL, None


def repeats(ledger):
    """Numbers of the trials that repeat another."""
    return [trial.number for trial in ledger.study.get_trials() if "retry_of" in trial.user_attrs]


@pytest.mark.usefixtures("in_root")
def test_what_a_killed_process_left_is_tried_again_once_unless_it_has_ended(url):
    outcomes = {2: (TrialState.COMPLETE, 0.7), 3: (TrialState.PRUNED, None)}
    kill_a_search(url)
    with opened(url, workers=2) as ledger:
        left = ledger.study.get_trials()[0].params
        assert ledger.reclaim(lambda trial: outcomes.get(trial.number, unknown(trial))) == [0]
        assert states(ledger)[:4] == ["FAIL", "COMPLETE", "COMPLETE", "PRUNED"]
        assert [trial.number for trial in ledger.finished()] == [1, 2, 3]
        assert ledger.study.get_trials()[2].value == 0.7
        drawn = run_trials(ledger, FIXED + 1)
        assert [drawn[number] for number in sorted(drawn)].count(left) == 1
        assert "RUNNING" not in states(ledger)
    with opened(url, workers=2) as ledger:
        assert ledger.reclaim(unknown) == []


@pytest.mark.usefixtures("in_root")
def test_a_trial_that_is_killed_twice_counts_as_failed(url):
    kill_a_search(url)
    with opened(url) as ledger:
        assert ledger.reclaim(unknown) == [0, 2, 3]
        waiting = repeats(ledger)
        while set(waiting) - {trial.number for trial in ledger.finished()}:
            number, _ = ledger.begin()
            ledger.note(number, "its run")
            ledger._running.clear()
            ledger.reclaim(unknown)
        assert {ledger.study.get_trials()[number].state for number in waiting} == {TrialState.FAIL}


def test_interruptions_and_kills_before_the_training_cost_no_trial(url):
    with opened(url) as ledger:
        run_trials(ledger, FIXED)
        params = []
        for trained, close in ((True, ledger.abandon), (False, ledger.reclaim), (True, ledger.reclaim)):
            number, _ = ledger.begin()
            params.append(ledger.study.get_trials()[number].params)
            if trained:
                ledger.note(number, "its run")
            ledger._running.clear()
            assert close(unknown) == [number]
            assert len(ledger.finished()) == FIXED
        params.append(*run_trials(ledger, FIXED + 1).values())
        assert params == [params[0]] * 4
        assert repeats(ledger) == [FIXED + 1, FIXED + 2, FIXED + 3]
        assert [trial.number for trial in ledger.finished()][-1] == FIXED + 3
        run_trials(ledger, FIXED + 3)
        assert len(ledger.finished()) == FIXED + 3


def test_an_interruption_does_not_change_what_is_drawn(tmp_path):
    """The repeated trial takes the place of the one that was interrupted."""
    urls = [f"sqlite:///{tmp_path}/{name}.db" for name in ("whole", "parts")]
    with opened(urls[0], sampler="TPESampler") as ledger:
        whole = run_trials(ledger, 14)
    with opened(urls[1], sampler="TPESampler") as ledger:
        run_trials(ledger, 10)
        ledger.begin()
    with opened(urls[1], sampler="TPESampler") as ledger:
        assert ledger.reclaim(unknown) == [10]
        run_trials(ledger, 14)
        parts = [trial.params for trial in ledger.finished()]
    assert parts == [whole[number] for number in range(14)]


@pytest.mark.parametrize("interrupted", [3, FIXED + 1])
def test_a_kill_while_a_trial_is_being_drawn_loses_no_variant_and_mixes_nothing(
    interrupted, url, monkeypatch
):
    """What is trained is what is stored, whether the trial was queued or drawn."""
    with opened(url) as ledger:
        run_trials(ledger, interrupted)
        suggest, calls = Space.suggest, []

        def killed(self, trial, seed=0):
            calls.append(trial)
            if len(calls) == 2:  # into the storage
                trial.suggest_int("epochs", 4, 9, step=1)
                raise KeyboardInterrupt
            return suggest(self, trial, seed)

        monkeypatch.setattr(Space, "suggest", killed)
        with pytest.raises(KeyboardInterrupt):
            ledger.begin()
        monkeypatch.undo()
    with opened(url) as ledger:
        ledger.reclaim(unknown)
        assert "RUNNING" not in states(ledger)
        while len(ledger.finished()) < FIXED + 3:
            number, recipe = ledger.begin()
            stored = ledger.study.get_trials()[number].params
            assert SPACE.suggest(optuna.trial.FixedTrial(stored)) == recipe
            ledger.end(number, TrialState.COMPLETE, 0.5)
        counted = [trial.user_attrs.get("variant") for trial in ledger.finished()]
        assert sorted(filter(None, counted)) == ["baseline", "v1", "v2", "v3", "v4"]


def test_every_running_trial_is_an_orphan_where_the_storage_is_not_shared(url, monkeypatch):
    """A container has another host name each time."""
    with opened(url) as ledger:
        begin_elsewhere(ledger, monkeypatch)
        ledger.study.ask()  # killed right after
    with opened(url) as ledger:
        assert ledger.reclaim(unknown) == [0, 1]
        assert "RUNNING" not in states(ledger)
        run_trials(ledger, 9)
        assert {"baseline", "v1"} <= {trial.user_attrs.get("variant") for trial in ledger.finished()}


def begin_elsewhere(ledger, monkeypatch):
    """Begin a trial as another machine, or container, would."""
    with monkeypatch.context() as patch:
        patch.setattr(socket, "gethostname", lambda: "elsewhere")
        number, _ = ledger.begin()
    return number, ledger._running.pop(number)


def test_a_running_trial_of_another_machine_is_left_alone(url, monkeypatch):
    with opened(url) as ledger:
        ledger.shared = True
        begin_elsewhere(ledger, monkeypatch)
        assert ledger.reclaim(unknown) == []
        assert states(ledger)[0] == "RUNNING"
        assert ledger.unfinished() == 1


def test_a_trial_of_a_machine_gone_silent_is_tried_again_and_its_return_harms_nothing(url, monkeypatch):
    monkeypatch.setattr(search, "GRACE", -1)
    with opened(url) as ledger:
        ledger.shared = True
        number, running = begin_elsewhere(ledger, monkeypatch)
        assert ledger.reclaim(unknown) == [number]
        assert ledger.study.get_trials()[repeats(ledger)[0]].user_attrs["variant"] == "baseline"
        ledger._running[number] = running  # it wakes up
        with pytest.raises(Pruned, match="given to another"):
            ledger.report(number, 9, 0.9)
        ledger.end(number, TrialState.COMPLETE, 0.9)
        assert states(ledger)[number] == "FAIL"


def test_a_search_of_another_space_is_refused(url):
    with opened(url):
        pass
    with (
        pytest.raises(UserError, match=r"study_name=toy was begun with seed=0: .* another study_name"),
        opened(url, identity={**IDENTITY, "seed": 1}),
    ):
        pass
    with opened(url, name="other", identity={**IDENTITY, "seed": 1}):
        pass


def test_a_search_that_runs_is_not_begun_a_second_time(url):
    with opened(url):
        with pytest.raises(UserError, match=r"study_name=toy is being searched"), opened(url):
            pass
        with opened(url, name="other"):
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
    with opened(url) as ledger:
        assert ledger.id == "known"
        run_trials(ledger, 1)


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


def test_a_storage_that_fails_later_is_a_failure_of_the_store(url, tmp_path):
    def broken():
        with opened(url) as ledger:
            (tmp_path / "optuna.db").write_bytes(b"no database" * 1000)
            ledger.begin()

    with pytest.raises(StoreError, match="the same command goes on"):
        broken()


def test_the_command_line_offers_exactly_what_can_be_chosen():
    assert PARAMETERS["sampler"].type.choices == tuple(SAMPLERS)
    assert PARAMETERS["pruner"].type.choices == tuple(PRUNERS)


def test_optuna_s_own_eyes_can_read_the_search(url):
    with opened(url) as ledger:
        run_trials(ledger, 6)
    study = optuna.load_study(study_name="toy", storage=url)
    assert len([trial for trial in study.trials if trial.state == TrialState.COMPLETE]) == 6
    assert study.best_trial.value == max(trial.value for trial in study.trials if trial.value)
