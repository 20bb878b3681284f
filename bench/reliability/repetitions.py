"""`reproduce`: a study's trainings come out again, and what changes their bits is named."""

from __future__ import annotations

import mlflow
from mlflow.entities import Run

from bench.reliability.kills import STUDY
from bench.reliability.row import Row
from bench.reliability.stores import Ended, ToyStore, ToyStores, end_of
from lenet_study.tracking.schema import Tag
from lenet_study.workflows.reproduce import STAGES

IDENTICAL, EQUIVALENT = "is identical", "is equivalent"


def repetitions(stores: ToyStores, tries: int) -> list[Row]:
    """Do all trainings of a study again; some of them on two threads, and with other instructions.

    Args:
        stores: Makes stores.
        tries: Trainings to do again on two threads, and as many with other instructions.
    """
    store = stores.new()
    ended = store.run(*STUDY)
    assert ended.code == 0, ended.output
    trained = _trainings(store)
    again = Row("`reproduce` of each training of `study` (timed): identical")
    threads = Row(
        "`reproduce` of a training on two threads instead of one (timed): equivalent, threads named"
    )
    instructions = Row(
        "`reproduce` of a training under `ATEN_CPU_CAPABILITY=default` (timed): equivalent, processor named"
    )
    for run in trained:
        _judge(again, _reproduce(store, run), IDENTICAL, "nothing has changed that decides bits")
    for run in [run for run in trained if run.data.tags[Tag.STAGE] == "train"][:tries]:
        _judge(threads, _reproduce(store, run, "--threads", "2"), EQUIVALENT, "changed: threads: 1, now 2")
        default = _reproduce(store, run, ATEN_CPU_CAPABILITY="default")
        _judge(instructions, default, EQUIVALENT, "changed: processor: ")
    return [again, threads, instructions]


def _trainings(store: ToyStore) -> list[Run]:
    """Return the finished trainings of a store, the earliest first."""
    client = mlflow.MlflowClient(store.uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, "attributes.status = 'FINISHED'")
    return [run for run in reversed(runs) if run.data.tags[Tag.STAGE] in STAGES]


def _reproduce(store: ToyStore, run: Run, *options: str, **variables: str) -> Ended:
    return end_of(store.start("reproduce", "--run-id", run.info.run_id, *options, **variables))


def _judge(row: Row, ended: Ended, verdict: str, reason: str) -> None:
    deviations = ended.deviations("reproduce")
    deviations += [f"not said: {words}" for words in (verdict, reason) if words not in ended.output]
    row.count(deviations, ended.seconds, ended.output)
