"""A store that is away, locked or slow: the training goes on, and nothing of it is lost or doubled."""

from __future__ import annotations

import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

from tests.proxy import Proxy
from tests.servers import free_port, serving

from bench.reliability.kills import TRAIN
from bench.reliability.row import Row
from bench.reliability.stores import LIMIT, Ended, ToyStore, ToyStores, end_of, wait_for

AWAY = 60.0  # seconds without a store
STARTING = 6.0  # of these, that a server takes to answer
DELAY = 2.0  # seconds added to each request
SLOWDOWN = 0.10  # share by which a training may be slower with a slow store
LONG = ("train", "--variant", "v4", "--epochs", "40", "--device", "cpu")  # seconds of epochs, to be compared
MIDDLE, LAST = "epoch 10/20", "epoch 20/20"  # of TRAIN


def outages(stores: ToyStores, tries: int) -> list[Row]:
    """Stop the server in mid-run, at the end, and until the command has ended; lock SQLite."""
    rows = []
    for fault, text, seconds in (
        (f"server down for {AWAY:.0f} s in mid-run of `train`", MIDDLE, AWAY),
        (f"server down for {AWAY:.0f} s after the last epoch of `train`", LAST, AWAY),
        ("server down from mid-run of `train` until the command has ended", MIDDLE, None),
    ):
        row = Row(f"{fault}, then `sync` (timed: the command, from the fault on)")
        for _ in range(tries):
            _stop_server(row, stores, text, seconds)
        rows.append(row)
    row = Row(f"SQLite locked for {AWAY:.0f} s in mid-run of `train`, then `sync` (timed: the same)")
    for _ in range(tries):
        _lock(row, stores)
    return [*rows, row]


def slow_stores(stores: ToyStores, tries: int) -> list[Row]:
    """Add two seconds to each request of a server, and compare the seconds from first to last epoch."""
    row = Row(f"{DELAY:.0f} s added to each request of `train` (timed from the first epoch to the last)")
    for _ in range(tries):
        store = _store_of_server(stores)
        proxy = Proxy(int(store.uri.rpartition(":")[2]))
        proxy.delay = DELAY
        with _server(store):
            usual, _ = _seconds_of_epochs(store)
            seconds, ended = _seconds_of_epochs(
                ToyStore(store.folder, stores.files, f"http://127.0.0.1:{proxy.port}")
            )
            first, second = store.content().runs["v4"]
        deviations = ended.deviations("the command")
        deviations += [] if first == second else ["another history, weights or status"]
        if seconds > (1 + SLOWDOWN) * usual:
            deviations.append(f"{seconds / usual - 1:.0%} slower")
        row.count(deviations, seconds, ended.output)
    return [row]


def _stop_server(row: Row, stores: ToyStores, text: str, seconds: float | None) -> None:
    """Stop the server once `train` has said something, for so many seconds; None: until its end."""
    store = _store_of_server(stores)
    with _server(store):
        command = store.start(*TRAIN)
        wait_for(command, text)
    start = time.monotonic()
    ended = end_of(command) if seconds is None else None
    while seconds and time.monotonic() < start + seconds - STARTING:
        time.sleep(0.1)
    with _server(store):
        ended = ended or end_of(command)
        _count(row, stores, store, ended, time.monotonic() - start if seconds else ended.seconds)


def _lock(row: Row, stores: ToyStores) -> None:
    """Lock a SQLite store in mid-run."""
    store = stores.new()
    command = store.start(*TRAIN)
    start = wait_for(command, MIDDLE)
    with closing(sqlite3.connect(store.database, timeout=LIMIT, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        time.sleep(AWAY)
        other.execute("ROLLBACK")
    ended = end_of(command)
    _count(row, stores, store, ended, time.monotonic() - start)


def _count(row: Row, stores: ToyStores, store: ToyStore, ended: Ended, seconds: float) -> None:
    """Deliver what the command could not, and compare the store with an uninterrupted one."""
    synchronised = store.run("sync")
    whole, _ = stores.uninterrupted(*TRAIN)
    content = store.content()
    steps = content.steps(whole)
    row.count_steps(steps.lost, steps.doubled)
    deviations = ended.deviations("the command") + synchronised.deviations("`sync`")
    row.count(deviations + content.deviations(whole), seconds, ended.output + synchronised.output)


def _store_of_server(stores: ToyStores) -> ToyStore:
    return stores.new(stores.fresh().folder, f"http://127.0.0.1:{free_port()}")


@contextmanager
def _server(store: ToyStore) -> Iterator[None]:
    """Serve a store; the server is stopped at the end."""
    port = store.uri.rpartition(":")[2]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", port]
    command += ["--backend-store-uri", f"sqlite:///{store.database}", "--workers", "1"]
    command += ["--artifacts-destination", str(store.folder / "artifacts")]
    with serving(command, f"{store.uri}/health", store.folder):
        yield


def _seconds_of_epochs(store: ToyStore) -> tuple[float, Ended]:
    """Train for some seconds; return how many lay between the first epoch's end and the last's."""
    command = store.start(*LONG)
    start = wait_for(command, "epoch 1/40")
    seconds = wait_for(command, "epoch 40/40") - start
    return seconds, end_of(command)
