"""``reproduce``: a finished training done again from what the store recorded, and a verdict on the result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

import lenet_study
from lenet_study.errors import DiskError, ReproductionError, StoreError, UserError, one_line
from lenet_study.evidence import export, predictions, verdicts
from lenet_study.evidence.verdicts import FactChange, Outcome, Verdict
from lenet_study.execution.reporter import Reporter
from lenet_study.tracking import links, registry
from lenet_study.tracking.environment import variables_to_repeat
from lenet_study.tracking.provenance import ROOT, code_digest, environment_tags, git_tags
from lenet_study.tracking.run import Run, open_run
from lenet_study.tracking.schema import File, Metric, Name, Tag
from lenet_study.tracking.store import connect
from lenet_study.tracking.stored_training import StoredTraining
from lenet_study.tracking.working_tree import checked_out
from lenet_study.training.data_files import DataFiles
from lenet_study.training.dataset import Split
from lenet_study.training.history import Epoch, EpochProgress
from lenet_study.workflows import repetition
from lenet_study.workflows.repetition import RepetitionJob
from lenet_study.workflows.train import PROOF_IMAGES, TrainingJob, variant_tags

STAGES = ("train", "recipe", "fold", "retrain", "confirm")
_SOURCE = Path(lenet_study.__file__).parents[1]
_TAGS = {  # of a run, that go before the facts of its process: a graphics card computes
    "device": Tag.DEVICE,
    "processor": Tag.PROCESSOR,
    "threads": Tag.THREADS,
    "python": Tag.PYTHON,
}
_ABSENT = "not set"  # a variable
_MODULE = Path("lenet_study", "workflows", "repetition.py")


def reproduce(
    run_id: str,
    *,
    threads: int = 0,
    data_dir: str = "",
    data: DataFiles | None = None,
    root: Path = ROOT,
    reporter: Reporter = Reporter(),
) -> Verdict:
    """Train a finished training again, compare everything, and log the verdict in a run of its own.

    Args:
        run_id: Id of the training's run.
        threads: Processor threads; 0 takes as many as were recorded.
        data_dir: Folder of the images; empty takes the run's, if it is here.
        data: The images instead.
        root: The checkout that has the run's commit, if the present code is another.
        reporter: Receives progress, what has changed, and the verdict.

    Raises:
        UserError: The run is no finished training, or cannot be reproduced here; the message says why.
        ReproductionError: The result differs.
    """
    try:
        verdict = _reproduce(run_id, threads, data_dir, data, root, reporter)
    except (StoreError, DiskError) as error:  # neither identical nor different
        raise UserError(f"run_id={run_id} cannot be reproduced: {error}") from error
    if verdict.kind == "differs":
        raise ReproductionError(f"run_id={run_id} differs: {verdict.sentence}")
    reporter.message(f"run_id={run_id} is {verdict.kind}: {verdict.sentence}")
    return verdict


def _reproduce(
    run_id: str, threads: int, data_dir: str, data: DataFiles | None, root: Path, reporter: Reporter
) -> Verdict:
    connect()
    stored = StoredTraining.load(run_id)
    if stored.stage not in STAGES:
        raise UserError(f"run_id={run_id} is of stage {stored.stage!r}: name one of {', '.join(STAGES)}")
    if stored.status != "FINISHED":
        raise UserError(f"run_id={run_id} is {stored.status}: name a training that has FINISHED")
    data = data or _data_of(stored, data_dir)
    with open_run(
        f"{stored.name} reproduced",
        stage="reproduce",
        params={"run_id": run_id, "threads": threads, "data_dir": data_dir},
        tags={**variant_tags(stored.variant), Tag.REPRODUCED_RUN_ID: run_id},
        description=f"{stored.name} of run {run_id}, trained again",
        message=reporter.message,
    ) as run:
        try:
            verdict = _repeat(stored, threads, data, root, run, reporter)
        except UserError as error:
            run.set_tags({Tag.VERDICT: "cannot", Tag.VERDICT_REASON: error})
            raise UserError(f"run_id={run_id} cannot be reproduced: {error}") from error
        reporter.on_address(links.how_to_look(), f"{stored.name} reproduced", links.run_address(run))
    return verdict


def _repeat(
    stored: StoredTraining, threads: int, data: DataFiles, root: Path, run: Run, reporter: Reporter
) -> Verdict:
    """Train again, compare and log; a ``UserError`` says what is missing."""
    with tempfile.TemporaryDirectory(prefix="lenet-study-") as temporary:
        folder = Path(temporary)
        model = registry.load_model(stored.run_id, keep=folder / "recorded")
        job = _job(stored, threads, data, model.description)
        training = job.training()
        images = _compared_images(training, stored)
        provenance = json.loads(stored.text(File.PROVENANCE) or "{}")
        (folder / repetition.JOB).write_text(json.dumps(asdict(job)), encoding="utf-8")
        with _code_of(stored, root, reporter) as source:
            reporter.on_run_start(stored.name, run.id, training.recipe.config.epochs)
            try:
                result = _train(folder, _environment(source, provenance), stored.name, reporter)
            finally:
                reporter.on_run_end(stored.name)
        changes, unknown = fact_changes(stored, provenance, result["facts"])
        _report(changes, unknown, stored, reporter)
        outcome = partial(_outcome, images=images, device=training.hardware.prepare())
        (path,) = (folder / "recorded").rglob(repetition.MODEL)
        recorded = outcome(path, stored.history, stored.tag(Tag.WEIGHTS_SHA256))
        history = [Epoch(**epoch) for epoch in result["history"]]
        repeated = outcome(folder / repetition.MODEL, history, result["weights_sha256"])
    causes = [str(change) for change in changes]
    verdict = verdicts.judge(recorded, repeated, images.labels, causes, _commit_change(stored, root))
    _log(run, verdict, recorded, repeated, causes, unknown)
    return verdict


# ---- what is trained ----


def _data_of(stored: StoredTraining, data_dir: str) -> DataFiles:
    """Return the images of a folder, else of the run's if it is here, else those of this computer."""
    recorded = stored.params.get("data_dir", "")
    return DataFiles.at(data_dir or (recorded if Path(recorded).is_dir() else ""))


def _job(
    stored: StoredTraining, threads: int, data: DataFiles, description: Mapping[str, object]
) -> RepetitionJob:
    """Return the training as the store recorded it; a graphics card is used if there is one here, too."""
    recipe = stored.text(File.RECIPE) or stored.text(Name(File.RECIPE.formerly[0], ""))
    if not (recipe and stored.text(File.HISTORY)):
        raise UserError(f"the store has no {File.HISTORY if recipe else File.RECIPE} of it")
    return RepetitionJob(
        recipe=recipe,
        seed=int(stored.params["seed"]),
        precision=stored.params.get("precision", "float32"),
        stage="train" if stored.stage == "recipe" else stored.stage,
        fold=int(stored.tag(Tag.FOLD) or 0),
        folds=int(stored.params.get("folds", 0)),
        device="cpu" if stored.tag(Tag.DEVICE) == "cpu" else "auto",
        threads=threads or int(stored.tag(Tag.THREADS) or 1),
        data_dir=str(data.folder.absolute()),
        data_sha256=dict(data.sha256),
        description=dict(description),
    )


def _compared_images(training: TrainingJob, stored: StoredTraining) -> Split:
    """Return the validation images, else the first that were trained on; refuse others than the run's."""
    train, validation = training.images()
    for context, split in (("train", train), ("validation", validation)):
        recorded = stored.digest(context)
        if split and recorded and split.digest() != recorded:
            raise UserError(
                f"its {context} images are not those of {training.data.folder}: name their data_dir"
            )
    return validation or Split(train.images[:PROOF_IMAGES], train.labels[:PROOF_IMAGES])


@contextmanager
def _code_of(stored: StoredTraining, root: Path, reporter: Reporter) -> Iterator[Path]:
    """Yield the folder of the code that trained: the present one, or that of its commit and changes."""
    digest, commit = stored.tag(Tag.CODE_SHA256), stored.tag(Tag.GIT_COMMIT)
    if digest == code_digest():
        yield _SOURCE
        return
    if not commit:
        raise UserError("its code is not the present one, and no commit of it was recorded")
    if left_out := stored.tag(Tag.GIT_CHANGES):
        raise UserError(f"its uncommitted changes were not recorded, because {left_out}")
    patch = stored.text(File.CHANGES)
    with checked_out(root, commit, patch) as tree:
        source = tree / "src"
        if not (source / _MODULE).is_file():
            raise UserError(f"commit {commit[:12]} of its code is older than `reproduce`")
        if code_digest(source / "lenet_study") != digest:
            raise UserError(
                f"commit {commit[:12]} and the recorded changes do not give its code {digest[:12]}"
            )
        with_changes = " and the changes that its run recorded" if patch else ""
        reporter.message(f"{stored.name}: trains with the code of commit {commit[:12]}{with_changes}")
        yield source


def _environment(source: Path, provenance: Mapping[str, Any]) -> dict[str, str]:
    """Return the variables of the training's process: the present ones go before the recorded ones."""
    present = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    path = os.pathsep.join(filter(None, (str(source), present.get("PYTHONPATH", ""))))
    return {**variables_to_repeat(provenance.get("variables", {})), **present, "PYTHONPATH": path}


def _train(folder: Path, environment: Mapping[str, str], name: str, reporter: Reporter) -> dict[str, Any]:
    """Train the folder's job in a process of its own, and return its result."""
    command = (sys.executable, "-m", repetition.__name__, str(folder))
    with (folder / "errors.txt").open("w+", encoding="utf-8", errors="replace") as errors:
        process = subprocess.Popen(
            command, cwd=folder, env=dict(environment), stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            assert process.stdout
            for line in process.stdout:
                _announce(line, name, reporter)
            code = process.wait()
        finally:
            process.terminate()  # nothing if it has ended; else a signal has come
            process.wait()
        errors.seek(0)
        last = (errors.read().strip().splitlines() or [f"exit code {code}"])[-1]
    if code < 0:
        last = f"signal {-code}"
    if code:
        raise UserError(f"its training failed ({one_line(RuntimeError(last))})")
    return dict(json.loads((folder / repetition.RESULT).read_text(encoding="utf-8")))


def _announce(line: str, name: str, reporter: Reporter) -> None:
    """Report what a line of the training's process tells."""
    try:
        told = json.loads(line)
    except ValueError:
        told = None
    if not isinstance(told, dict):
        reporter.message(line.rstrip())
    elif repetition.EPOCH in told:
        reporter.on_epoch_end(name, Epoch(**told[repetition.EPOCH]))
    elif repetition.PROGRESS in told:
        reporter.on_progress(name, EpochProgress(**told[repetition.PROGRESS]))


# ---- what is compared ----


def fact_changes(
    stored: StoredTraining, provenance: Mapping[str, Any], now: Mapping[str, str]
) -> tuple[list[FactChange], list[str]]:
    """Return the facts that decide bits and have changed, and the names of those that were not recorded."""
    recorded = {**provenance.get("deciding", {}), **{fact: stored.tag(tag) for fact, tag in _TAGS.items()}}
    if not provenance:  # of a version before 0.3: which packages have changed is not known, only whether
        recorded["packages"] = stored.tag(Tag.PACKAGES_SHA256)
        now = {**now, "packages": environment_tags()[Tag.PACKAGES_SHA256]}
    if stored.tag(Tag.FORCED):
        recorded["environment"], now = "several, by resume with force=true", {**now, "environment": "one"}
    unknown = [
        fact for fact in now if not recorded.get(fact) and not (provenance and fact.startswith("variable "))
    ]
    values = {fact: (recorded.get(fact, _ABSENT), now.get(fact, _ABSENT)) for fact in {**recorded, **now}}
    changes = [
        FactChange(fact=fact, recorded=was, now=is_now)
        for fact, (was, is_now) in values.items()
        if was != is_now and fact not in unknown
    ]
    return changes, unknown


def _report(
    changes: Sequence[FactChange], unknown: Sequence[str], stored: StoredTraining, reporter: Reporter
) -> None:
    """Say what has changed of all that decides bits."""
    for change in changes:
        reporter.message(f"{stored.name}: changed: {change}")
    if not changes:
        reporter.message(f"{stored.name}: nothing has changed that decides bits, as far as was recorded")
    if unknown:
        reporter.message(f"{stored.name}: not recorded: {', '.join(unknown)}")


def _commit_change(stored: StoredTraining, root: Path) -> list[str]:
    """Return in words that other code may export the file, though the present code trains the same."""
    if stored.tag(Tag.CODE_SHA256) != code_digest():  # the run's own commit has exported it
        return []
    present = git_tags(root)
    was, now = stored.tag(Tag.GIT_COMMIT)[:12], present.get(Tag.GIT_COMMIT, "")[:12]
    dirty = "true" in (stored.tag(Tag.GIT_DIRTY), present.get(Tag.GIT_DIRTY))
    if was == now and not dirty:
        return []
    return [f"commit: {was or 'unknown'}, now {now or 'unknown'}{', with uncommitted changes' * dirty}"]


def _outcome(
    path: Path, history: Sequence[Epoch], weights_sha256: str, images: Split, device: torch.device
) -> Outcome:
    """Return a training's result as it is compared: on images, and with its TorchScript file."""
    module = export.load_torchscript(path).to(device)
    return Outcome(
        history=tuple(history),
        weights_sha256=weights_sha256,
        torchscript_digest=verdicts.torchscript_digest(path),
        logits=predictions.predict(module, images, device).logits,
    )


def _log(
    run: Run,
    verdict: Verdict,
    recorded: Outcome,
    repeated: Outcome,
    causes: Sequence[str],
    unknown: Sequence[str],
) -> None:
    """Log the verdict with all that it rests on."""
    run.set_tags({Tag.VERDICT: verdict.kind, Tag.VERDICT_REASON: verdict.sentence})
    figures = verdict.figures.items()
    run.log_metrics({Metric.REPRODUCE_FIGURE.format(figure=name): value for name, value in figures})
    run.log_table(verdicts.histories(recorded.history, repeated.history), File.HISTORIES)
    sums = {
        name: {"weights_sha256": outcome.weights_sha256, "torchscript_digest": outcome.torchscript_digest}
        for name, outcome in (("recorded", recorded), ("repeated", repeated))
    }
    content = {**asdict(verdict), "changed": causes, "not_recorded": unknown, "delta": verdicts.DELTA, **sums}
    run.log_text(json.dumps(content, indent=2) + "\n", File.VERDICT)
