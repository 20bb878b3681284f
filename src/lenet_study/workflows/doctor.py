"""``doctor``: a store that MLflow cannot open any more is mended, if it can be."""

from __future__ import annotations

from contextlib import suppress

from lenet_study.execution.reporter import Reporter
from lenet_study.tracking.disk import local_database
from lenet_study.tracking.half_made import is_half_made, set_aside
from lenet_study.tracking.store import connect, store_address


def doctor(reporter: Reporter = Reporter()) -> None:
    """Open the store; make one anew whose making was cut off, if it holds nothing.

    Raises:
        UserError: It holds something; or a process may still make it.
        StoreError: It cannot be opened for another reason.
    """
    with suppress(ValueError):  # an address that names no store, as `connect` says
        if (database := local_database()) and is_half_made(database):
            aside = set_aside(database)
            reporter.message(f"{database} was cut off while made, and held nothing: it is now {aside.name}")
    connect()
    reporter.message(f"The store {store_address()} answers.")
