"""Things that are wrong with a store or its surroundings: `doctor` finds each, and its cure mends it."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bench.reliability.full_disk import fill, small_disk
from bench.reliability.kills import TRAIN, kill
from bench.reliability.row import Row
from bench.reliability.stores import Ended, ToyStore, ToyStores, children_of, wait_for

_PACKAGES = "packages"  # a folder of a store's, first on Python's path

Fault = Callable[
    [ToyStore], Iterator[Callable[[], object]]
]  # injects it, then yields what carries out its cure


def examinations(stores: ToyStores, tries: int) -> list[Row]:
    """Inject each fault; let `doctor` find it, carry out the cure, and let `doctor` look again."""
    rows = []
    for check, (fault, inject) in FAULTS.items():
        row = Row(f"{fault}: found by `doctor` (timed), and gone after its cure")
        for _ in range(tries):
            store = stores.new()
            with contextmanager(inject)(store) as cure:
                before = _examined(store)
                cure()
                after = _examined(store)
            found = [] if _state(before, check) not in ("ok", "none") else ["not found"]
            mended = ["not mended"] if _state(after, check) in (_state(before, check), "problem") else []
            row.count(found + mended, before.seconds, before.output + after.output)
        rows.append(row)
    return rows


def _examined(store: ToyStore) -> Ended:
    """Let `doctor` look; in a new interpreter, with the real images, if it is to find packages elsewhere."""
    if not (packages := store.folder / _PACKAGES).is_dir():
        return store.run("doctor", "--json", "true")
    command = [sys.executable, "-m", "lenet_study", "doctor", "--json", "true"]
    variables = store.environment
    variables["PYTHONPATH"] = f"{packages}:{variables['PYTHONPATH']}"
    start = time.monotonic()
    ended = subprocess.run(command, cwd=store.folder, env=variables, capture_output=True, text=True)
    return Ended(ended.returncode, time.monotonic() - start, ended.stdout + ended.stderr)


def _state(ended: Ended, check: str) -> str:
    """Return the state of the first check whose name begins so; "none" where `doctor` did not come to it."""
    findings, _ = json.JSONDecoder().raw_decode(ended.output[ended.output.index("[") :])
    return next((finding["state"] for finding in findings if finding["name"].startswith(check)), "none")


def _former_store(store: ToyStore) -> Iterator[Callable[[], object]]:
    experiment = store.folder / "mlruns" / "0"
    experiment.mkdir(parents=True)
    (experiment / "meta.yaml").touch()
    command = "mkdir former-mlruns && mv mlruns/0 former-mlruns"
    yield lambda: subprocess.run(command, shell=True, cwd=store.folder, check=True)


def _orphan(store: ToyStore) -> Iterator[Callable[[], object]]:
    command = store.start(*TRAIN)
    wait_for(command, "epoch 2/")
    kill(children_of(command))
    command.process.kill()
    command.wait()
    yield lambda: store.run("reap")


def _wrong_data(store: ToyStore) -> Iterator[Callable[[], object]]:
    path = store.files.folder / "t10k-labels-idx1-ubyte"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    yield lambda: path.write_bytes(content)  # toy images can be fetched from nowhere


def _taken_port(store: ToyStore) -> Iterator[Callable[[], object]]:
    with socket.socket() as program:
        program.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        program.bind(("127.0.0.1", 5001))
        program.listen()
        yield program.close


def _moved(store: ToyStore) -> Iterator[Callable[[], object]]:
    ended = store.run(*TRAIN, "--epochs", "1")
    assert ended.code == 0, ended.output
    store.folder = store.folder.rename(store.folder.with_name(f"{store.folder.name}-moved"))
    store.database = store.folder / store.database.name
    store.uri = f"sqlite:///{store.database}"
    yield lambda: store.run("relocate")


def _package(name: str, wants: str = "") -> Fault:
    """Return the fault of another version of a package, which comes first on Python's path."""

    def inject(store: ToyStore) -> Iterator[Callable[[], object]]:
        about = store.folder / _PACKAGES / f"{name}-0.1.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n{wants}")
        # The cure that is named, `pip install`, would change the environment that measures.
        yield lambda: shutil.rmtree(store.folder / _PACKAGES)

    return inject


def _full_disk(store: ToyStore) -> Iterator[Callable[[], object]]:
    with small_disk(store.folder / "disk", "200m") as folder:
        shutil.copy(store.database, folder)
        store.folder, store.database = folder, folder / store.database.name
        store.uri = f"sqlite:///{store.database}"
        ballast = folder / "ballast"
        fill(ballast)
        yield ballast.unlink


FAULTS: dict[str, tuple[str, Fault]] = {
    "former store": ("a leftover of MLflow's store of files", _former_store),
    "runs": ("a run whose process was killed", _orphan),
    "data": ("a damaged file of the data", _wrong_data),
    "artifacts": ("a store whose folder was moved", _moved),
    "packages": ("a package of another version", _package("tqdm")),
    "torch": ("torch without its torchvision", _package("torchvision", "Requires-Dist: torch (==0.1)\n")),
    "disk": ("a full disk", _full_disk),
    "port 5001": ("a taken port", _taken_port),
}
