"""``retrain``: one model on training and validation images, then evaluated beside its former self."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lenet_study.execution.executor import Monitor
from lenet_study.execution.reporter import Reporter
from lenet_study.tracking.stored_training import best_training
from lenet_study.workflows.evaluate import EvaluationJob, EvaluationResult, evaluate_once, predict_untracked
from lenet_study.workflows.train import TrainingJob, TrainingResult
from lenet_study.workflows.waiting import wait_for_store


@dataclass(frozen=True, kw_only=True)
class RetrainingJob:
    """A retraining and its evaluation as data."""

    training: TrainingJob  # on all images, whatever its stage
    former: str = ""  # run id of the training to set beside it on the test images; empty for none

    def run(self, reporter: Reporter, monitor: Monitor) -> tuple[TrainingResult, EvaluationResult]:
        """Train on all images, then evaluate the model beside the former one."""
        if self.former:
            wait_for_store(reporter)  # the training waits by itself
        training = replace(self.training, stage="retrain")
        before = predict_untracked(EvaluationJob.of(self.former, training)) if self.former else None
        trained = training.run(reporter, monitor)
        return trained, evaluate_once(EvaluationJob.of(trained.run_id, training, before), reporter)


def retrain(job: TrainingJob, reporter: Reporter = Reporter()) -> tuple[TrainingResult, EvaluationResult]:
    """Train one model on all training images, keep the last epoch, and evaluate it.

    The model's best finished training is evaluated beside it, if there is one.
    """
    former = best_training(job.recipe)
    if former is None:
        name = job.recipe.name
        reporter.message(f"There is no finished training of {name} to compare with; `train` makes one.")
    return RetrainingJob(training=job, former=former.run_id if former else "").run(reporter, Monitor())
