"""A store is moved, or lost and brought back: rows, files, models and aliases are those from before."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import mlflow

from bench.reliability.row import Row
from bench.reliability.stores import Ended, ToyStore, ToyStores
from lenet_study.cli.commands import COMMANDS
from lenet_study.errors import StudyError
from lenet_study.tracking import archive
from lenet_study.tracking.manifest import changes_of
from lenet_study.tracking.registry import load_model

STUDY = ("study", "--epochs", "1", "--folds", "2", "--workers", "1", "--batch-size", "16")
DAMAGES = 20  # for each archive


def moves(stores: ToyStores, tries: int) -> list[Row]:
    """Move a store with a study and relocate it; back it up and restore it; damage the archive."""
    moved = Row("folder moved: a command is refused, then `relocate` (timed)")
    lost = Row("`backup`, the folder is lost, then `restore` (timed)")
    damaged = Row("one bit of an archive flipped, or its end cut off: refused, or all files as they were")
    store = stores.new()
    ended = store.run(*STUDY)
    assert ended.code == 0, ended.output
    for number in range(tries):
        before = _rows(store)
        moved_store = ToyStore(store.folder.rename(stores.folder / f"moved-{number}"), stores.files)
        refused, relocated = moved_store.run("promote"), moved_store.run("relocate")
        deviations = refused.deviations("a command before it", code=2)
        if "`lenet-study relocate`" not in refused.output:
            deviations.append("the sentence names no cure")
        deviations += relocated.deviations("`relocate`") + _deviations(moved_store, before, store.folder)
        moved.count(deviations, relocated.seconds, refused.output + relocated.output)

        path = stores.folder / f"store-{number}.tar"
        saved = moved_store.run("backup", "--to", str(path))
        before = _rows(moved_store)
        shutil.rmtree(moved_store.folder)
        store = ToyStore(stores.folder / f"restored-{number}", stores.files)
        restored = _restore(stores, path, store)
        deviations = saved.deviations("`backup`") + restored.deviations("`restore`")
        deviations += _deviations(store, before, moved_store.folder)
        lost.count(deviations, restored.seconds, saved.output + restored.output)
        for _ in range(DAMAGES):
            damaged.count(_damage(stores, path))
    return [moved, lost, damaged]


def _restore(stores: ToyStores, path: Path, store: ToyStore) -> Ended:
    elsewhere = ToyStore(stores.folder, stores.files)
    return elsewhere.run("restore", "--source", str(path), "--to", str(store.folder))


def _deviations(store: ToyStore, before: list[str], former: Path) -> list[str]:
    """Return in what a store differs from what it was in another folder."""
    if [row.replace(str(store.folder), str(former)) for row in _rows(store)] != before:
        return ["other rows"]
    found = []
    address = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(store.uri)
    try:
        client = mlflow.MlflowClient()
        for version in client.search_model_versions():
            load_model(f"models:/{version.name}/{version.version}")  # checked against its run's sum
        load_model("models:/fashion-mnist-lenet@champion")
        for experiment in client.search_experiments():
            for run in client.search_runs([experiment.experiment_id]):
                found += [f"a run is changed: {change}" for change in changes_of(run)]
    except StudyError as error:
        found.append(f"a model does not load: {error}")
    finally:
        mlflow.set_tracking_uri(address)
    if "verify" in COMMANDS:
        found += store.run("verify", "--run-id", "all").deviations("`verify`")
    return found


def _damage(stores: ToyStores, path: Path) -> list[str]:
    """Flip one bit of an archive, or cut it, and return what of that was not seen."""
    whole = path.read_bytes()
    content = bytearray(whole)
    if stores.random.random() < 0.5:
        content[stores.random.randrange(len(content))] ^= 1 << stores.random.randrange(8)
    else:
        del content[stores.random.randrange(len(content)) :]
    damaged, folder = stores.folder / "damaged.tar", stores.folder / "unpacked"
    damaged.write_bytes(content)
    try:
        with archive.filling(folder) as partial:
            archive.read(damaged, partial)
    except StudyError:
        return ["something is left of a refused archive"] if folder.exists() else []
    original = stores.folder / "original"
    with archive.filling(original) as partial:
        archive.read(path, partial)
    same = _files(folder) == _files(original)
    shutil.rmtree(folder)
    shutil.rmtree(original)
    return [] if same else ["damage not seen"]


def _files(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _rows(store: ToyStore) -> list[str]:
    with closing(sqlite3.connect(store.database)) as connection:
        return list(connection.iterdump())
