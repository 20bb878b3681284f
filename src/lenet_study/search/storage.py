"""Where Optuna keeps a search: made once, opened by one process of a machine at a time."""

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
from optuna.storages import RDBStorage
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from lenet_study.errors import UserError
from lenet_study.search.sampling import Settings
from lenet_study.search.trials import Ledger
from lenet_study.tracking import run as tracking


@contextmanager
def open_ledger(
    address: str, name: str, settings: Settings, identity: Mapping[str, object]
) -> Iterator[Ledger]:
    """Make a search, or go on with it.

    Args:
        address: Optuna's storage, as SQLAlchemy spells it.
        name: Of the search.
        settings: How it draws and judges.
        identity: What must be the same each time for its trials to be comparable.

    Raises:
        UserError: The storage cannot be used, the search is running, or it is another search's name.
        StoreError: The storage failed later.
    """
    try:
        url = make_url(address)
    except (ArgumentError, ValueError):  # not repeated: it may hold a password
        raise UserError(
            "storage is no address of a database: write sqlite:///optuna.db, or postgresql://user@host/name"
        ) from None
    shown = tracking.redact(address)
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise UserError(f"storage={shown} would be lost with this process: write sqlite:///optuna.db")
    if _is_file(url) and not _file(url).parent.is_dir():
        raise UserError(f"storage={shown} is in no existing folder: make it first")
    with ExitStack() as held:
        with _storage_errors(shown):
            try:
                held.enter_context(FileLock(_lock_of(url, name), timeout=0))
            except Timeout as error:
                raise UserError(
                    f"study_name={name} is being searched by another process on this machine: wait for it, "
                    "or choose another name"
                ) from error
            with _alone(url):
                storage = RDBStorage(address)
                study = _study(storage, name, settings, identity)
        ledger = Ledger(study, storage, settings, address=shown, shared=not _is_file(url))
        with ledger.guarded():
            yield ledger


def _study(
    storage: RDBStorage, name: str, settings: Settings, identity: Mapping[str, object]
) -> optuna.Study:
    fresh = name not in optuna.get_all_study_names(storage)
    study = optuna.create_study(
        study_name=name,
        storage=storage,
        directions=settings.directions if fresh else None,
        load_if_exists=True,
    )
    if "id" not in study.user_attrs:
        study.set_user_attr("id", uuid.uuid4().hex)
    if "identity" not in study.user_attrs:
        study.set_user_attr("identity", dict(identity))
    known = study.user_attrs["identity"]
    differing = [key for key in identity if known.get(key) != identity[key]]
    if differing:
        was = ", ".join(f"{key}={known.get(key)}" for key in differing)
        raise UserError(
            f"study_name={name} was begun with {was}: go on with that, or choose another study_name"
        )
    for variant, place in settings.space.variants().items():
        study.enqueue_trial(dict(place), user_attrs={"variant": variant}, skip_if_exists=True)
    for place in settings.space.practices():
        study.enqueue_trial(dict(place), skip_if_exists=True)
    return study


def _lock_of(url: URL, name: str) -> Path:
    """What one process of this machine holds while it works on a search."""
    if _is_file(url):
        return _file(url).with_suffix(f".{name}.lock")
    place = url.set(password=None, query={}).render_as_string()
    key = hashlib.sha256(f"{place} {name} {os.getuid()}".encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir(), f"lenet-study-{key}.lock")


@contextmanager
def _alone(url: URL) -> Iterator[None]:
    """One process at a time makes tables and search: several at once break a fresh SQLite store for good."""
    if _is_file(url):
        with FileLock(f"{_file(url)}.lock"):
            yield
    elif url.get_backend_name() == "postgresql":
        engine = create_engine(url, poolclass=NullPool)
        with engine.connect() as connection:  # the lock lasts until it is closed
            connection.execute(text("SELECT pg_advisory_lock(hashtext('lenet-study'))"))
            yield
    else:
        yield


def _is_file(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def _file(url: URL) -> Path:
    return Path(str(url.database)).resolve()


@contextmanager
def _storage_errors(shown: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # MLflow and Optuna call the table of their versions the same
        raise UserError(
            f"storage={shown} is no database of Optuna {optuna.__version__}, and it cannot share one with "
            "MLflow: name one of its own"
        ) from error
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError, ImportError, OSError) as error:
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        raise UserError(f"storage={shown} cannot be used ({reason}): check the address") from error
