"""The content of a run: every tag, metric and file that the project writes, each declared once.

No other module writes these names out. ``docs/runs.md`` is made of this one (``make docs``). A name with
``{braces}`` stands for a family; ``NAME.format(...)`` gives a member.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Self, TypeVar

T = TypeVar("T")


class Name(str):
    """A name in MLflow with its meaning."""

    meaning: str  # for people, one sentence without its full stop
    unit: str  # of a metric; empty for a count or a word
    formerly: tuple[str, ...]  # names under which older versions wrote it; they are read, never written

    def __new__(cls, name: str, meaning: str, unit: str = "", formerly: tuple[str, ...] = ()) -> Self:
        """Make the name, which is a plain string to MLflow."""
        made = super().__new__(cls, name)
        made.meaning, made.unit, made.formerly = meaning, unit, formerly
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what makes it again: jobs go to other processes with names among their tags."""
        return type(self), (str(self), self.meaning, self.unit, self.formerly)

    def read(self, values: Mapping[str, T]) -> T | None:
        """Return the value under this name or a former one; None if there is none.

        >>> Tag.THREADS.read({"machine.threads": "1"})
        '1'
        """
        return next((values[name] for name in (self, *self.formerly) if name in values), None)


class Tag:
    """Tags of runs, and of registered versions where the meaning says so."""

    STAGE = Name("stage", "Kind of work; see the list above")
    STUDY = Name("study", "Ids of the studies' runs that this run belongs to")
    PARENT_WORK = Name("parent_work", "Id of the search's run that an evaluation belongs to")
    SEARCH = Name("search", "Id of the search that this run belongs to, the same in all its processes")
    VARIANT = Name("variant", "Name of the variant or searched model")
    FOLD = Name("fold", "Number of the fold that validates, counting from 1")
    TRIAL = Name("trial", "Number of the trial in its search")
    CONFIRM = Name("confirm", "Side in the confirmation of a search: `challenger` or `champion`")
    HOST = Name("host", "Host name of the computer that runs the search")
    PRUNED = Name("pruned", "Why a search ended this training early")
    FAILURE_KIND = Name("failure.kind", "Kind of error that ended the run, or `Stopped` by a signal")
    FAILURE_REASON = Name(
        "failure.reason", "Why the run did not finish, or why its command was refused", formerly=("error",)
    )
    FINGERPRINT = Name("fingerprint", "Sum over all that decides the result; equal work is done once")
    REUSED = Name("reused", "Trainings of other runs that were used again, with their ids")
    FORCED = Name("forced", "`true` if it was resumed in another environment")
    RESUMED = Name("resumed", "How often the run was resumed")
    PROCESS_HOST = Name("process.host", "Host of the process that works on the run")
    PROCESS_BOOT = Name("process.boot", "Its kernel's start")
    PROCESS_PID = Name("process.pid", "Its number")
    PROCESS_START = Name("process.start", "When it was started, in seconds since the boot")
    PROCESS_HEARTBEAT = Name("process.heartbeat", "Its last sign of life, in seconds since 1970")
    FAILED = Name("failed", "Jobs of this run that failed, and why")
    DEVICE = Name("hardware.device", "Device that computed: `cpu` or `cuda`", formerly=("machine.device",))
    THREADS = Name("hardware.threads", "Processor threads of each training", formerly=("machine.threads",))
    PROCESSOR = Name("hardware.processor", "Model and vector instructions of what computed")
    WORKERS = Name("hardware.workers", "Trainings side by side", formerly=("machine.workers",))
    DATASET_SHA256 = Name("dataset.{context}.sha256", "Sum over images and labels of a split")
    WEIGHTS_SHA256 = Name("weights.sha256", "Sum over names and bytes of all weights")
    TORCHSCRIPT_SHA256 = Name("torchscript.sha256", "Sum of the TorchScript file")
    MODEL_SHA256 = Name("model.sha256", "Sum over all files of the logged model")
    MANIFEST_SHA256 = Name("manifest.sha256", "Sum of the run's manifest")
    PARITY = Name("parity", "`passed` if every exported file computes what the trained model does")
    VERSION = Name("version", "Number of the version of the registered model that the run has made")
    MODEL_RUN_ID = Name("model.run_id", "Run that trained the evaluated model")
    INPUTS = Name(
        "inputs.scale", "Scale of a foreign model's images: `unit` (0 to 1), `normalised` or `symmetric` (±1)"
    )
    INPUTS_REASON = Name("inputs.reason", "How this scale was found")
    PUBLISHED = Name("published.variant", "Variant whose published file was evaluated")
    COMPARED_RUN_ID = Name("compared.run_id", "Run of the model set beside it")
    GIT_COMMIT = Name("git.commit", "Commit of the code")
    GIT_DIRTY = Name("git.dirty", "`true` if the tree had uncommitted changes")
    GIT_CHANGES = Name("git.changes", "Why `changes.patch` does not hold the uncommitted changes")
    VERDICT = Name("verdict", "Of a repetition: `identical`, `equivalent`, `differs` or `cannot`")
    VERDICT_REASON = Name("verdict.reason", "The verdict in one sentence")
    COMPARISON_OUTCOME = Name(
        "comparison.{split}",
        "Of two compared models on the split `val` or `test`, over seeds: `first`, `second`, `equal` or "
        "`undecided`",
    )
    REPRODUCED_RUN_ID = Name("reproduced.run_id", "Run that was trained again")
    PYTHON = Name("environment.python", "Version of Python")
    PACKAGES_SHA256 = Name("environment.sha256", "Sum of the list of installed packages")
    CODE_SHA256 = Name("environment.code.sha256", "Sum of the code that decides a training's weights")
    REQUIREMENTS_SHA256 = Name("environment.requirements.sha256", "Sum of requirements.txt")
    IMAGE = Name("environment.image", "Id of the container's image")
    ADDRESS = Name(
        "address.{page}",
        "Page of MLflow's UI: the variants' `curves`, or their `comparison` side by side",
    )
    SAVED_VIEW = Name("mlflow.sharedViewState.{view}", "Tag of an experiment: a saved view of MLflow's page")
    CHALLENGER_VERSION = Name("challenger.version", "Version that was the challenger")
    CHALLENGER_REJECTED = Name(
        "challenger.rejected", "Why it was not promoted, or `none`", formerly=("challenger.doubt",)
    )
    PROMOTED_VERSION = Name("promoted.version", "Version that is the champion now")
    PROMOTED_REASON = Name("promoted.reason", "Why; also a tag of the version")
    PROMOTION_REFUSED = Name("promoted.refused", "Why a study promoted nothing")
    PROMOTED_KEPT = Name("promoted.kept", "`true` if it was the champion before")
    PROMOTED_BY_RUN = Name("promoted.by_run", "Tag of a version: the run that promoted it")
    FORMER_VERSION = Name("former.version", "Version that was the champion before")
    HISTORY_RUN_ID = Name(
        "history.run_id", "Tag of the registered model: the run with the champion's history"
    )
    CONFIRMED = Name("confirm.{figure}", "Tag of a version: a figure of its confirmation by a search")
    DESCRIPTION = Name("mlflow.note.content", "Description of the run or experiment, in Markdown")
    USER = Name("mlflow.user", "Who started the run")
    PARENT_RUN = Name("mlflow.parentRunId", "Id of the run that this one is nested under")
    COLOUR = Name("mlflow.runColor", "Colour of the variant in MLflow's charts and in the study's pictures")
    EXPERIMENT_KIND = Name("mlflow.experimentKind", "Tag of an experiment: which pages MLflow opens it with")


class Metric:
    """Metrics of runs."""

    TRAIN_LOSS = Name("train/loss", "Mean cross-entropy over the augmented training images", "nats")
    TRAIN_ACCURACY = Name("train/accuracy", "Share of them classified correctly", "0..1")
    VAL_LOSS = Name("val/loss", "Mean cross-entropy over the validation images", "nats")
    VAL_ACCURACY = Name("val/accuracy", "Share of them classified correctly", "0..1")
    LEARNING_RATE = Name("learning_rate", "Learning rate of the epoch")
    EPOCH_SECONDS = Name("epoch_seconds", "Time of the epoch, training and validation", "s")
    BEST_EPOCH = Name("best/epoch", "Epoch whose weights were kept, counting from 1")
    BEST_VAL_ACCURACY = Name("best/val_accuracy", "Validation accuracy of the best epoch", "0..1")
    BEST_VAL_LOSS = Name("best/val_loss", "Its validation loss", "nats")
    BEST_TRAIN_ACCURACY = Name("best/train_accuracy", "Its training accuracy", "0..1")
    BEST_TRAIN_LOSS = Name("best/train_loss", "Its training loss", "nats")
    BEST_VAL_ACCURACY_AUGMENTED = Name(
        "best/val_accuracy_augmented", "Its accuracy on augmented validation images, as published", "0..1"
    )
    BEST_VAL_LOSS_AUGMENTED = Name(
        "best/val_loss_augmented", "Its loss on augmented validation images, as published", "nats"
    )
    PARAMETER_COUNT = Name(
        "parameter_count", "Trainable parameters, auxiliary heads included", formerly=("parameters",)
    )
    PARITY_DIFFERENCE = Name(
        "parity/max_abs_difference", "Largest difference of a logit of an exported file from the model's"
    )
    PARITY_AGREEMENT = Name("parity/class_agreement", "Share of images with the same class", "0..1")
    TEST_LOSS = Name("test/loss", "Mean cross-entropy over the test images", "nats")
    TEST_ACCURACY = Name("test/accuracy", "Share of them classified correctly", "0..1")
    TEST_ACCURACY_LOW = Name("test/accuracy_low", "Lower end of its 95 % interval (Wilson)", "0..1")
    TEST_ACCURACY_RETRAINED = Name("test/accuracy_retrained", "Of a study: after the retraining", "0..1")
    TEST_ACCURACY_HIGH = Name("test/accuracy_high", "Upper end of its 95 % interval (Wilson)", "0..1")
    AUXILIARY_FIRST = Name("auxiliary/first_accuracy", "Test accuracy of the first auxiliary head", "0..1")
    AUXILIARY_SECOND = Name("auxiliary/second_accuracy", "Test accuracy of the second one", "0..1")
    AUXILIARY_AGREEMENT = Name("auxiliary/agreement", "Share of images on which both agree", "0..1")
    PUBLISHED_AGREEMENT = Name(
        "published/agreement", "Share of test images with the class that the published file predicted", "0..1"
    )
    KFOLD_FOLDS = Name("kfold/folds", "Folds that were trained")
    KFOLD_MEAN = Name("kfold/{metric}_mean", "Mean over the folds' best epochs")
    KFOLD_STD = Name("kfold/{metric}_std", "Sample standard deviation over them")
    GAIN_VARIANTS = Name(
        "gain/over_baseline", "Validation accuracy of the selected variant less that of the first one", "0..1"
    )
    GAIN_RETRAINING = Name("gain/retraining", "Its test accuracy after retraining less that before", "0..1")
    STUDY_SECONDS = Name("study_seconds", "Wall time of the study", "s")
    SEARCH_BEST = Name("search/best_val_accuracy", "Best so far; the step is the number of trials", "0..1")
    SEARCH_STATE = Name("search/{state}", "Trials that ended so: `complete`, `pruned`, `fail`")
    CONFIRM_FIGURE = Name(
        "confirm/{figure}",
        "Number of `seeds`, validation accuracies `challenger_mean` and `champion_mean`, their `difference` "
        "and `difference_std`, the search's `comparisons` so far, and the `p_value` corrected for these",
    )
    CONFIRM_TEST_MEAN = Name("confirm/{side}_test_mean", "Mean test accuracy of a side", "0..1")
    CONFIRM_TEST_STD = Name("confirm/{side}_test_std", "Its sample standard deviation", "0..1")
    REPRODUCE_FIGURE = Name(
        "reproduce/{figure}",
        "On the validation images: `recorded_accuracy`, `repeated_accuracy`, their `difference`, its 95 % "
        "interval `difference_low` and `difference_high` (Newcombe), exact `p_value` and `mid_p_value` "
        "(McNemar), `class_agreement`, `max_abs_difference` of a logit",
    )
    COMPARE_FIGURE = Name(
        "compare/{split}_{figure}",
        "Of two models on the split `val` or `test`, over their common `seeds`: accuracies `first_mean` and "
        "`second_mean`, mean `difference`, `difference_std`, 95 % interval `difference_low` and "
        "`difference_high`, `share` of seeds with which the first is better, `share_low` and `share_high` "
        "(Clopper and Pearson), `sign_flip_p`, and `t_p` of the paired t-test, on `val` corrected for splits "
        "that share images",
    )


class File:
    """Artifacts of runs."""

    MANIFEST = Name("manifest.json", "Sums of all files, and params, metrics and tags as they were logged")
    RECIPE = Name("recipe.json", "The recipe, to train the model again", formerly=("spec.json",))
    MODEL_SUMMARY = Name("model_summary.txt", "Layers, shapes and parameter counts")
    ENVIRONMENT = Name("environment.txt", "Installed packages, as `pip freeze` lists them")
    PROVENANCE = Name("provenance.json", "Command, processor, libraries, threads and variables that matter")
    CHANGES = Name("changes.patch", "Uncommitted changes of the files that decide a result")
    VERDICT = Name("verdict.json", "What a repetition compared, what differs first, and the verdict")
    HISTORIES = Name("histories.csv", "Every epoch's metrics as recorded and as repeated")
    ARCHITECTURE = Name("architecture.png", "The model and what its variant changed")
    AUGMENTATION = Name("augmentation.png", "Training images, augmented")
    CURVES = Name("curves.png", "Loss and accuracy of every epoch")
    LEARNING_RATE = Name("learning_rate.png", "Learning rate of every epoch")
    HISTORY = Name("history.csv", "All figures of every epoch")
    MODEL = Name("model", "The logged model: TorchScript, its torch.export twin, parity.json")
    PER_CLASS = Name("per_class.csv", "Precision, recall and F1 of every class")
    PREDICTIONS = Name("predictions.csv", "Prediction of every test image")
    CONFUSION_MATRIX = Name("confusion_matrix.png", "True classes by predicted ones")
    CONFUSION_COMPARISON = Name("confusion_comparison.png", "Two confusion matrices and their difference")
    PREDICTIONS_PICTURE = Name("predictions.png", "Random test images with their predictions")
    AUXILIARY = Name("auxiliary.png", "One image as all three heads see it")
    TSNE = Name("tsne.png", "Features of all test images in two dimensions; a foreign model's logits")
    EMBEDDING = Name("embedding.csv", "Where every test image lies in that picture")
    COMPARISON_PICTURE = Name("comparison.png", "Curves of all variants of a study")
    COMPARISON = Name("comparison.csv", "The study's figures beside the published ones")
    REPORT = Name("report.html", "The report of a study, in one file")
    SCORECARD = Name("scorecard.md", "Every published claim with its verdict, in Markdown")
    PAIRS = Name(
        "comparison_pairs.csv", "Accuracies of two compared models and their difference, seed by seed"
    )
    PAIRS_PICTURE = Name("comparison_pairs.png", "The same as a picture, with the intervals of the mean")
    COMPARISON_TEXT = Name("comparison.txt", "The comparison of two models in words")
    SECONDS = Name("seconds.csv", "Wall time of each job of a study")
    FOLDS = Name("folds.csv", "Best epoch of every fold")
    CANDIDATES = Name("candidates.csv", "Trainings that a promotion compared")
    TRIALS = Name("trials.csv", "All trials of a search")
    SEARCH_PICTURE = Name("{name}.png", "A picture of a search")
    SEARCH_PAGE = Name("search.html", "Optuna's interactive pictures of a search")
    ANSWERS = Name("answers.json", "Classes and probabilities of image files, and what was assumed of them")
    CONFIRM = Name("confirm.csv", "Accuracies of both sides of a confirmation, seed by seed")


STAGES = {
    "train": "one of the variants on the training split",
    "recipe": "a model of a recipe file (`spec` in stores of version 0.1)",
    "fold": "all folds but one",
    "kfold": "the cross-validation that holds the folds",
    "retrain": "all training images, without validation",
    "evaluate": "a model on the test split",
    "study": "the whole programme",
    "search": "a search that holds its trials",
    "trial": "one training of a search",
    "confirm": "one training of a search's confirmation",
    "promote": "a promotion or rollback",
    "history": "the run whose params are the history of the champion",
    "predict": "the classes of image files",
    "report": "the report of a study",
    "reproduce": "a training done again, and compared with what the store holds",
    "compare": "a comparison of two models over seeds and images",
}
FORMER_STAGES = {"recipe": "spec"}


def names(section: type) -> Iterator[Name]:
    """Yield the names of one section: ``Tag``, ``Metric`` or ``File``."""
    yield from (value for value in vars(section).values() if isinstance(value, Name))
