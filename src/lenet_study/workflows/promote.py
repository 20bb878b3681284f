"""``promote``: the best model becomes the champion, or one that is named, or the one before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import isfinite

import pandas as pd

from lenet_study.errors import UserError
from lenet_study.execution.reporter import Reporter
from lenet_study.tracking import registry
from lenet_study.tracking.champions import CHALLENGER, CHAMPION, Action, Champions, History
from lenet_study.tracking.registry import Version, confirmation_of
from lenet_study.tracking.run import Run, open_run
from lenet_study.tracking.schema import File, Metric, Tag
from lenet_study.tracking.store import NAME, champion_lock, connect
from lenet_study.tracking.stored_training import StoredTraining, finished_trainings
from lenet_study.workflows.page import renew_model_card

SIGNIFICANT = 0.05  # p of the paired t-test below which a challenger's evidence counts
COMPARED = 20  # best trainings listed in the run's table
# A model that gives every image the same class has 0.1; three standard errors on 12,000 images are 0.008.
CHANCE = 0.11
Check = Callable[[Version], object]  # raises UserError for a version that is not as it was logged


def promote(
    *,
    version: int = 0,
    rollback: bool = False,
    reporter: Reporter = Reporter(),
    check: Check = registry.check_version,
) -> None:
    """Promote the best model, one named by its version, or roll back, in a run of its own.

    Raises:
        UserError: There is nothing to promote or to go back to; or the model is damaged, has diverged, or is
            not proven equal to the one that was trained; or another process has changed the champion first.
        StoreError: The store failed, or another process keeps changing the champion.
    """
    if rollback and version:
        raise UserError(f"version={version} and rollback=true exclude each other: leave one of them out")
    if version:
        connect()
        _version_named(version)  # refused before there is a run
    with open_run("promote", stage="promote", params={"version": version, "rollback": rollback}) as run:
        promotion = Promotion(run, reporter, check)
        if rollback:
            promotion.roll_back()
        elif version:
            promotion.promote_version(version)
        else:
            promotion.promote_best()
    renew_model_card(reporter)


@dataclass(frozen=True)
class Decision:
    """A version that is to be the champion, and why."""

    action: Action
    version: Version
    reason: str


@dataclass(frozen=True)
class Promotion:
    """One change of the champion, by a run that is told what was decided."""

    run: Run
    reporter: Reporter
    check: Check = registry.check_version
    champions: Champions = field(default_factory=Champions)

    def promote_best(self) -> None:
        """Make the challenger of a search the champion if its evidence holds, else the best training.

        The best training is the finished one of the variants with the highest validation accuracy. It
        displaces no champion that was confirmed over several seeds, and none that is better; a champion that
        was displaced by hand is passed over.
        """
        self._change(self._best)

    def promote_version(self, number: int) -> None:
        """Make a version the champion because it is named."""
        self._change(partial(self._named, number))

    def roll_back(self) -> None:
        """Go back to the champion before this one, unless another process has changed the champion first."""
        self._change(self._former)

    def _change(self, decide: Callable[[History, str], Decision]) -> None:
        """Carry a decision out; decide again if another process is faster.

        ``decide`` gets the history as it is, and the champion that was seen before this process's turn.
        """
        seen = self.champions.history().seen
        with champion_lock():
            while True:
                history = self.champions.settle()
                if history.champion != seen:
                    self.reporter.message(f"Meanwhile, {_in_words(history)}.")
                decision = decide(history, seen)
                number = str(decision.version.version)
                change = (history, decision.action, number, decision.reason, self.run)
                if number == history.champion or self.champions.change(*change):
                    break
        self._tell(decision, history.champion)

    def _best(self, history: History, _: str) -> Decision:
        withdrawn = _Withdrawn(history)
        champion = self._champion(history)
        if challenger := registry.version_with_alias(CHALLENGER):
            reason = self._unsound(challenger) or rejection_reason(challenger, champion)
            reason = reason or withdrawn.reason(challenger)
            number = challenger.version
            self.run.set_tags({Tag.CHALLENGER_VERSION: number, Tag.CHALLENGER_REJECTED: reason or "none"})
            if not reason:
                return Decision("promoted", challenger, evidence_summary(challenger))
            self.reporter.message(f"Version {number}, the challenger, is not promoted: {reason}.")
        accuracy = StoredTraining.load(champion.run_id).metric(Metric.BEST_VAL_ACCURACY) if champion else -1.0
        if champion and (reason := _why_no_training_displaces(champion, accuracy)):
            return Decision("promoted", champion, reason)
        trainings = finished_trainings(COMPARED)
        if not trainings:
            raise UserError("There is no finished training to promote: run `train` first")
        self.run.log_table(_table(trainings), File.CANDIDATES)
        assert accuracy is not None, "such a champion stays"
        for place, training in enumerate(trainings):
            comparison = _comparison(trainings[place:], passed_over=place)
            if champion and training.run_id == champion.run_id:
                return Decision("promoted", champion, comparison)
            if (training.metric(Metric.BEST_VAL_ACCURACY) or 0.0) <= accuracy:
                break
            version = registry.version_of(training.run_id)
            reason = withdrawn.reason(version) if version else "it has no registered model"
            if version and not (reason := reason or self._unsound(version)):
                return Decision("promoted", version, comparison)
            which = f"version {version.version}, " if version else ""
            self.reporter.message(f"{training.name} ({which}run {training.run_id}) is passed over: {reason}.")
        if champion:
            reason = f"none exceeds its validation accuracy of {accuracy:.2%}"
            return Decision("promoted", champion, reason)
        raise UserError("No finished training can be promoted; the lines above say why: run `train`")

    def _champion(self, history: History) -> Version | None:
        """Return the champion, unless it cannot be trusted any more: a sound one then takes its place."""
        champion = registry.version_numbered(history.champion) if history.champion else None
        if champion and (reason := self._unsound(champion)):
            self.reporter.message(f"Version {champion.version}, the champion, cannot be trusted: {reason}.")
            return None
        return champion

    def _named(self, number: int, history: History, _: str) -> Decision:
        return Decision("named", self._sound(_version_named(number)), "named by hand")

    def _former(self, history: History, seen: str) -> Decision:
        if history.champion != seen:
            raise UserError(
                f"Nothing was rolled back, because {_in_words(history)}: issue it again to go back from there"
            )
        if not history.previous:
            raise UserError("There is no former champion to go back to: nothing was rolled back")
        if not (version := registry.version_numbered(history.previous)):
            cure = "name another with version=N"
            raise UserError(f"Version {history.previous}, the champion before, was deleted: {cure}")
        self._sound(version)
        return Decision("rolled back", version, f"rolled back by hand from version {history.champion}")

    def _sound(self, version: Version) -> Version:
        """Return a version that is named; refuse one that must not be champion."""
        if reason := self._unsound(version):
            raise UserError(f"Version {version.version} is not promoted: {reason}")
        return version

    def _unsound(self, version: Version) -> str:
        """Return why a version must not be champion, whatever its accuracy; empty if it may be."""
        try:
            training = StoredTraining.load(version.run_id)
            if training.tag(Tag.PARITY) != "passed":
                return "its exported model does not equal the trained one (parity.json in its run)"
            if not _has_learnt(training):
                return "it has diverged, or is no better than chance"
            self.check(version)
        except UserError as error:
            return str(error)
        return ""

    def _tell(self, decision: Decision, former: str) -> None:
        """Write down what was decided, and say so."""
        number = str(decision.version.version)  # MLflow gives a number or a text
        stays = number == former
        self.run.set_tags(
            {
                Tag.PROMOTED_VERSION: number,
                Tag.PROMOTED_REASON: decision.reason,
                Tag.PROMOTED_KEPT: str(stays).lower(),
                Tag.FORMER_VERSION: former or "none",
            }
        )
        place = f" in place of version {former}" if former else ""
        verb = f"stays {NAME}@{CHAMPION}" if stays else f"is now {NAME}@{CHAMPION}{place}"
        self.reporter.message(f"Version {number} {verb}: {decision.reason}.")


class _Withdrawn:
    """Champions that were displaced by hand: they, and equal weights, come back only if named."""

    def __init__(self, history: History) -> None:
        versions = [registry.version_numbered(number) for number in sorted(history.withdrawn)]
        self._versions = {_weights_of(version): str(version.version) for version in versions if version}

    def reason(self, version: Version) -> str:
        """Return why a version is passed over; empty if it is not."""
        if not (number := self._versions.get(_weights_of(version))):
            return ""
        same = "it" if number == str(version.version) else f"version {number}, of the same weights,"
        return f"{same} was displaced by hand, and version={version.version} promotes it all the same"


def _weights_of(version: Version) -> str:
    """Return the sum of a version's weights; of one that does not tell, its run."""
    return version.tags.get(Tag.WEIGHTS_SHA256) or str(version.run_id)


def _version_named(number: int) -> Version:
    if version := registry.version_numbered(str(number)):
        return version
    raise UserError(f"version={number} is no version of {NAME}: see its page in MLflow's UI")


def _in_words(history: History) -> str:
    """Return the last change of a history in words."""
    last = history.changes[-1]
    by = f" by run {last.run_id}" if last.run_id else ""
    former = last.former or "none"
    return f"version {last.version or 'none'} became champion in place of {former} ({last.action}{by})"


def _why_no_training_displaces(champion: Version, accuracy: float | None) -> str:
    """Return why a champion stays whatever has been trained; empty if a better training displaces it."""
    if "p_value" in (confirmation := confirmation_of(champion)):
        seeds = f"{float(confirmation['seeds']):.0f} seeds"
        return f"it was confirmed over {seeds}, and a single training proves less"
    if accuracy is None:
        return "it has no validation accuracy to be compared by; `promote` with version=N names another"
    return ""


def _has_learnt(training: StoredTraining) -> bool:
    """Whether a training's losses are finite, and its accuracy is better than chance."""
    losses = [training.metric(name) for name in (Metric.BEST_VAL_LOSS, Metric.BEST_TRAIN_LOSS)]
    accuracies = [training.metric(name) for name in (Metric.BEST_VAL_ACCURACY, Metric.BEST_TRAIN_ACCURACY)]
    accuracy = next((accuracy for accuracy in accuracies if accuracy is not None), 0.0)
    # MLflow's databases hold an infinite value as the largest number.
    finite = all(isfinite(loss) and abs(loss) < 1e300 for loss in losses if loss is not None)
    return finite and accuracy > CHANCE


def rejection_reason(challenger: Version, champion: Version | None) -> str:
    """Return why the evidence for a challenger does not hold; empty if it does."""
    evidence = confirmation_of(challenger)
    p_value = float(evidence.get("p_value", 1))
    if p_value >= SIGNIFICANT:
        return (
            f"its mean is higher, but p = {p_value:.2g} over {float(evidence.get('seeds', 0)):.0f} "
            f"seeds, and below {SIGNIFICANT} is wanted"
        )
    if champion:
        present = StoredTraining.load(champion.run_id).recipe.fingerprint()
        if present != evidence["champion_digest"]:
            return (
                f"it was compared with {evidence['champion']}, which is not the champion any more: "
                "run `search` again to compare it with the present one"
            )
    if challenger.tags.get(Tag.PARITY) != "passed":
        return "its exported model does not equal the trained one"
    return ""


def evidence_summary(challenger: Version) -> str:
    """Return in words what a challenger's confirmation has shown."""
    evidence = confirmation_of(challenger)
    mean, champion_mean = float(evidence["challenger_mean"]), float(evidence["champion_mean"])
    return (
        f"{challenger.tags[Tag.VARIANT]}: mean validation accuracy {mean:.2%} over "
        f"{float(evidence['seeds']):.0f} seeds, {evidence['champion']} {champion_mean:.2%} over the same "
        f"(corrected paired one-sided t-test, p = {float(evidence['p_value']):.2g})"
    )


def _comparison(candidates: Sequence[StoredTraining], passed_over: int) -> str:
    """Return in words how the first candidate compares with the second."""
    accuracies = [candidate.metric(Metric.BEST_VAL_ACCURACY) for candidate in candidates[:2]]
    best = f"{candidates[0].name}: validation accuracy {accuracies[0]:.2%}"
    if len(candidates) == 1:
        return f"{best}, the only finished training{' that is not passed over' if passed_over else ''}"
    tie = "the first of those with " if accuracies[0] == accuracies[1] else ""
    return (
        f"{best}, {tie}the highest validation accuracy of the variants' trainings"
        f"{' that are not passed over' if passed_over else ''}, before "
        f"{candidates[1].name} with {accuracies[1]:.2%}"
    )


def _table(candidates: Sequence[StoredTraining]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "run": candidate.name,
            "run_id": candidate.run_id,
            "val_accuracy": candidate.metric(Metric.BEST_VAL_ACCURACY),
            "val_loss": candidate.metric(Metric.BEST_VAL_LOSS),
            Tag.PARITY: candidate.tag(Tag.PARITY),
            Tag.WEIGHTS_SHA256: candidate.tag(Tag.WEIGHTS_SHA256),
        }
        for candidate in candidates
    )
