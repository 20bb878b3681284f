"""Options of `docker run` for docker/MLproject, which MLflow's own command lacks; standard library alone.

MLflow hands its command to bash, so that MLproject can call this. MLflow itself mounts of a local store only
the database and the run's artifacts, so that models would be lost: here all of it, at the same path. Its
options would show what they pass on, passwords too, in logs and process lists: here by name alone.
"""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[1]
IMAGE = "lenet-study"
SAFE = ("--init", "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL", "--security-opt=no-new-privileges")
LOGIN = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


def options(environment: dict[str, str], root: Path, image_id: str, user: int) -> list[str]:
    """Return the options, the first of which is the value of a `--volume`."""
    uri = environment.get("MLFLOW_TRACKING_URI", "")
    if urlsplit(uri).username:
        sys.exit(
            "Error: MLFLOW_TRACKING_URI has a user in it, whom process lists would show: name user and "
            "password in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
        )
    common = [data_volume(environment, root), *SAFE, "--env", f"LENET_STUDY_IMAGE={image_id}"]
    if uri.startswith("sqlite:///"):
        database = root / uri.removeprefix("sqlite:///")
        return common + local_store(database, environment.get("MLFLOW_RUN_ID", ""), user)
    if urlsplit(uri).hostname in ("127.0.0.1", "localhost", "::1"):
        common += ["--network", "host"]
    for name in LOGIN:
        if environment.get(name):
            common += ["--env", name]
    # A search keeps its trials there; the project's recipe files are where they are for the host.
    common += ["--workdir=/searches", "--volume=lenet-study-searches:/searches"]
    return [*common, f"--volume={root}/docs:/searches/docs:ro"]


def data_volume(environment: dict[str, str], root: Path) -> str:
    """Return this machine's data folder, not to be written to, else a volume to fetch the data into."""
    folder = root / (environment.get("LENET_STUDY_DATA") or "data")
    return f"{folder.resolve()}:/data:ro" if folder.is_dir() else "lenet-study-data:/data"


def local_store(database: Path, run_id: str, user: int) -> list[str]:
    """Mount a local store where the host has it; the container is its owner's."""
    if user == 0:
        print(
            "Error: a container is not to be root, and only root can write this store: start a server "
            "(`make server` or `make server-local`) and set MLFLOW_TRACKING_URI, or run as another user.",
            file=sys.stderr,
        )
        return []
    folder = database.parent.resolve()
    with sqlite3.connect(database) as connection:
        rows = connection.execute("SELECT artifact_uri FROM runs WHERE run_uuid = ?", [run_id]).fetchall()
    for (uri,) in rows:  # MLflow mounts it, and Docker would make it root's
        Path(urlsplit(uri).path).mkdir(parents=True, exist_ok=True)
    owner = f"{user}:{os.getgid()}"
    return ["--volume", f"{folder}:{folder}", "--workdir", str(folder), "--user", owner]


def image_id() -> str:
    """Return the id of the image that will run."""
    command = ["docker", "image", "inspect", "--format", "{{.Id}}", IMAGE]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:  # MLflow says that there is no Docker
        return ""


if __name__ == "__main__":
    words = options(dict(os.environ), ROOT, image_id(), os.getuid())
    for word in words:
        if len(word.split()) != 1:
            sys.exit(f"Error: {word!r} has a space, which MLflow's command cannot pass on: use another path.")
    print(*words)
