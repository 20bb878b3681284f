"""The store of MLflow: opening it, its failures as sentences, experiments, and runs found by their tags."""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import sqlite3
import stat
import tempfile
import threading
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, TypeAlias

import mlflow
import requests
from filelock import BaseFileLock, FileLock, Timeout
from mlflow.entities import Experiment, LifecycleStage
from mlflow.entities import Run as MLflowRun
from mlflow.exceptions import MlflowException
from mlflow.store.db.db_types import DATABASE_ENGINES
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from lenet_study.errors import StoreError, StudyError, UserError, one_line
from lenet_study.tracking.disk import (
    database_file,
    full_folder,
    local_database,
    no_room,
    sqlite_file,
    store_folder,
)
from lenet_study.tracking.half_made import is_half_made
from lenet_study.tracking.liveness import is_abandoned
from lenet_study.tracking.relocation import moved_from
from lenet_study.tracking.schema import Tag

NAME = "fashion-mnist-lenet"  # of the experiment and of the registered model
StoredRun: TypeAlias = MLflowRun
HEALTH_TIMEOUT = 10.0  # seconds
OPENING_PATIENCE = 60.0  # seconds; making the tables takes some, and the next process waits for it
CHAMPION_PATIENCE = 120.0  # seconds; through a slow server, a promotion takes some
_EXPERIMENT_TAGS = {Tag.EXPERIMENT_KIND: "custom_model_development"}  # pages for models, not prompts
ABOUT = "LeNet-5 variants on Fashion-MNIST: each is its parent plus one change."
_LOG_LEVELS = {
    "mlflow": "WARNING",
    "alembic": "WARNING",
    "mlflow.pytorch": "ERROR",  # to which the TorchScript asked for is pickle
    "mlflow.store.db.utils": "CRITICAL",  # its tracebacks are of failures that the project reports
}
NO_SUCH_THING = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # MLflow's codes for a wrong name
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def connect(timeout: float = HEALTH_TIMEOUT, patience: float = OPENING_PATIENCE) -> None:
    """Make sure that the store answers, and that its tables exist.

    Args:
        timeout: Seconds for a server to answer, and for a SQLite file that another program has locked.
        patience: Seconds for the processes that open the same SQLite file first.

    Raises:
        StoreError: The server or its store cannot be reached.
        UserError: MLFLOW_TRACKING_URI names no store.
    """
    for name, level in _LOG_LEVELS.items():
        logging.getLogger(name).setLevel(level)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # the project prints its own
    # MLflow repeats a request whose answer is late, and makes a run or version twice; what a run writes is
    # repeated by its delivery, which looks first at what is there.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    # PostgreSQL's own patience with a host that drops what is sent to it is two minutes.
    os.environ.setdefault("PGCONNECT_TIMEOUT", str(max(2, round(timeout))))
    uri = mlflow.get_tracking_uri().rstrip("/")
    try:
        parts = urllib.parse.urlsplit(uri)
        if parts.scheme in ("http", "https"):
            if not parts.hostname or parts.port == 0:
                raise ValueError("it has no host or no port")
            _ask_server(uri, timeout)
        elif database := database_file(uri):
            _open_file(uri, database, timeout, patience)
        elif parts.scheme.partition("+")[0] in DATABASE_ENGINES:
            _open_database(uri)
        else:
            mlflow.MlflowClient().search_experiments(max_results=1)
    except ImportError as error:
        raise UserError(f"MLFLOW_TRACKING_URI={redact(uri)} needs a package: {one_line(error)}") from error
    except (ValueError, ArgumentError, MlflowException) as error:
        raise UserError(
            f"MLFLOW_TRACKING_URI={redact(uri)} names no store ({one_line(error)}): "
            "write sqlite:///mlflow.db or http://HOST:PORT, or unset it"
        ) from error


def _ask_server(uri: str, timeout: float) -> None:
    """Ask the server's health first: MLflow itself would try for minutes to reach one that is away."""
    try:
        with suppress(requests.exceptions.SSLError):  # it answers; MLflow knows its certificate,
            answer = requests.get(f"{uri}/health", timeout=timeout)
            if answer.status_code not in (401, 403):  # and the password or token that it wants
                answer.raise_for_status()
    except requests.exceptions.InvalidURL:
        raise  # a ValueError
    except requests.RequestException as error:
        raise StoreError(
            f"The MLflow server at {redact(uri)} does not answer ({type(error).__name__}): "
            "start it (`make server`), or unset MLFLOW_TRACKING_URI to use ./mlflow.db"
        ) from error


def _open_file(uri: str, database: Path, timeout: float, patience: float) -> None:
    """Open a SQLite store under a lock: several processes that open a fresh one at once break it for good."""
    if not database.parent.is_dir():
        raise UserError(f"MLFLOW_TRACKING_URI={uri} is in no existing folder: make it first")
    if folder := next((folder for folder in (Path.cwd(), database.parent) if "%" in str(folder)), None):
        raise UserError(  # MLflow would put the artifacts of /a%20b into /a b
            f"The folder {folder} has a percent sign in its name, which MLflow cannot keep runs in: rename it"
        )
    try:
        usable = stat.S_ISREG(database.stat().st_mode)
    except FileNotFoundError:  # there is none yet, unless another process makes it now; or a broken link
        usable = not database.is_symlink()
    except OSError:  # such as a name that is too long
        usable = False
    if not usable:
        raise UserError(f"MLFLOW_TRACKING_URI={uri} is no file: name another")
    if not os.access(database.parent, os.W_OK):
        raise UserError(
            f"The folder {database.parent} of the store {database.name} cannot be written to: "
            "work in another folder, or set MLFLOW_TRACKING_URI"
        )
    _wait_for_lock(uri, database, timeout)
    if root := moved_from(database):
        raise UserError(
            f"The store {database} was moved here from {root}, where MLflow would look for its files: "
            "`lenet-study relocate` repairs its addresses"
        )
    try:
        with FileLock(f"{database}.lock", timeout=patience), uninterrupted():  # held back for the call alone
            _open_database(uri)
    except Timeout as error:
        raise StoreError(
            f"Another process has opened {database} for {patience:.0f} s and holds {database}.lock: end it"
        ) from error
    except StoreError as error:
        if is_half_made(database):
            raise StoreError(f"{database} was cut off while made: `lenet-study doctor` mends it") from error
        raise


def _wait_for_lock(uri: str, database: Path, timeout: float) -> None:
    """Refuse a file that another program keeps locked: MLflow would wait 20 s at each of many calls."""
    try:
        with sqlite_file(database, "ro", timeout) as connection:
            connection.execute("SELECT 1 FROM sqlite_master")
    except sqlite3.DatabaseError as error:  # no file yet, or no database: its opening says so
        if "locked" in str(error):
            raise StoreError(f"MLflow's store {uri} is locked: see which program uses it") from error


def _open_database(uri: str) -> None:
    """Open a database that answers and is not another program's.

    MLflow itself would try for two minutes to reach one, and write its tables beside any others.

    Raises:
        StoreError: A server of databases does not answer.
        UserError: The file is no database, or the database is another program's.
    """
    try:
        tables = inspect(create_engine(uri, poolclass=NullPool)).get_table_names()
    except DBAPIError as error:
        if "locked" not in str(error):  # MLflow waits for a lock
            message = f"MLFLOW_TRACKING_URI={redact(uri)} cannot be opened ({one_line(error.orig)}): "
            if uri.startswith("sqlite"):
                raise UserError(f"{message}name another file") from error
            raise StoreError(f"{message}start the database, or check the address") from error
        tables = []
    if tables and "experiments" not in tables:
        raise UserError(
            f"MLFLOW_TRACKING_URI={redact(uri)} is another program's database: name one of MLflow's own"
        )
    with store_errors():
        mlflow.MlflowClient().search_experiments(max_results=1)


@contextmanager
def store_errors() -> Iterator[None]:
    """Turn a failure of MLflow's server or store into one sentence, a StoreError; of a disk, a DiskError."""
    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError, RuntimeError) as error:
        if folder := full_folder(error):
            raise no_room(folder) from error
        if isinstance(error, MlflowException | SQLAlchemyError):
            raise StoreError(failure_sentence(error)) from error
        raise


def failure_sentence(error: Exception) -> str:
    """Return a failure of MLflow's server or store in words, with the cure if there is one."""
    uri = mlflow.get_tracking_uri()
    message = one_line(error, 5000).replace(uri, redact(uri))
    if folder := full_folder(error):
        return f"The disk of {folder} is full: make room there"
    if "error code 401" in message:
        return (
            f"MLflow at {redact(uri)} refuses this user and password: set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD (the server's docker/secrets/client.sh does)"
        )
    if "database is locked" in message:
        return f"MLflow's store {redact(uri)} is locked by another program"
    if "Connection refused" in message or "timed out" in message:
        return f"MLflow at {redact(uri)} does not answer"
    return f"MLflow at {redact(uri)} failed: {message[:500]}"


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold signals back until a call of a SQLite store has ended.

    An exception that a signal's handler raises within SQLAlchemy leaves the database locked: what was to be
    written because of the signal, such as the run's end, would wait for that lock in vain.
    """
    with signals_held() if mlflow.get_tracking_uri().startswith("sqlite") else nullcontext():
        yield


@contextmanager
def signals_held() -> Iterator[None]:
    """Hold signals back until the end of what must not be cut off."""
    held: dict[signal.Signals, Any] = {}
    received: list[int] = []
    if threading.current_thread() is threading.main_thread():  # where handlers are called
        held = {number: signal.getsignal(number) for number in _SIGNALS if callable(signal.getsignal(number))}
    for number in held:
        signal.signal(number, lambda number, frame: received.append(number))
    try:
        yield
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)
        for first in received[:1]:
            signal.raise_signal(first)


@contextmanager
def store_call() -> Iterator[None]:
    """Make calls of the store: uninterrupted, and a failure becomes one sentence, a StoreError."""
    with store_errors(), uninterrupted():
        yield


@contextmanager
def missing_ignored() -> Iterator[None]:
    """Go on after calls about a thing that the store does not have, such as a deleted version."""
    try:
        yield
    except MlflowException as error:
        if error.error_code not in NO_SUCH_THING:
            raise


def redact(uri: str) -> str:
    """Return the address without the user's name and passwords.

    >>> redact("postgresql://me:secret@host/name?password=secret&timeout=3")
    'postgresql://host/name?timeout=3'
    """
    try:
        parts = urllib.parse.urlsplit(uri)
    except ValueError:  # such as half an IPv6 address
        return uri.rpartition("@")[2]
    query = [item for item in parts.query.split("&") if "password" not in item.partition("=")[0].lower()]
    public = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="&".join(query))
    return uri if public == parts else public.geturl()


def prepare_experiment(surrounding: str, adopted: str) -> str:
    """Return the id of the experiment that the next run belongs to, and give it MLflow's pages for models.

    Either argument may be empty: ``surrounding`` is the id of a run in whose experiment the next one belongs,
    ``adopted`` that of the run that `mlflow run` has made for this process.
    """
    client = mlflow.MlflowClient()
    if surrounding:  # open in this process, or in the one that started it
        return str(client.get_run(surrounding).info.experiment_id)
    if adopted:
        experiment = client.get_experiment(client.get_run(adopted).info.experiment_id)
    elif experiment_id := os.environ.get("MLFLOW_EXPERIMENT_ID"):
        with _named_by("MLFLOW_EXPERIMENT_ID"):
            experiment = client.get_experiment(experiment_id)
    else:
        with _named_by("MLFLOW_EXPERIMENT_NAME"):
            experiment = _experiment_named(os.environ.get("MLFLOW_EXPERIMENT_NAME") or NAME)
    for key, value in (
        _EXPERIMENT_TAGS | ({Tag.DESCRIPTION: ABOUT} if experiment.name == NAME else {})
    ).items():
        if key not in experiment.tags:
            with suppress(MlflowException):  # another process has set it since
                client.set_experiment_tag(experiment.experiment_id, key, value)
    return str(experiment.experiment_id)


@contextmanager
def _named_by(variable: str) -> Iterator[None]:
    """Refuse a variable that names no experiment of this store."""
    try:
        yield
    except MlflowException as error:
        if error.error_code not in NO_SUCH_THING and not isinstance(error.__cause__, OverflowError):
            raise
        value = os.environ.get(variable, "")
        raise UserError(f"{variable}={value} names no experiment ({one_line(error)}): unset it") from error


def _experiment_named(name: str) -> Experiment:
    """Return an experiment, made if need be.

    ``mlflow.set_experiment`` would leave its id in the environment, where a process that goes on to another
    store, and all its children, would take it for that store's.
    """
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            client.create_experiment(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process has made it since
                raise
        experiment = client.get_experiment_by_name(name)
    if experiment.lifecycle_stage != LifecycleStage.ACTIVE:
        raise UserError(
            f"The experiment {name!r} is deleted: restore it with"
            f" `mlflow experiments restore -x {experiment.experiment_id}`, or name another"
            " in MLFLOW_EXPERIMENT_NAME"
        )
    return experiment


def checkpoint_folder(run_id: str, root: str = "") -> Path:
    """Return the folder of a run's checkpoints in ``root``; if empty, beside a local store, else here."""
    return (Path(root) if root else store_folder() / "checkpoints") / run_id


def spool_folder() -> Path:
    """Return the folder of all runs' spools, beside a local store, else here."""
    return (store_folder() / "spool").absolute()


def store_address() -> str:
    """Return the address of the store, without passwords: whose a spool is."""
    uri = mlflow.get_tracking_uri()
    database = database_file(uri)
    return f"sqlite:///{database.resolve()}" if database else redact(uri.rstrip("/"))


def local_store() -> Path:
    """Return the file of the present store in SQLite, which must exist.

    Raises:
        UserError: It is another store, or there is none.
    """
    uri = mlflow.get_tracking_uri()
    try:
        database = local_database()
    except ValueError as error:
        raise UserError(f"MLFLOW_TRACKING_URI={redact(uri)} names no store ({one_line(error)})") from error
    if not database:
        raise UserError(
            f"MLFLOW_TRACKING_URI={redact(uri)} is no SQLite file: unset it, or name one; the volumes of a "
            "team's server have `make server-backup` and `make server-restore`"
        )
    if not database.is_file():
        raise UserError(f"MLFLOW_TRACKING_URI={uri}: there is no file {database}: name the store's")
    return database


@contextmanager
def claim_lock() -> Iterator[BaseFileLock]:
    """Hold the lock under which a process looks whether work is done already, and opens a run for it.

    The lock lies beside a local store; for a server it is this host's alone.
    """
    with FileLock(_lock_file("claims")) as lock:
        yield lock


@contextmanager
def champion_lock(patience: float = CHAMPION_PATIENCE) -> Iterator[None]:
    """Hold the lock under which the champion is changed.

    The lock lies beside a local store, or in PostgreSQL; for a server it is this host's alone.

    Raises:
        StoreError: Another process has held it for so many seconds, or the store failed.
    """
    try:
        with FileLock(_lock_file("champion"), timeout=patience), _advisory_lock(patience):
            yield
    except Timeout as error:
        raise StoreError(
            f"Another process has been changing the champion for {patience:.0f} s: wait for it, or end it"
        ) from error


def _lock_file(purpose: str) -> Path:
    if database := local_database():
        return Path(f"{database}.{purpose}")
    digest = hashlib.sha256(mlflow.get_tracking_uri().encode()).hexdigest()
    return Path(tempfile.gettempdir(), f"lenet-study-{os.getuid()}-{digest[:16]}.{purpose}")


@contextmanager
def _advisory_lock(patience: float) -> Iterator[None]:
    """Hold a lock of PostgreSQL, which is dropped with the connection of a process that dies."""
    uri = mlflow.get_tracking_uri()
    if not uri.startswith("postgres"):
        yield
        return
    engine = create_engine(uri, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with store_errors(), engine.connect() as database:
        database.execute(text(f"SET lock_timeout = {round(1000 * patience)}"))
        database.execute(text("SELECT pg_advisory_lock(hashtext(:name))"), {"name": NAME})
        yield


def runs_with(tags: Mapping[str, str]) -> list[StoredRun]:
    """Return the runs with these tags in any experiment, whatever their status."""
    return find_runs([f"tags.`{name}` = '{value}'" for name, value in tags.items()])


def find_runs(
    conditions: Sequence[str], limit: int = 1_000_000, order_by: Sequence[str] = ()
) -> list[StoredRun]:
    """Return the runs of any experiment that meet all conditions."""
    with store_call():
        return mlflow.search_runs(
            filter_string=" and ".join(conditions),
            max_results=limit,
            order_by=[*order_by],
            output_format="list",
            search_all_experiments=True,
        )


def set_tag(run_id: str, tag: str, value: str) -> None:
    """Set a tag of a run that need not be open."""
    with store_call():
        mlflow.MlflowClient().set_tag(run_id, tag, value)


def fail(run_id: str, reason: str, status: str = "FAILED") -> None:
    """End a run whose process died; one that has ended stays as it is."""
    with store_call():
        client = mlflow.MlflowClient()
        if client.get_run(run_id).info.status == "RUNNING":
            client.set_tag(run_id, Tag.FAILURE_REASON, reason)
            client.set_terminated(run_id, status)


def adopted_run(fingerprint: str = "") -> StoredRun | None:
    """Return the run that MLFLOW_RUN_ID names for this process, if it names one.

    Either a run that `mlflow run` has made, or an interrupted one of the same work, by its fingerprint.

    Raises:
        UserError: It names no run, or one that is neither.
    """
    if not (run_id := os.environ.get("MLFLOW_RUN_ID", "")):
        return None
    try:
        run = mlflow.MlflowClient().get_run(run_id)
    except MlflowException as error:
        raise UserError(f"MLFLOW_RUN_ID={run_id} names no run of this store: unset it") from error
    tags, status = run.data.tags, run.info.status
    is_new = Tag.STAGE not in tags and status == "RUNNING"
    ended = status in ("KILLED", "FAILED") or (status == "RUNNING" and is_abandoned(tags))
    if not is_new and not (ended and fingerprint and tags.get(Tag.FINGERPRINT) == fingerprint):
        raise UserError(
            f"MLFLOW_RUN_ID={run_id} names a run that has been used already, and is no interrupted one of "
            "this work: unset it, or let `resume` go on with that run, if it was interrupted"
        )
    return run


def record_refusal(command: str, reason: str) -> None:
    """Name the run that `mlflow run` has made after its command, and note there why that was refused."""
    with suppress(MlflowException, SQLAlchemyError, StudyError, OSError, ValueError):
        if (database := local_database()) and not database.is_file():
            return  # made by no `mlflow run`: connecting would make it
        connect()  # MLflow itself would try for minutes to reach a store that is not there
        if run := adopted_run():
            client = mlflow.MlflowClient()
            client.update_run(run.info.run_id, name=command)
            for tag in (Tag.DESCRIPTION, Tag.FAILURE_REASON):
                client.set_tag(run.info.run_id, tag, reason)
