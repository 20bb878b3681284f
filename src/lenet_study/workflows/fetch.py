"""``fetch``: a model's files, for an image that serves it."""

from __future__ import annotations

import shutil
from pathlib import Path

from lenet_study.errors import UserError
from lenet_study.execution.reporter import Reporter
from lenet_study.recipes.constraints import folder_problem
from lenet_study.tracking.registry import load_model


def fetch_model(model: str, folder: Path, reporter: Reporter = Reporter()) -> None:
    """Copy the files of a logged model, named by a run id or an address, into a folder.

    The folder appears whole or not at all; a model that it holds is replaced.

    Raises:
        UserError: The folder holds something else, there is no such model, or its files were changed.
    """
    if problem := folder_problem(str(folder)):
        raise UserError(f"to={folder} is no folder ({problem}): name another")
    if folder.exists() and not (folder / "MLmodel").exists():
        raise UserError(f"to={folder} is there and holds no model: name another folder")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    loaded = load_model(model, keep=partial)
    if not partial.exists():
        raise UserError(f"model={model} is no logged model: name a run's id or a models:/ address")
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)
    reporter.message(f"{loaded.name}: weights {loaded.weights_sha256[:12]}, in {folder}")
