"""``predict``: the classes of image files, as a table, as JSON, or as the body of a request to a server."""

from __future__ import annotations

import json
import os
import shlex
from typing import Any, Literal

import torch

from lenet_study.errors import UserError
from lenet_study.evidence.export import as_input
from lenet_study.execution.reporter import Reporter
from lenet_study.tracking.registry import LoadedModel, load_model
from lenet_study.tracking.run import open_run, to_stderr
from lenet_study.tracking.schema import File, Tag
from lenet_study.tracking.served_model import ANSWER, CLASSES
from lenet_study.training.image_files import read_image_files

Output = Literal["table", "json", "request"]
Answer = dict[str, Any]


def predict(model: str, image: str, output: Output, reporter: Reporter = Reporter()) -> list[Answer]:
    """Say what image files show; under `mlflow run`, its run holds the answer.

    Args:
        model: A run id, a ``models:/…`` address, or the path of a TorchScript file.
        image: Names of files, as a shell divides them.
        output: ``table`` and ``json`` ask the model; ``request`` says what a server is to be sent instead.
        reporter: Hears the answer. What was assumed about each image goes there with a table, else to
            stderr: a program reads the answer.

    Returns:
        File, class, probability, the probabilities of all classes, and the assumptions, for each image.

    Raises:
        UserError: An image or the model cannot be read.
    """
    images = read_image_files(_file_names(image))
    say = reporter.message if output == "table" else to_stderr
    for prepared in images:
        say(f"{prepared.name}: {prepared.assumptions}")
    inputs = as_input(torch.stack([prepared.pixels for prepared in images]))
    if output == "request":
        reporter.message(json.dumps({"inputs": inputs.tolist(), "params": {ANSWER: CLASSES}}))
        return []
    loaded = load_model(model)
    answers = [
        {"file": prepared.name, **classified, "assumptions": prepared.assumptions}
        for prepared, classified in zip(images, loaded.classify(inputs.numpy()), strict=True)
    ]
    text = json.dumps(answers, indent=2, ensure_ascii=False)
    _log(loaded, image, text, reporter)
    reporter.message(text if output == "json" else _table(answers))
    return answers


def _file_names(image: str) -> list[str]:
    """Return the files that a parameter names: one whose name has spaces, or several."""
    try:
        names = [image] if os.path.lexists(image) else shlex.split(image)
    except ValueError as error:
        raise UserError(f"image={image} is no list of files ({error}): close the quotation mark") from error
    if not names:
        raise UserError("image= names no file: name PNG, JPEG or IDX files, divided by spaces")
    return names


def _table(answers: list[Answer]) -> str:
    """Return file, class, probability and runner-up of each image in columns."""
    rows = [("file", "class", "probability", "runner-up")]
    for answer in answers:
        runner_up = sorted(answer["probabilities"].items(), key=lambda item: -item[1])[1]
        row = (answer["file"], answer["class"], f"{answer['probability']:.1%}")
        rows.append((*row, f"{runner_up[0]} {runner_up[1]:.1%}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return "\n".join(lines)


def _log(model: LoadedModel, image: str, answer: str, reporter: Reporter) -> None:
    """Log the answer in the run that `mlflow run` has made; a plain command makes none."""
    if not os.environ.get("MLFLOW_RUN_ID"):
        return
    tags: dict[str, object] = {
        Tag.MODEL_RUN_ID: model.run_id,
        Tag.TORCHSCRIPT_SHA256: model.torchscript_sha256,
    }
    params = {"model": model.reference, "image": image}
    with open_run("predict", stage="predict", params=params, tags=tags, message=reporter.message) as run:
        run.log_text(answer, File.ANSWERS)
