"""A part of a larger work that begins while the store is away waits for it."""

from __future__ import annotations

from time import sleep

from lenet_study.errors import StoreError
from lenet_study.execution import signals
from lenet_study.execution.reporter import Reporter
from lenet_study.tracking.delivery import LONGEST_WAIT
from lenet_study.tracking.store import claim_lock, connect
from lenet_study.workflows.sync import deliver_left_behind


def wait_for_store(reporter: Reporter, wait: float = 1.0) -> None:
    """Return once the store answers, and has what earlier parts have left behind: this one may read it.

    Args:
        reporter: Hears that the store is away.
        wait: Seconds before the second try; each further wait is twice as long.

    Raises:
        UserError: MLFLOW_TRACKING_URI names no store.
    """
    told = False
    while True:
        signals.check()
        try:
            connect()
            with claim_lock():  # one part delivers, the others wait for that
                deliver_left_behind(reporter)
            return
        except StoreError as error:
            if not told:
                reporter.message(f"A part of the work waits for the store: {error}")
            told = True
        sleep(wait)
        wait = min(2 * wait, LONGEST_WAIT)
