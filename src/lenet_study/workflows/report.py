"""``report``: a study as one HTML file that needs nothing else, with its scorecard in Markdown."""

from __future__ import annotations

from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd

from lenet_study.errors import StoreError, UserError
from lenet_study.evidence.published import published_epochs, published_models
from lenet_study.evidence.report.content import Embedding, Evidence, evaluated_groups
from lenet_study.evidence.report.html_page import render
from lenet_study.evidence.results import StudyResults
from lenet_study.evidence.scorecard import scorecard
from lenet_study.execution.reporter import Reporter
from lenet_study.tracking import links
from lenet_study.tracking.run import Run, open_run
from lenet_study.tracking.schema import File, Tag
from lenet_study.tracking.store import connect
from lenet_study.tracking.stored_training import StoredTraining
from lenet_study.tracking.study_results import latest_study, study_results
from lenet_study.training.data_files import DataFiles
from lenet_study.training.dataset import Split


@dataclass(frozen=True)
class Report:
    """A study for readers: the same bytes from the same store."""

    html: str
    markdown: str  # its scorecard
    summary: str  # the counts in one sentence

    def log(self, run: Run) -> None:
        """Log the report among the files of a run."""
        run.log_text(self.html, File.REPORT)
        run.log_text(self.markdown, File.SCORECARD)


def report(
    run_id: str = "", *, to: str = "", data: DataFiles | None = None, reporter: Reporter = Reporter()
) -> Path:
    """Write the report of a study to a file, log it in a run of its own, and return the file.

    Args:
        run_id: Id of the study's run; empty takes the latest study.
        to: The file; empty for ``report.html``.
        data: The images; without them the report shows none, and says so.
        reporter: Receives progress.

    Raises:
        UserError: There is no such study, or nothing can be written to ``to``.
        StoreError: The store failed.
    """
    data, path = data or DataFiles.at(), Path(to or File.REPORT)
    _check(path, to)
    connect()
    run_id = run_id or latest_study()
    made = make_report(run_id, data, reporter)
    with open_run(
        "report",
        stage="report",
        params={"run_id": run_id, "to": to, "data_dir": str(data.folder)},
        description=f"Report of study {run_id}: {made.summary}.",
        study=run_id,
        message=reporter.message,
    ) as run:
        made.log(run)
    _write(made.html, path, to)
    reporter.message(f"{path}: {made.summary}")
    reporter.on_address(links.how_to_look(), "report", links.run_address(run))
    return path


def make_report(run_id: str, data: DataFiles, reporter: Reporter = Reporter()) -> Report:
    """Make the report of a study out of what the store holds now.

    Raises:
        UserError: There is no such study.
        StoreError: The store failed.
    """
    results = study_results(run_id)
    judged = scorecard(results)
    remarks = [judged.alarm_sentence]
    remarks += [f"The protocol differs from the published one: {'; '.join(judged.caveats)}."] * bool(
        judged.caveats
    )
    images, training_images, problem = _images(data, results)
    embedding, embedding_problem = _embedding(results)
    missing = [*results.missing, *filter(None, (problem, embedding_problem))]
    for sentence in missing:
        reporter.message(f"Missing in the report: {sentence}")
    study = StoredTraining.load(run_id)
    run_ids = [str(name) for name in (*results.trainings.index, *results.evaluations.index)]
    evidence = Evidence(
        results=replace(results, missing=tuple(missing)),
        claims=judged.judged,
        remarks=remarks,
        images=images,
        training_images=training_images,
        embedding=embedding,
        published_epochs=published_epochs(),
        published_models=published_models(),
        addresses=links.run_addresses(study.experiment_id, run_ids),
        leading_facts=(Tag.GIT_COMMIT, Tag.DATASET_SHA256.format(context="test")),
    )
    return Report(render(evidence), judged.markdown(), judged.summary)


def _images(data: DataFiles, results: StudyResults) -> tuple[Split | None, Split | None, str]:
    """Return test and training images, or why there are none to show."""
    if not results.predictions:
        return None, None, ""
    try:
        test, train = data.test(), data.train()
    except (UserError, StoreError) as error:
        return None, None, f"Images are not shown: {error}"
    if any(len(table) != len(test) for table in results.predictions.values()):
        return None, None, f"Images are not shown: {data.folder} holds others than were predicted"
    return test, train, ""


def _embedding(results: StudyResults) -> tuple[Embedding | None, str]:
    """Return the first coordinates that an evaluation has, or what is wrong with them."""
    for run_id in (run_id for run_ids in evaluated_groups(results).values() for run_id in run_ids):
        try:
            if text := StoredTraining.load(run_id).text(File.EMBEDDING):
                table = pd.read_csv(StringIO(text)).sort_values("image")
                coordinates = table[["x", "y"]].to_numpy(dtype=np.float64)
                if not np.isfinite(coordinates).all():
                    raise ValueError("a coordinate is not finite")
                return Embedding(run_id, coordinates), ""
        except (UserError, StoreError, ValueError, KeyError) as error:
            return None, f"{File.EMBEDDING} of run {run_id} cannot be read: {error}"
    return None, ""


def _check(path: Path, to: str) -> None:
    """Refuse a file that cannot be written before there is any work done for it."""
    try:
        if path.is_dir() or (path.exists() and not path.is_file()) or path.is_symlink():
            raise UserError(f"to={to or path} is no file: name one that ends with .html")
        if not path.absolute().parent.is_dir():
            raise UserError(f"to={to or path} is in no existing folder: make it, or name another")
    except OSError as error:  # such as a name that is too long
        raise UserError(f"to={to} cannot be written ({error.strerror}): name another file") from error


def _write(text: str, path: Path, to: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"to={to or path} cannot be written ({error.strerror}): name another file") from error
