"""``promote``: the best training's model becomes the champion; ``rollback`` gives the alias back."""

from __future__ import annotations

import pandas as pd

from lenet_study import UserError, registry, tracking

COMPARED = 20  # best trainings listed in the run's table


def main(*, rollback: bool) -> None:
    """Promote or roll back, and say why."""
    with tracking.run("promote", stage="promote", params={"rollback": rollback}) as run:
        (roll_back if rollback else promote)(run)


def promote(run: tracking.Run) -> None:
    """Make the finished training with the highest validation accuracy the champion.

    Raises:
        UserError: There is no such training, its model is not registered, or its export was not
            proven equal to the trained model.
    """
    candidates = registry.trainings(limit=COMPARED)
    if not candidates:
        raise UserError("There is no finished training to promote: run `train` first")
    run.log_table(_table(candidates), "candidates.csv")
    best = candidates[0]
    accuracy = best.data.metrics["best/val_accuracy"]
    version = registry.version_of(best.info.run_id)
    if version is None:
        raise UserError(
            f"The best training ({best.info.run_name}, run {best.info.run_id}) has no registered "
            "model: train it again, or delete the run"
        )
    if best.data.tags.get("parity") != "passed":
        raise UserError(
            f"Version {version.version} ({best.info.run_name}) is not promoted: its exported model "
            "does not equal the trained one (parity.json in its run); train it again, or delete the run"
        )
    compared = "the only finished training"
    if len(candidates) > 1:
        second = candidates[1]
        second_accuracy = second.data.metrics["best/val_accuracy"]
        tie = "the first of those with " if second_accuracy == accuracy else ""
        compared = (
            f"{tie}the highest validation accuracy of the finished trainings, before "
            f"{second.info.run_name} with {second_accuracy:.2%}"
        )
    reason = f"{best.info.run_name}: validation accuracy {accuracy:.2%}, {compared}"
    _crown(run, version, reason)


def roll_back(run: tracking.Run) -> None:
    """Give the champion's alias back to the former champion; a second time undoes it.

    Raises:
        UserError: There is no former champion.
    """
    former = registry.holder(registry.PREVIOUS)
    if former is None:
        raise UserError("There is no former champion to go back to: nothing was rolled back")
    _crown(run, former, "rolled back by hand")


def _crown(run: tracking.Run, version: registry.Version, reason: str) -> None:
    champion = registry.holder(registry.CHAMPION)
    kept = champion is not None and champion.version == version.version
    run.set_tags(
        {
            "promoted.version": version.version,
            "promoted.reason": reason,
            "promoted.kept": str(kept).lower(),
            "former.version": champion.version if champion else "none",
        }
    )
    if kept:
        print(f"Version {version.version} stays {tracking.NAME}@{registry.CHAMPION}: {reason}.")
        return
    registry.crown(version, reason, run.id)
    former = f" in place of version {champion.version}" if champion else ""
    print(f"Version {version.version} is now {tracking.NAME}@{registry.CHAMPION}{former}: {reason}.")


def _table(runs: list[registry.Training]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "run": run.info.run_name,
            "run_id": run.info.run_id,
            "val_accuracy": run.data.metrics.get("best/val_accuracy"),
            "val_loss": run.data.metrics.get("best/val_loss"),
            "parity": run.data.tags.get("parity"),
            "weights.sha256": run.data.tags.get("weights.sha256"),
        }
        for run in runs
    )
