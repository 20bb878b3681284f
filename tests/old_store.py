"""The store that commit c940516 wrote, put elsewhere."""

import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path

MADE_IN = "/tmp/old-store/store"  # where it was written
PATHS = {  # the columns of mlflow.db that hold it; optuna.db has none
    "experiments": "artifact_location",
    "runs": "artifact_uri",
    "logged_models": "artifact_location",
    "model_versions": "storage_location",
}


def unpack(archive: Path, folder: Path) -> None:
    """Extract the store's mlflow.db, mlruns/ and optuna.db into a folder, and make its paths point there.

    Each model's MLmodel goes on naming the old folder: nothing reads that, and ``model.sha256`` covers it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as packed:
        packed.extractall(folder)
    new, old = str(folder.resolve()), MADE_IN
    with closing(sqlite3.connect(folder / "mlflow.db")) as database, database:
        for table, column in PATHS.items():
            database.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} LIKE ? || '/%'",
                (new, len(old) + 1, old),
            )
