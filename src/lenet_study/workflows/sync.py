"""``sync``: what runs have written while the store was away is delivered."""

from __future__ import annotations

from lenet_study.errors import StoreError
from lenet_study.execution.reporter import Reporter
from lenet_study.tracking.delivery import Delivery
from lenet_study.tracking.spool import Spool, about, left_behind
from lenet_study.tracking.store import connect, failure_sentence, spool_folder, store_address, uninterrupted


def sync(reporter: Reporter = Reporter()) -> None:
    """Deliver what processes of this host have left behind of this store's runs, and say so.

    Raises:
        StoreError: The store is away, and the rest is kept; or it has refused something.
    """
    connect()
    refusals = deliver_left_behind(reporter)
    if refusals is None:
        reporter.message("Nothing waits to be delivered.")
    elif refusals:
        raise StoreError("; ".join(refusals))


def deliver_left_behind(reporter: Reporter) -> list[str] | None:
    """Deliver, in order, what processes have left behind; return what was refused, None if nothing was left.

    Raises:
        StoreError: The store is away; what it does not have is kept.
    """
    ours = [folder for folder in left_behind(spool_folder()) if about(folder).get("store") == store_address()]
    refusals = []
    for folder in ours:
        try:
            delivery = Delivery(Spool.reopen(folder))
        except StoreError:
            reporter.message(f"Run {folder.name} is left to the process that works on it")
            continue
        except (OSError, ValueError):  # its process has just delivered the rest, and removed it
            continue
        _deliver(delivery, reporter)
        if delivery.refusal:
            refusals.append(f"Run {delivery.run_id} is FAILED: {delivery.refusal}")
    return refusals if ours else None


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
