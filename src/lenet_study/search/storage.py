"""Optuna's storage of a search: made once, opened by one process of a computer at a time."""

from __future__ import annotations

import hashlib
import os
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import optuna
from filelock import FileLock, Timeout
from optuna.samplers import RandomSampler
from optuna.storages import RDBStorage
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from lenet_study.errors import UserError, one_line
from lenet_study.search import attributes
from lenet_study.search.sampling import Settings, quiet
from lenet_study.search.trials import TrialStore, reason_of
from lenet_study.tracking.store import redact
from lenet_study.tracking.store_examination import damage

_CURE = "bring it back from a backup, or name another storage"


@contextmanager
def open_trial_store(settings: Settings, fingerprint: Mapping[str, object]) -> Iterator[TrialStore]:
    """Make a search, or go on with it; its fingerprint must be the same each time.

    Raises:
        UserError: The storage cannot be used, the search is running, or the name is another search's.
        StoreError: The storage failed later.
    """
    address, name = settings.config.storage, settings.config.search_name
    url, redacted = _parse(address), redact(address)
    with ExitStack() as stack:
        with _storage_errors(redacted):
            # Held until the search ends: two processes would take each other's trials for orphans.
            try:
                stack.enter_context(FileLock(_lock_of(url, name), timeout=0))
            except Timeout as error:
                raise UserError(
                    f"search_name={name} is being searched by another process on this computer: wait for it, "
                    "or choose another name"
                ) from error
            with _alone(url):
                _check_file(_file(url), redacted)
                storage = RDBStorage(address)
                study = _open_study(storage, settings, fingerprint)
        store = TrialStore(study, storage, redacted, settings, shared=not _file(url))
        with store.guarded():
            yield store


def _parse(address: str) -> URL:
    """Check an address as far as that goes without opening it."""
    try:
        url = make_url(address)
    except (ArgumentError, ValueError):  # the address is not repeated: it may hold a password
        raise UserError(
            "storage is no address of a database: write sqlite:///optuna.db, or postgresql://user@host/name"
        ) from None
    redacted, database = redact(address), _file(url)
    try:
        url.get_dialect()().create_connect_args(url)
    except (ArgumentError, ValueError) as error:  # such as ?timeout=abc
        raise UserError(f"storage={redacted} cannot be used ({error}): check the address") from error
    if database and url.database in (None, "", ":memory:"):
        raise UserError(f"storage={redacted} would be lost with this process: write sqlite:///optuna.db")
    if database and not database.parent.is_dir():
        raise UserError(f"storage={redacted} is in no existing folder: make it first")
    if database and os.path.lexists(database) and not database.is_file():
        raise UserError(f"storage={redacted} is no file: name another")
    return url


def _check_file(database: Path | None, redacted: str) -> None:
    """Refuse a file that SQLite finds damaged."""
    if database and database.is_file() and (problem := damage(database)):
        raise UserError(f"storage={redacted} is damaged ({problem}): {_CURE}")


def _open_study(storage: RDBStorage, settings: Settings, fingerprint: Mapping[str, object]) -> optuna.Study:
    """Make Optuna's study or open it; every step can be done again after a kill."""
    search_name = settings.config.search_name
    study = optuna.create_study(
        study_name=search_name,
        storage=storage,
        sampler=RandomSampler(),  # gives numbers to trials; their params come from studies in memory
        directions=settings.directions,
        load_if_exists=True,
    )
    with quiet():  # the names are for Optuna's own pages and tables
        study.set_metric_names(list(attributes.OBJECTIVES[: len(settings.directions)]))
    defaults = {attributes.SEARCH_ID: uuid.uuid4().hex, attributes.FINGERPRINT: dict(fingerprint)}
    for name, value in defaults.items():
        if name not in study.user_attrs:
            study.set_user_attr(name, value)
    study.get_trials(deepcopy=False)  # a damaged one is found now
    stored = study.user_attrs[attributes.FINGERPRINT]
    differing = [key for key in fingerprint if stored.get(key) != fingerprint[key]]
    if differing:
        was = ", ".join(f"{key}={stored.get(key)}" for key in differing)
        raise UserError(
            f"search_name={search_name} was begun with {was}: go on with that, or choose another search_name"
        )
    # Queued first, in this order; those that an earlier process has queued are not queued again.
    for variant, point in settings.space.variant_points().items():
        study.enqueue_trial(dict(point), user_attrs={attributes.VARIANT: variant}, skip_if_exists=True)
    for point in settings.space.warm_start_points():
        study.enqueue_trial(dict(point), skip_if_exists=True)
    return study


def _lock_of(url: URL, name: str) -> Path:
    """Return the file whose lock a process holds while it works on a search."""
    if database := _file(url):
        return database.with_suffix(f".{name}.lock")
    # A server's database has no folder here. Users do not share locks: one could not open another's file.
    server = url.set(password=None, query={}).render_as_string()
    key = hashlib.sha256(f"{server} {name} {os.getuid()}".encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir(), f"lenet-study-{key}.lock")


@contextmanager
def _alone(url: URL) -> Iterator[None]:
    """Let one process at a time make tables and searches.

    Several that open a fresh SQLite database at once break it for good, and two that make the same search
    would both queue its first trials.
    """
    if database := _file(url):
        with FileLock(f"{database}.lock"):
            yield
    elif url.get_backend_name() == "postgresql":
        engine = create_engine(url, poolclass=NullPool)
        with engine.connect() as connection:  # PostgreSQL gives the lock back when it is closed
            connection.execute(text("SELECT pg_advisory_lock(hashtext('lenet-study'))"))
            yield
    else:
        yield


def _file(url: URL) -> Path | None:
    """Return the file of a SQLite database; None for a database of a server, which computers can share."""
    return Path(str(url.database)).resolve() if url.get_backend_name() == "sqlite" else None


@contextmanager
def _storage_errors(redacted: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # MLflow and Optuna call the table of their versions the same
        raise UserError(
            f"storage={redacted} is no database of Optuna {optuna.__version__}, and it cannot share one with "
            "MLflow: name one of its own"
        ) from error
    except (ValueError, LookupError, TypeError) as error:  # a value is not of its kind, or not JSON
        raise UserError(f"storage={redacted} is damaged ({one_line(error, 200)}): {_CURE}") from error
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError, ImportError, OSError) as error:
        message = f"storage={redacted} cannot be used ({reason_of(error)}): check the address"
        raise UserError(message) from error
