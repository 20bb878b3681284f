"""``sync``: what runs have written while the store was away is delivered."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from lenet_study.errors import StoreError
from lenet_study.execution.reporter import Reporter
from lenet_study.tracking.delivery import Delivery
from lenet_study.tracking.spool import Spool, about, left_behind
from lenet_study.tracking.store import connect, failure_sentence, spool_folder, store_address, uninterrupted


@dataclass
class LeftBehind:
    """The runs of this store of which a process of this host had left anything undelivered.

    Attributes:
        runs: Ids of the runs of which anything waits.
        alive: Those of them that are left to the processes that work on them.
        refusals: What the store has refused of the others, in words.
    """

    runs: list[str] = field(default_factory=list)
    alive: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)


def sync(reporter: Reporter = Reporter()) -> None:
    """Deliver what processes of this host have left behind of this store's runs, and say so.

    Raises:
        StoreError: The store is away, and the rest is kept; or it has refused something.
    """
    connect()
    left = deliver_left_behind(reporter)
    if not left.runs:
        reporter.message("Nothing waits to be delivered.")
    for run_id in left.alive:
        reporter.message(f"Run {run_id} is left to the process that works on it")
    if left.refusals:
        raise StoreError("; ".join(left.refusals))


def deliver_left_behind(reporter: Reporter) -> LeftBehind:
    """Deliver, in order, what processes have left behind, and say so.

    Raises:
        StoreError: The store is away; what it does not have is kept.
    """
    left = LeftBehind()
    for folder in spools_of_this_store():
        left.runs.append(folder.name)
        try:
            delivery = Delivery(Spool.reopen(folder))
        except StoreError:
            left.alive.append(folder.name)
            continue
        except (OSError, ValueError):  # its process has just delivered the rest, and removed it
            continue
        _deliver(delivery, reporter)
        if delivery.refusal:
            left.refusals.append(f"Run {delivery.run_id} is FAILED: {delivery.refusal}")
    return left


def spools_of_this_store() -> list[Path]:
    """Return the folders of what processes of this host have not delivered to the present store."""
    return [path for path in left_behind(spool_folder()) if about(path).get("store") == store_address()]


def _deliver(delivery: Delivery, reporter: Reporter) -> None:
    spool, count = delivery.spool, 0
    try:
        while True:
            with uninterrupted():
                if not delivery.deliver_next():
                    break
            count += 1
    except Exception as error:
        raise StoreError(
            f"{failure_sentence(error)}: {len(spool)} operations of run {delivery.run_id} are kept for the "
            "next `sync`"
        ) from error
    finally:
        spool.close()
        if count:
            reporter.message(f"{spool.about['name']}: {count} operations of run {delivery.run_id} delivered")
