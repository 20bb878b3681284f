"""``promote``: the best model becomes the champion; ``rollback`` gives the alias back."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from lenet_study.errors import UserError
from lenet_study.execution.reporter import Reporter
from lenet_study.tracking import registry
from lenet_study.tracking.registry import CHALLENGER, CHAMPION, PREVIOUS, Version, confirmation_of
from lenet_study.tracking.run import Run, open_run
from lenet_study.tracking.schema import File, Metric, Tag
from lenet_study.tracking.store import NAME
from lenet_study.tracking.stored_training import StoredTraining, finished_trainings

SIGNIFICANT = 0.05  # p of the paired t-test below which a challenger's evidence counts
COMPARED = 20  # best trainings listed in the run's table


def promote(*, rollback: bool = False, reporter: Reporter = Reporter()) -> None:
    """Promote the best model, or roll the last promotion back, in a run of its own; raise as those do."""
    with open_run("promote", stage="promote", params={"rollback": rollback}) as run:
        (roll_back if rollback else promote_best)(run, reporter)


def promote_best(run: Run, reporter: Reporter) -> None:
    """Make the challenger of a search the champion if its evidence holds, else the best training.

    The best training is the finished one of the variants with the highest validation accuracy; it does not
    displace a champion that was confirmed over several seeds.

    Raises:
        UserError: There is no such training, its model is not registered, or its export was not
            proven equal to the trained model.
    """
    challenger = registry.version_with_alias(CHALLENGER)
    champion = registry.version_with_alias(CHAMPION)
    if challenger:
        reason = rejection_reason(challenger, champion)
        run.set_tags({Tag.CHALLENGER_VERSION: challenger.version, Tag.CHALLENGER_REJECTED: reason or "none"})
        if not reason:
            _set_champion(run, challenger, evidence_summary(challenger), reporter)
            registry.drop_challenger()
            return
        reporter.message(f"Version {challenger.version}, the challenger, is not promoted: {reason}.")
    if champion and "p_value" in (confirmation := confirmation_of(champion)):
        run.set_tags({Tag.PROMOTED_VERSION: champion.version, Tag.PROMOTED_KEPT: "true"})
        reporter.message(
            f"Version {champion.version} stays {NAME}@{CHAMPION}: it was confirmed over "
            f"{float(confirmation['seeds']):.0f} seeds, and a single training proves less"
        )
        return
    candidates = finished_trainings(COMPARED)
    if not candidates:
        raise UserError("There is no finished training to promote: run `train` first")
    run.log_table(_table(candidates), File.CANDIDATES)
    _set_champion(run, _registered_version(candidates[0]), _comparison(candidates), reporter)


def roll_back(run: Run, reporter: Reporter) -> None:
    """Give the champion's alias back to the former champion, if there is one; a second time undoes it."""
    former = registry.version_with_alias(PREVIOUS)
    if former is None:
        raise UserError("There is no former champion to go back to: nothing was rolled back")
    _set_champion(run, former, "rolled back by hand", reporter)


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


def _registered_version(best: StoredTraining) -> Version:
    """Return the version of the best training, which must be registered and proven."""
    version = registry.version_of(best.run_id)
    if version is None:
        raise UserError(
            f"The best training ({best.name}, run {best.run_id}) has no registered "
            "model: train it again, or delete the run"
        )
    if best.tag(Tag.PARITY) != "passed":
        raise UserError(
            f"Version {version.version} ({best.name}) is not promoted: its exported model "
            "does not equal the trained one (parity.json in its run); train it again, or delete the run"
        )
    return version


def _comparison(candidates: Sequence[StoredTraining]) -> str:
    """Return in words how the first candidate compares with the second."""
    accuracies = [candidate.metric(Metric.BEST_VAL_ACCURACY) for candidate in candidates[:2]]
    best = f"{candidates[0].name}: validation accuracy {accuracies[0]:.2%}"
    if len(candidates) == 1:
        return f"{best}, the only finished training"
    tie = "the first of those with " if accuracies[0] == accuracies[1] else ""
    return (
        f"{best}, {tie}the highest validation accuracy of the variants' trainings, before "
        f"{candidates[1].name} with {accuracies[1]:.2%}"
    )


def _set_champion(run: Run, version: Version, reason: str, reporter: Reporter) -> None:
    """Give a version the champion's alias, write down why, and say so."""
    champion = registry.version_with_alias(CHAMPION)
    stays = champion is not None and champion.version == version.version
    run.set_tags(
        {
            Tag.PROMOTED_VERSION: version.version,
            Tag.PROMOTED_REASON: reason,
            Tag.PROMOTED_KEPT: str(stays).lower(),
            Tag.FORMER_VERSION: champion.version if champion else "none",
        }
    )
    if stays:
        reporter.message(f"Version {version.version} stays {NAME}@{CHAMPION}: {reason}.")
        return
    registry.set_champion(version, reason, run.id)
    former = f" in place of version {champion.version}" if champion else ""
    reporter.message(f"Version {version.version} is now {NAME}@{CHAMPION}{former}: {reason}.")


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
