"""``relocate``: a local store whose folder was moved finds its files again."""

from __future__ import annotations

from lenet_study.execution.reporter import Reporter
from lenet_study.tracking import relocation
from lenet_study.tracking.store import connect, local_store


def relocate(reporter: Reporter = Reporter()) -> None:
    """Change the addresses of a moved store's artifacts to those of its present folder, and say how many.

    Raises:
        UserError: There is no local store, or a process works on one of its runs.
        StoreError: Another process holds the store.
        DiskError: There is no room for a copy of its database.
    """
    database = local_store()
    done = relocation.relocate(database)
    if not done.copy:
        reporter.message(f"The files of {database} are where it says: nothing to do.")
        return
    roots = ", ".join(map(str, done.roots))
    reporter.message(
        f"{done.addresses} addresses led to {roots}, and lead to {database.parent.resolve()} now; "
        f"the database as it was is {done.copy}"
    )
    connect()
