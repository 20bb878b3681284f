"""``promote``: the best training's model becomes the champion; ``rollback`` gives the alias back."""

from __future__ import annotations

import pandas as pd

from lenet_study.errors import UserError
from lenet_study.tracking import registry
from lenet_study.tracking import run as tracking

SIGNIFICANT = 0.05  # p of the paired t-test below which a challenger's evidence counts
COMPARED = 20  # best trainings listed in the run's table


def main(*, rollback: bool) -> None:
    """Promote or roll back, and say why."""
    with tracking.run("promote", stage="promote", params={"rollback": rollback}) as run:
        (roll_back if rollback else promote)(run)


def promote(run: tracking.Run) -> None:
    """Make the challenger of a search the champion if its evidence holds, else the best training.

    The best training is the finished one of the five variants with the highest validation accuracy; it
    does not displace a champion that was confirmed over several seeds.

    Raises:
        UserError: There is no such training, its model is not registered, or its export was not
            proven equal to the trained model.
    """
    challenger, champion = registry.holder(registry.CHALLENGER), registry.holder(registry.CHAMPION)
    if challenger:
        doubt = _doubt(challenger, champion)
        run.set_tags({"challenger.version": challenger.version, "challenger.doubt": doubt or "none"})
        if not doubt:
            _crown(run, challenger, _proof(challenger))
            registry.drop_challenger()
            return
        print(f"Version {challenger.version}, the challenger, is not promoted: {doubt}.")
    if champion and "confirm.p_value" in champion.tags:
        run.set_tags({"promoted.version": champion.version, "promoted.kept": "true"})
        print(
            f"Version {champion.version} stays {tracking.NAME}@{registry.CHAMPION}: it was confirmed over "
            f"{float(champion.tags['confirm.seeds']):.0f} seeds, and a single training proves less"
        )
        return
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
            f"{tie}the highest validation accuracy of the variants' trainings, before "
            f"{second.info.run_name} with {second_accuracy:.2%}"
        )
    reason = f"{best.info.run_name}: validation accuracy {accuracy:.2%}, {compared}"
    _crown(run, version, reason)


def _doubt(challenger: registry.Version, champion: registry.Version | None) -> str:
    """Why the evidence for a challenger does not hold; nothing if it does."""
    tags = challenger.tags
    p_value = float(tags.get("confirm.p_value", 1))
    if p_value >= SIGNIFICANT:
        return (
            f"its mean is higher, but p = {p_value:.2g} over {float(tags.get('confirm.seeds', 0)):.0f} "
            f"seeds, and below {SIGNIFICANT} is wanted"
        )
    if champion and registry.recipe_of(champion).digest() != tags["confirm.champion_digest"]:
        return (
            f"it was compared with {tags['confirm.champion']}, which is not the champion any more: "
            "run `search` again to compare it with the present one"
        )
    if tags.get("parity") != "passed":
        return "its exported model does not equal the trained one"
    return ""


def _proof(challenger: registry.Version) -> str:
    values = {name: float(challenger.tags[f"confirm.{name}"]) for name in ("seeds", "p_value")}
    means = {side: float(challenger.tags[f"confirm.{side}_mean"]) for side in ("challenger", "champion")}
    return (
        f"{challenger.tags['variant']}: mean validation accuracy {means['challenger']:.2%} over "
        f"{values['seeds']:.0f} seeds, {challenger.tags['confirm.champion']} {means['champion']:.2%} over "
        f"the same (corrected paired one-sided t-test, p = {values['p_value']:.2g})"
    )


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
