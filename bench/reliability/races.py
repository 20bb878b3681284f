"""Several commands change the champion at once, or one is killed while it does."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import mlflow
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from bench.reliability.row import Row
from bench.reliability.stores import Ended, ToyStore, ToyStores, end_of
from lenet_study.server.postgres import private_server
from lenet_study.tracking.champions import CHAMPION, PREVIOUS, Champions
from lenet_study.tracking.store import NAME

TRAIN = ("train", "--variant", "baseline", "--device", "cpu")
BETTER = (  # of versions 1 to 3: each is better on the toy images than the one before
    ("--epochs", "1", "--learning-rate", "0.0005"),
    ("--epochs", "1", "--learning-rate", "0.001"),
    ("--epochs", "2", "--learning-rate", "0.001"),
)
PROMOTE, ROLLBACK = ("promote",), ("promote", "--rollback", "true")
PAIRS = {  # what runs at once: which champions a serial order can leave, 1 and 2 having been it before
    "promote / promote": (PROMOTE, PROMOTE, {"3"}),
    "promote / rollback": (PROMOTE, ROLLBACK, {"2", "3"}),
    "rollback / rollback": (ROLLBACK, ROLLBACK, {"1"}),
}
Reset = Callable[[], None]


def races(stores: ToyStores, tries: int) -> list[Row]:
    """Race promotions and rollbacks in SQLite and in PostgreSQL; kill promotions; so many tries of each."""
    rows = []
    with _in_sqlite(stores) as (store, reset):
        rows += _race(stores, store, reset, "SQLite", tries)
        rows.append(_kills(stores, store, reset, max(1, tries // 4)))
    with _in_postgresql(stores) as (store, reset):
        rows += _race(stores, store, reset, "PostgreSQL", tries)
    return rows


def _race(stores: ToyStores, store: ToyStore, reset: Reset, kind: str, tries: int) -> list[Row]:
    rows = {pair: Row(f"{pair} at once, {kind}") for pair in PAIRS}
    for number in range(tries):
        pair = list(PAIRS)[number % len(PAIRS)]
        first, second, champions = PAIRS[pair]
        reset()
        commands = [store.start(*first), store.start(*second)]
        ended = [end_of(command) for command in commands]
        deviations = _deviations(store, ended)
        if (champion := _champion(store)) not in champions:
            deviations.append(f"version {champion} is champion")
        rows[pair].count(deviations, output="\n".join(end.output for end in ended))
    return [row for row in rows.values() if row.tries]


def _kills(stores: ToyStores, store: ToyStore, reset: Reset, tries: int) -> Row:
    row = Row("SIGKILL of `promote` at a random moment, then `promote` again, SQLite")
    reset()
    seconds = store.run(*PROMOTE).seconds
    for _ in range(tries):
        reset()
        command = store.start(*PROMOTE)
        command.wait(stores.random.uniform(0, seconds))
        if command.poll() is None:
            os.kill(command.pid, signal.SIGKILL)
        command.wait()
        ended = store.run(*PROMOTE)
        deviations = ended.deviations("the second `promote`") + _deviations(store, [])
        deviations += [] if _champion(store) == "3" else ["another champion"]
        row.count(deviations, output=ended.output)
    return row


def _deviations(store: ToyStore, ended: list[Ended]) -> list[str]:
    """Return in what a history, the aliases, and what commands have said contradict each other."""
    history = Champions(mlflow.MlflowClient(store.uri, store.uri)).history()
    deviations = [] if history.settled else ["a change is half done"]
    aliases = history.aliases
    if aliases.get(CHAMPION, "") != history.champion or aliases.get(PREVIOUS, "") != history.previous:
        deviations.append("the aliases are not those of the history")
    changes = sum("is now" in end.output for end in ended)
    if ended and len(history.changes) - 2 != changes:
        deviations.append("a change is lost, or there twice")
    for end in ended:
        refused = "Nothing was rolled back, because" in end.output or "no former champion" in end.output
        deviations += end.deviations("a command", code=2 if refused else 0)
    return deviations


def _champion(store: ToyStore) -> str:
    client = mlflow.MlflowClient(store.uri, store.uri)
    return str(client.get_registered_model(NAME).aliases.get(CHAMPION, ""))


def _fill(store: ToyStore) -> None:
    """Make two champions, one after the other, and a third model that is better."""
    for number, options in enumerate(BETTER, start=1):
        ended = store.run(*TRAIN, *options)
        assert ended.code == 0, ended.output
        if number < len(BETTER):
            ended = store.run(*PROMOTE)
            assert f"Version {number} is now" in ended.output, ended.output


@contextmanager
def _in_sqlite(stores: ToyStores) -> Iterator[tuple[ToyStore, Reset]]:
    store = stores.new()
    _fill(store)
    template = store.folder / "template"
    shutil.copy(store.database, template)
    yield store, lambda: Path(shutil.copy(template, store.database)).touch()


@contextmanager
def _in_postgresql(stores: ToyStores) -> Iterator[tuple[ToyStore, Reset]]:
    folder = stores.folder / "postgres"
    for parent in (stores.folder, *stores.folder.parents):  # PostgreSQL runs as another user
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    with private_server(folder) as uri:
        assert uri, "PostgreSQL is not installed"
        fresh = stores.fresh()
        store = ToyStore(fresh.folder, stores.files, uri)
        assert store.run("reap").code == 0
        _fill(store)
        admin = create_engine(
            uri.replace("/mlflow?", "/postgres?"), isolation_level="AUTOCOMMIT", poolclass=NullPool
        )
        with closing(admin.connect()) as database:
            _copy(database, "mlflow", "template")
            yield store, lambda: _copy(database, "template", "mlflow")


def _copy(database: object, source: str, target: str) -> None:
    """Make one database of PostgreSQL the copy of another, whoever is connected with it."""
    execute = database.execute  # type: ignore[attr-defined]
    execute(text(f"DROP DATABASE IF EXISTS {target} WITH (FORCE)"))
    execute(
        text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"), {"name": source}
    )
    execute(text(f"CREATE DATABASE {target} TEMPLATE {source}"))
