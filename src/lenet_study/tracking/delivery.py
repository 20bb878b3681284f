"""Carrying a spool's operations to the store, in order, while the work goes on.

Only what may pass is tried again: a server that is away or fails, a database that another program has locked.
The store's refusal does not pass: that operation is dropped, and the run is FAILED.
"""

from __future__ import annotations

import errno
import threading
import time
from contextlib import suppress
from pathlib import Path

import mlflow
import requests
from mlflow import entities
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from lenet_study.errors import StoreError
from lenet_study.tracking.disk import full_folder, no_room
from lenet_study.tracking.operations import INDEPENDENT, DeliveredModel, carry_out
from lenet_study.tracking.schema import Tag
from lenet_study.tracking.spool import Spool
from lenet_study.tracking.store import failure_sentence

AT_ONCE = 16  # operations that go together at most
LONGEST_WAIT = 30.0  # seconds between two tries
_CURABLE = (401, 403, 408, 429)  # of HTTP: a password or a quota can be seen to
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
# Of SQLite and PostgreSQL. MLflow looks for a row, such as a dataset's, before it adds one; another run was
# faster; the second time it finds that row.
_RACES = ("UNIQUE constraint failed", "duplicate key value violates unique constraint")


def may_pass(error: Exception) -> bool:
    """Whether a failure of the store may be over later."""
    if full_folder(error):
        return True
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return error.response.status_code >= 500 or error.response.status_code in _CURABLE
    if isinstance(error, MlflowException):
        status = error.get_http_status_code()
        return bool(status >= 500 or status in _CURABLE or any(race in str(error) for race in _RACES))
    if isinstance(error, OSError):
        return error.errno not in _FORBIDDEN
    return isinstance(error, SQLAlchemyError)


class Delivery:
    """Delivers the operations of one run.

    Args:
        spool: Where they are.
        first_wait: Seconds before the second try; each further wait is twice as long.

    Attributes:
        model: The model that was delivered, if one was.
        refusal: Why the store has refused an operation; empty if it has not.
        outage: Why the store does not answer; empty if it does.
        full: The folder of the store that has no room, if it has none; its operations are kept.
    """

    def __init__(self, spool: Spool, first_wait: float = 1.0) -> None:
        self.spool = spool
        self.model: DeliveredModel | None = None
        self.refusal = ""
        self.outage = ""
        self.full: Path | None = None
        self._first_wait = first_wait
        self._at_once = AT_ONCE
        self._wake = threading.Event()  # an operation was added, or the last one has been
        self._ending = threading.Event()
        self._progress = self._waiting_since = 0.0
        self._thread = threading.Thread(target=self._work, name="delivery", daemon=True)

    def deliver_next(self) -> bool:
        """Deliver the next operation, and those that may go with it; return whether there was one.

        Raises:
            Exception: What the store failed with, if that may pass.
        """
        operations = self.spool.leading(INDEPENDENT, self._at_once)
        if not operations:
            return False
        try:
            self.model = carry_out(self.run_id, operations, refused=bool(self.refusal)) or self.model
        except Exception as error:
            if may_pass(error):
                raise
            if len(operations) > 1:  # one by one from now on, to find which
                self._at_once = 1
                return True
            self._refuse(error)
        for operation in operations:
            self.spool.remove(operation)
        return True

    @property
    def run_id(self) -> str:
        """The run."""
        return self.spool.about["run_id"]

    def start(self) -> None:
        """Deliver from now on, in a thread that never gives up."""
        self._thread.start()

    def notify(self) -> None:
        """Say that there is a new operation.

        Raises:
            StoreError: The store has refused one.
        """
        self._wake.set()
        self.check()

    def check(self) -> None:
        """Raise what the store has refused, or has no room for.

        Raises:
            StoreError: The store has refused an operation.
            DiskError: The store's disk is full.
        """
        if self.full:
            raise no_room(self.full)
        if self.refusal:
            raise StoreError(self.refusal)

    def wait(self, silence: float, total: float = float("inf")) -> bool:
        """Wait for the delivery of all that was added; return whether it is done.

        Args:
            silence: Seconds of an outage after which to give up; a slow store is waited for.
            total: Seconds after which to give up at any rate.
        """
        now = time.monotonic()
        self._waiting_since = self._waiting_since or now
        while len(self.spool):
            silent = time.monotonic() - max(self._progress, self._waiting_since)
            if (self.outage and silent > silence) or time.monotonic() > now + total:
                return False
            time.sleep(0.02)
        return True

    def finish(self, silence: float, total: float) -> None:
        """Wait as ``wait`` does; the thread ends when all is delivered, and lives as long as the process."""
        self._ending.set()
        self._wake.set()
        if self.wait(silence, total):
            self._thread.join()

    def _work(self) -> None:
        wait = self._first_wait
        while True:
            self._wake.clear()
            ending = self._ending.is_set()
            try:
                if self.deliver_next():
                    self._progress, wait = time.monotonic(), self._first_wait
                    self.outage, self.full = "", None
                elif ending:
                    break
                else:
                    self._wake.wait()
            except Exception as error:
                self.outage, self.full = failure_sentence(error), full_folder(error)
                if ending:
                    time.sleep(wait)
                elif self._ending.wait(wait):
                    wait = self._first_wait  # the run's end has made room, or has not long to wait
                    continue
                wait = min(2 * wait, LONGEST_WAIT)
        self.spool.close()

    def _refuse(self, error: Exception) -> None:
        """Write down, if possible, why a run cannot be FINISHED."""
        self.refusal = str(error) if isinstance(error, StoreError) else failure_sentence(error)
        reasons = {Tag.FAILURE_KIND: type(error).__name__, Tag.FAILURE_REASON: self.refusal[:5000]}
        with suppress(Exception):  # the run itself may be deleted
            tags = [entities.RunTag(*row) for row in reasons.items()]
            mlflow.MlflowClient().log_batch(self.run_id, tags=tags)
