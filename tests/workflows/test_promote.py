import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from conftest import Recorder, add_training, as_logged

from lenet_study.errors import IntegrityError, StoreError, UserError
from lenet_study.tracking.champions import Champions
from lenet_study.tracking.run import open_run
from lenet_study.tracking.store import NAME
from lenet_study.workflows.champion_history import history as print_history
from lenet_study.workflows.promote import Promotion, promote


def aliases(store):
    """Which version has which alias."""
    return {name: int(version) for name, version in store.get_registered_model(NAME).aliases.items()}


def promoted(check=as_logged, **options):
    """Promote; return what the user is told."""
    reporter = Recorder()
    promote(**options, reporter=reporter, check=check)
    return reporter.text


def changes():
    """The history of the champion: what happened, from which version, to which."""
    return [(change.action, change.former, change.version) for change in Champions().history().changes]


def last_run(store):
    experiment = store.get_experiment_by_name(NAME)
    (run,) = store.search_runs(
        [experiment.experiment_id],
        "tags.stage = 'promote'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    return run


def test_nothing_is_promoted_from_an_empty_store(store):
    with pytest.raises(UserError, match=r"no finished training .*: run `train`"):
        promoted()
    run = last_run(store)
    assert run.info.status == "FAILED"
    assert "run `train`" in run.data.tags["failure.reason"]


@pytest.mark.parametrize("stage", ["fold", "retrain", "evaluate"])
def test_only_trainings_are_promoted(store, stage):
    add_training(store, "better", 0.99, stage=stage)
    with pytest.raises(UserError, match="no finished training"):
        promoted()
    assert aliases(store) == {}


@pytest.mark.parametrize("status", ["RUNNING", "FAILED", "KILLED"])
def test_only_finished_trainings_are_promoted(store, status):
    add_training(store, "better", 0.99, status=status)
    add_training(store, "good", 0.9)
    promoted()
    assert aliases(store) == {"champion": 2}


def test_on_a_tie_the_variant_that_comes_first_is_champion(store):
    add_training(store, "v4", 0.92, variant="v4")
    add_training(store, "v1", 0.92, variant="v1")
    promoted()
    assert aliases(store) == {"champion": 2}
    reason = last_run(store).data.tags["promoted.reason"]
    assert "the first of those with the highest validation accuracy" in reason


def test_the_best_training_becomes_champion(store):
    add_training(store, "v1", 0.88)
    add_training(store, "v4", 0.925)
    add_training(store, "v3", 0.91)
    text = promoted()
    assert aliases(store) == {"champion": 2}
    run = last_run(store)
    reason = run.data.tags["promoted.reason"]
    for words in ("v4", "92.50%", "v3", "91.00%"):
        assert words in reason
    assert run.info.status == "FINISHED"
    expected = {"promoted.version": "2", "promoted.kept": "false", "former.version": "none"}
    assert expected.items() <= run.data.tags.items()
    version = store.get_model_version_by_alias(NAME, "champion")
    assert version.tags["promoted.reason"] == reason
    assert version.tags["promoted.by_run"] == run.info.run_id
    assert f"Version 2 is now {NAME}@champion: {reason}" in text


def test_the_candidates_are_listed_in_the_run(store):
    best = add_training(store, "v4", 0.925)
    add_training(store, "v1", 0.88, parity="failed")
    promoted()
    file = mlflow.artifacts.download_artifacts(
        run_id=last_run(store).info.run_id, artifact_path="candidates.csv"
    )
    table = pd.read_csv(Path(file))
    assert list(table["run"]) == ["v4", "v1"]
    assert list(table["val_accuracy"]) == [0.925, 0.88]
    assert list(table["parity"]) == ["passed", "failed"]
    assert table["run_id"][0] == best


def test_a_better_training_takes_over(store):
    add_training(store, "v1", 0.88)
    text = promoted()
    assert "the only finished training" in text
    add_training(store, "v4", 0.92)
    text = promoted()
    assert aliases(store) == {"champion": 2, "previous": 1}
    assert last_run(store).data.tags["former.version"] == "1"
    assert "in place of version 1" in text
    add_training(store, "v5", 0.93)
    promoted()
    assert aliases(store) == {"champion": 3, "previous": 2}


def test_a_worse_training_changes_nothing(store):
    add_training(store, "v1", 0.88)
    promoted()
    add_training(store, "v4", 0.92)
    promoted()
    before = store.get_model_version(NAME, "2").tags
    add_training(store, "worse", 0.8)
    text = promoted()
    assert aliases(store) == {"champion": 2, "previous": 1}
    assert store.get_model_version(NAME, "2").tags == before
    assert last_run(store).data.tags["promoted.kept"] == "true"
    assert f"Version 2 stays {NAME}@champion" in text


def three_champions(store):
    for name, accuracy in (("v1", 0.88), ("v2", 0.9), ("v4", 0.92)):
        add_training(store, name, accuracy)
        promoted()


def test_rolling_back_follows_the_history(store):
    three_champions(store)
    text = promoted(rollback=True)
    assert aliases(store) == {"champion": 2, "previous": 1}
    run = last_run(store)
    version = store.get_model_version(NAME, "2")
    reason = "rolled back by hand from version 3"
    assert version.tags["promoted.reason"] == run.data.tags["promoted.reason"] == reason
    assert version.tags["promoted.by_run"] == run.info.run_id
    assert run.data.params == {"rollback": "True", "version": "0"}
    assert f"Version 2 is now {NAME}@champion in place of version 3" in text
    promoted(rollback=True)
    assert aliases(store) == {"champion": 1}
    with pytest.raises(UserError, match="no former champion"):
        promoted(rollback=True)
    assert changes() == [
        ("promoted", "", "1"),
        ("promoted", "1", "2"),
        ("promoted", "2", "3"),
        ("rolled back", "3", "2"),
        ("rolled back", "2", "1"),
    ]


def test_what_was_rolled_back_is_not_promoted_again_unless_named(store):
    three_champions(store)
    promoted(rollback=True)
    text = promoted()
    assert aliases(store) == {"champion": 2, "previous": 1}
    assert "is passed over: it was displaced by hand, and version=3 promotes it all the same" in text
    assert f"Version 2 stays {NAME}@champion" in text
    add_training(store, "v5", 0.91)
    promoted()
    assert aliases(store) == {
        "champion": 4,
        "previous": 2,
    }  # though 3 is better
    promoted(version=3)
    assert aliases(store) == {"champion": 3, "previous": 4}
    assert changes()[-1] == ("named", "4", "3")
    promoted()
    assert aliases(store) == {"champion": 3, "previous": 4}


def test_a_champion_that_is_named_stays_until_a_better_one_is_trained(store):
    three_champions(store)
    promoted(version=1)
    assert aliases(store) == {"champion": 1, "previous": 3}
    promoted()
    assert aliases(store) == {"champion": 2, "previous": 1}  # never displaced by hand, and better


def test_a_model_without_validation_is_champion_if_named_and_stays(store):
    three_champions(store)
    run_id = add_training(store, "v4 retrained", None, stage="retrain")
    store.log_metric(run_id, "best/train_accuracy", 0.93)
    promoted(version=4)
    assert aliases(store) == {"champion": 4, "previous": 3}
    assert "has no validation accuracy to be compared by" in promoted()
    assert aliases(store) == {"champion": 4, "previous": 3}


def test_an_unknown_version_is_refused(store):
    three_champions(store)
    with pytest.raises(UserError, match="version=9 is no version of fashion-mnist-lenet"):
        promoted(version=9)
    with pytest.raises(UserError, match="version=1 and rollback=true exclude each other"):
        promoted(version=1, rollback=True)


def test_a_deleted_version_is_not_gone_back_to(store):
    three_champions(store)
    store.delete_model_version(NAME, "2")
    with pytest.raises(UserError, match=r"Version 2, the champion before, was deleted: name another"):
        promoted(rollback=True)
    assert aliases(store) == {"champion": 3}


def damaged(*numbers):
    """A check that finds these versions damaged."""

    def check(version):
        if str(version.version) in numbers:
            raise UserError("a file was changed")

    return check


def test_a_damaged_version_is_neither_promoted_nor_gone_back_to(store):
    add_training(store, "v1", 0.88)
    add_training(store, "v4", 0.92)
    text = promoted(damaged("2"))
    assert "is passed over: a file was changed" in text
    assert aliases(store) == {"champion": 1}
    promoted(version=2)
    add_training(store, "v5", 0.93)
    promoted(damaged("2"))
    assert aliases(store) == {"champion": 3, "previous": 2}
    for options in ({"rollback": True}, {"version": 2}):
        with pytest.raises(UserError, match=r"Version 2 is not promoted: a file was changed"):
            promoted(damaged("2"), **options)
    assert aliases(store) == {"champion": 3, "previous": 2}


def test_a_damaged_champion_gives_way_to_the_best_sound_model(store):
    three_champions(store)
    text = promoted(damaged("3"))
    assert "Version 3, the champion, cannot be trusted: a file was changed" in text
    assert aliases(store) == {"champion": 2, "previous": 3}
    with pytest.raises(UserError, match="No finished training can be promoted; the lines above say why"):
        promoted(damaged("1", "2", "3"))


def test_a_damaged_model_that_is_trained_again_is_replaced(store):
    add_training(store, "v4", 0.92)
    promoted()
    add_training(store, "v4", 0.92)
    promoted(damaged("1"))
    assert aliases(store) == {"champion": 2, "previous": 1}


def test_equal_weights_do_not_come_back_by_themselves(store):
    three_champions(store)
    promoted(rollback=True)
    for number in ("3", "4"):
        if number == "4":
            add_training(store, "v4 again", 0.92)
        store.set_model_version_tag(NAME, number, "weights.sha256", "equal")
    text = promoted()
    assert "version 3, of the same weights, was displaced by hand, and version=4 promotes it" in text
    assert aliases(store) == {"champion": 2, "previous": 1}


def test_rollbacks_go_back_one_by_one(store):
    three_champions(store)
    promoted(version=1)
    for expected in ({"champion": 3, "previous": 2}, {"champion": 2, "previous": 1}, {"champion": 1}):
        promoted(rollback=True)
        assert aliases(store) == expected


def test_a_long_reason_and_a_flipped_character_of_the_history(store, tmp_path):
    add_training(store, "長" * 5000, 0.88)
    promoted()
    assert changes() == [("promoted", "", "1")]
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection, connection:
        statement = """UPDATE params SET value = replace(value, '"version": "1"', '"version": "2"')"""
        connection.execute(statement)
    with pytest.raises(IntegrityError, match=r"history is damaged \(param change.000001 of run"):
        promoted()


def test_aliases_that_a_slower_process_overwrote_are_set_again(store):
    """A process of another host sets the aliases of its change after the next change's were set."""
    three_champions(store)

    class Slow:
        """MLflow's client, before whose write of the champion's alias another process promotes version 1."""

        def __getattr__(self, name):
            return getattr(store, name)

        def set_registered_model_alias(self, model, alias, version):
            if alias == "champion" and version == "2":
                with open_run("promote", stage="promote", params={}) as other:
                    Champions().change(Champions().history(), "named", "1", "faster", other)
            store.set_registered_model_alias(model, alias, version)

    with open_run("promote", stage="promote", params={}) as run:
        slow = Champions(Slow())
        slow.change(slow.history(), "named", "2", "slower", run)
    assert changes()[3:] == [("named", "3", "2"), ("named", "2", "1")]
    assert aliases(store)["champion"] == 1


@pytest.mark.parametrize(
    ("accuracy", "loss"), [(0.1, 2.3), (0.11, 2.3), (0.9, float("nan")), (0.9, float("inf"))]
)
def test_a_diverged_model_is_never_promoted(store, accuracy, loss):
    run_id = add_training(store, "v4", accuracy)
    store.log_metric(run_id, "best/val_loss", loss)
    with pytest.raises(UserError, match="No finished training can be promoted; the lines above say why"):
        promoted()
    with pytest.raises(UserError, match=r"Version 1 is not promoted: it has diverged"):
        promoted(version=1)
    add_training(store, "v1", 0.5)
    promoted()
    assert aliases(store) == {"champion": 2}


def test_an_alias_that_was_set_elsewhere_is_respected_and_written_down(store):
    three_champions(store)
    store.set_registered_model_alias(NAME, "champion", "1")
    text = promoted()
    assert changes()[3:] == [("set elsewhere", "3", "1"), ("promoted", "1", "2")]  # 3 was displaced by hand
    assert "v4 (version 3, run" in text


def test_a_store_that_is_older_than_the_history_keeps_its_champions(store):
    for name, accuracy in (("v1", 0.88), ("v4", 0.92)):
        add_training(store, name, accuracy)
    store.set_registered_model_alias(NAME, "previous", "1")
    store.set_registered_model_alias(NAME, "champion", "2")
    promoted(rollback=True)
    assert aliases(store) == {"champion": 1}
    assert changes() == [("promoted", "1", "2"), ("rolled back", "2", "1")]


def test_a_registered_model_that_is_made_anew_has_no_former_champions(store):
    three_champions(store)
    store.delete_registered_model(NAME)
    add_training(store, "v1", 0.95)
    promoted()
    assert aliases(store) == {"champion": 1}
    assert changes() == [("promoted", "", "1")]


def test_a_history_whose_run_is_deleted_says_how_to_restore_it(store):
    three_champions(store)
    store.delete_run(store.get_registered_model(NAME).tags["history.run_id"])
    with pytest.raises(StoreError, match=r"is deleted: `mlflow runs restore --run-id"):
        promoted(rollback=True)
    assert aliases(store) == {"champion": 3, "previous": 2}


class Struck(BaseException):
    """The process is killed."""


class StrikingClient:
    """MLflow's client, whose process dies before its write number ``strike``, counting from 1."""

    WRITES = ("log_param", "create_run", "set_terminated", "set_registered_model_tag")
    WRITES += ("set_model_version_tag", "set_registered_model_alias", "delete_registered_model_alias")

    def __init__(self, client, strike):
        self._client, self.left = client, strike

    def __getattr__(self, name):
        if name in self.WRITES:
            self.left -= 1
            if not self.left:
                raise Struck
        return getattr(self._client, name)


@pytest.mark.parametrize("rollback", [False, True])
def test_a_promotion_that_is_killed_between_two_writes_is_finished_by_the_next_command(store, rollback):
    for strike in range(1, 20):
        for name, accuracy in ((f"a{strike}", 0.5 + strike / 50), (f"b{strike}", 0.51 + strike / 50)):
            run_id = add_training(store, name, accuracy)
            promoted() if name.startswith("a") or rollback else None
        before = aliases(store)
        client = StrikingClient(store, strike)
        with suppress(Struck), open_run("promote", stage="promote", params={}) as run:
            promotion = Promotion(run, Recorder(), as_logged, Champions(client))
            promotion.roll_back() if rollback else promotion.promote_best()
        state = Champions().settle()  # as the next command does
        assert state.settled
        after = aliases(store)
        told = {"champion": state.champion, "previous": state.previous}
        assert after == {name: int(version) for name, version in told.items() if version}
        whole = {"champion": before["previous"] if rollback else int(store_version(store, run_id))}
        assert after == before or after.items() >= whole.items()
        if client.left > 0:
            assert strike > 4  # all writes were struck once
            return
    pytest.fail("a promotion has more writes than were struck")


def store_version(store, run_id):
    (version,) = store.search_model_versions(f"run_id = '{run_id}'")
    return version.version


def test_a_rollback_that_another_change_comes_before_is_refused(store):
    """While this command waits for its turn, another process promotes."""
    three_champions(store)
    add_training(store, "v5", 0.95)

    class Meanwhile(Champions):
        def settle(self):
            if not changes()[3:]:
                with open_run("promote", stage="promote", params={}) as other:
                    assert Champions().change(Champions().history(), "promoted", "4", "better", other)
            return super().settle()

    sentence = "Nothing was rolled back, because version 4 became champion in place of 3"
    with pytest.raises(UserError, match=sentence), open_run("promote", stage="promote", params={}) as run:
        Promotion(run, Recorder(), as_logged, Meanwhile()).roll_back()
    assert aliases(store) == {"champion": 4, "previous": 3}


def test_of_two_equal_entries_one_is_written(store):
    three_champions(store)
    state = Champions().history()
    with open_run("promote", stage="promote", params={}) as run:
        assert Champions().change(state, "named", "1", "first", run)
        assert not Champions().change(state, "named", "2", "second", run)
    assert aliases(store) == {"champion": 1, "previous": 3}
    assert changes()[3:] == [("named", "3", "1")]


def test_the_history_is_printed(store):
    reporter = Recorder()
    print_history(reporter)
    assert "There has been no fashion-mnist-lenet@champion yet" in reporter.text
    three_champions(store)
    promoted(rollback=True)
    reporter = Recorder()
    print_history(reporter)
    lines = reporter.text.splitlines()
    assert lines[0].split() == ["time", "(UTC)", "by", "change", "from", "to", "run"]
    assert lines[-1] == "    rolled back by hand from version 3"
    assert last_run(store).info.run_id in lines[-2]
    assert max(map(len, lines)) <= 100


def test_without_a_former_champion_nothing_is_rolled_back(store):
    add_training(store, "v1", 0.88)
    promoted()
    with pytest.raises(UserError, match="no former champion"):
        promoted(rollback=True)
    assert aliases(store) == {"champion": 1}
    assert last_run(store).info.status == "FAILED"


def test_nothing_is_rolled_back_in_an_empty_store(store):
    with pytest.raises(UserError, match="no former champion"):
        promoted(rollback=True)


@pytest.mark.parametrize("parity", ["failed", None])
def test_a_model_whose_export_is_not_proven_is_passed_over(store, parity):
    add_training(store, "v1", 0.88)
    add_training(store, "v4", 0.92, parity=parity)
    text = promoted()
    assert "v4 (version 2, run" in text
    assert "is passed over: its exported model does not equal the trained one (parity.json" in text
    assert aliases(store) == {"champion": 1}
    assert "promoted.reason" not in store.get_model_version(NAME, "2").tags
    with pytest.raises(UserError, match=r"Version 2 is not promoted: its exported model does not equal"):
        promoted(version=2)
    assert last_run(store).info.status == "FAILED"
    assert "promoted.version" not in last_run(store).data.tags


def test_a_training_without_a_registered_model_is_passed_over(store):
    add_training(store, "v1", 0.88)
    run_id = add_training(store, "v4", 0.92, registered=False)
    assert f"v4 (run {run_id}) is passed over: it has no registered model" in promoted()
    assert aliases(store) == {"champion": 1}


def test_a_training_without_a_validation_accuracy_is_refused(store):
    add_training(store, "v1", None)
    with pytest.raises(UserError, match="no finished training"):
        promoted()
    assert aliases(store) == {}


def test_a_candidate_without_a_validation_accuracy_does_not_stop_the_best(store):
    add_training(store, "v1", None)
    add_training(store, "v4", 0.9)
    promoted()
    assert aliases(store) == {"champion": 2}
