"""Things that are wrong with a store or its surroundings: `doctor` finds each, and its cure mends it."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bench.reliability.kills import TRAIN, kill
from bench.reliability.row import Row
from bench.reliability.stores import Ended, ToyStore, ToyStores, children_of, wait_for

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
                before = store.run("doctor", "--json", "true")
                cure()
                after = store.run("doctor", "--json", "true")
            found = [] if _state(before, check) != "ok" else ["not found"]
            mended = [] if _state(after, check) == "ok" else ["not mended"]
            row.count(found + mended, before.seconds, before.output + after.output)
        rows.append(row)
    return rows


def _state(ended: Ended, check: str) -> str:
    """Return the state of one check; "none" where `doctor` did not come to it."""
    findings, _ = json.JSONDecoder().raw_decode(ended.output[ended.output.index("[") :])
    return next((finding["state"] for finding in findings if finding["name"] == check), "none")


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


FAULTS: dict[str, tuple[str, Fault]] = {
    "former store": ("a leftover of MLflow's store of files", _former_store),
    "runs": ("a run whose process was killed", _orphan),
    "data": ("a damaged file of the data", _wrong_data),
    "port 5001": ("a taken port", _taken_port),
}
