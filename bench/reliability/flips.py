"""Single bits of a store's files flipped, or files cut off: refused, or survived without any change."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import mlflow

from bench.reliability.row import Row
from bench.reliability.stores import ToyStore, ToyStores, end_of
from lenet_study.tracking.champions import CHAMPION
from lenet_study.tracking.store import NAME
from lenet_study.training.data_files import ENVIRONMENT_VARIABLE

TRAIN = ("train", "--variant", "baseline", "--epochs", "2", "--device", "cpu")
BETTER = (*TRAIN, "--epochs", "3", "--seed", "1")
VERIFY = ("verify", "--run-id", "all")
DATABASE = "the database"
SEARCH = ("search", "--trials", "3", "--max-epochs", "1", "--max-parameters", "20000", "--confirm-seeds", "0")
SEARCHED = "a search's database"
PROMOTED = (
    "a model",
    "a recipe",
    "a manifest",
    "another file of a run",
    DATABASE,
)  # kinds that a promotion reads
Files = Mapping[str, list[Path]]  # by kind
Tables = Mapping[str, list[str]]  # rows by table


def flips(stores: ToyStores, tries: int) -> list[Row]:
    """Damage so many files, of each kind in turn, and look what `verify` and `promote` make of each."""
    store = stores.new()
    (store.folder / "data").mkdir()
    for path in stores.files.folder.iterdir():
        shutil.copy(path, store.folder / "data")
    for command in (TRAIN, ("promote",), BETTER, (*SEARCH, "--device", "cpu")):
        ended = store.run(*command)
        assert ended.code == 0, ended.output
    _interrupt(stores, store)
    files = _files(store)
    rows = {kind: Row(f"a bit of {kind} flipped, or its end cut off: {_commands(kind)}") for kind in files}
    before = {path: _tables(path) for kind in (DATABASE, SEARCHED) for path in files[kind]}
    copy = store.folder.with_name(f"{store.folder.name}-copy")
    shutil.copytree(store.folder, copy)
    for number in range(tries):
        kind = list(files)[number % len(files)]
        path = stores.random.choice(files[kind])
        how = _damage(stores, path)
        deviations, output = _deviations(store, kind, path, before.get(path, {}))
        rows[kind].count([f"{deviation} ({path.name}, {how})" for deviation in deviations], output=output)
        shutil.rmtree(store.folder)
        shutil.copytree(copy, store.folder)
    return list(rows.values())


def _interrupt(stores: ToyStores, store: ToyStore) -> None:
    """Leave a training with checkpoints behind."""
    command = store.start(*TRAIN, "--epochs", "500", "--seed", "2")
    while not list(store.folder.glob("checkpoints/*/*.checkpoint")):
        command.wait(0.1)
    command.process.terminate()
    command.wait()


def _files(store: ToyStore) -> Files:
    artifacts = [path for path in store.folder.glob("mlruns/**/artifacts/**/*") if path.is_file()]
    models = [path for path in artifacts if "models" in path.parts]
    logged = [path for path in artifacts if "models" not in path.parts]
    return {
        "a file of the data": [path for path in (store.folder / "data").iterdir() if path.is_file()],
        "a checkpoint": list(store.folder.glob("checkpoints/*/*.checkpoint")),
        "a model": models,
        "a recipe": [path for path in logged if path.name == "recipe.json"],
        "a manifest": [path for path in logged if path.name == "manifest.json"],
        "another file of a run": [
            path for path in logged if path.name not in ("recipe.json", "manifest.json")
        ],
        DATABASE: [store.database],
        SEARCHED: [store.folder / "optuna.db"],
    }


def _commands(kind: str) -> str:
    """Return which commands are tried."""
    return "`verify`" + (", `promote`" if kind in PROMOTED else ", `search`" if kind == SEARCHED else "")


def _damage(stores: ToyStores, path: Path) -> str:
    """Flip a random bit of a file, or, once in four times, cut it off at a random byte; return which."""
    content = bytearray(path.read_bytes())
    place = stores.random.randrange(len(content))
    if stores.random.random() < 0.25:
        path.write_bytes(content[:place])
        return f"cut off at byte {place}"
    content[place] ^= 1 << stores.random.randrange(8)
    path.write_bytes(content)
    return f"a bit of byte {place}"


def _deviations(store: ToyStore, kind: str, path: Path, before: Tables) -> tuple[list[str], str]:
    """Return what the commands did otherwise than promised, and what they wrote.

    ``before`` are a database's rows. A bit of its indexes, or of its free space, changes none of them:
    `verify` may find it or not.
    """
    data = store.folder / "data"
    variables = {ENVIRONMENT_VARIABLE: str(data)}
    after = _tables(path) if before else {}
    changed = ", ".join(sorted(name for name in before | after if before.get(name) != after.get(name)))
    verified = end_of(store.start(*VERIFY, "--data-dir", str(data), **variables))
    output = verified.output
    deviations = verified.deviations("`verify`", code=verified.code or 0)
    if kind != SEARCHED and (changed or not before) and path.name not in verified.output:
        deviations.append(f"`verify` did not name it{f': {changed}' if changed else ''}")
    if kind in PROMOTED:
        promoted = end_of(store.start("promote", **variables))
        output += promoted.output
        deviations += promoted.deviations("`promote`", code=promoted.code or 0)
        if not promoted.code and f"(run {_champion_run(store)})" in verified.output:
            deviations.append("a damaged model is champion")
    if kind == SEARCHED:
        searched = end_of(store.start(*SEARCH, "--device", "cpu", **variables))
        output += searched.output
        deviations += searched.deviations("`search`", code=searched.code or 0)
    return deviations, output


def _champion_run(store: ToyStore) -> str:
    client = mlflow.MlflowClient(store.uri, store.uri)
    return str(client.get_model_version_by_alias(NAME, CHAMPION).run_id)


def _tables(database: Path) -> Tables:
    """Return all that a SQLite file holds as text; what cannot be read, as the reason."""
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
            connection.text_factory = bytes
            schema = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall()
            names = [name.decode() for kind, name, *_ in schema if kind == b"table"]
            rows = {name: connection.execute(f'SELECT * FROM "{name}"').fetchall() for name in names}
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        return {"all tables": [str(error)]}
    return {name: list(map(repr, lines)) for name, lines in ({"the schema": schema} | rows).items()}
