"""`make faults`: injects faults, prints what became of the work, and writes it into docs/reliability.md."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import click

from bench.reliability import page
from bench.reliability.examined import examinations
from bench.reliability.flips import flips
from bench.reliability.fresh_store import fresh_stores, fresh_stores_of_mlflow
from bench.reliability.full_disk import full_disks
from bench.reliability.interruptions import interruptions
from bench.reliability.kills import study_kills, training_kills
from bench.reliability.mistakes import mistakes
from bench.reliability.moves import moves
from bench.reliability.power_cut import power_cuts
from bench.reliability.races import races
from bench.reliability.repetitions import repetitions
from bench.reliability.row import Row
from bench.reliability.store_away import outages, slow_stores
from bench.reliability.stores import ToyStores


@dataclass(frozen=True)
class Part:
    """A kind of fault.

    Attributes:
        title: Heading of its table.
        inject: Injects it into stores so many times.
        tries: How many times in a full measurement.
    """

    title: str
    inject: Callable[[ToyStores, int], list[Row]]
    tries: int


PARTS: Mapping[str, Part] = {
    "kills": Part("A training is killed", training_kills, 50),
    "studies": Part("A study is killed", study_kills, 10),
    "signals": Part("A command is told to end", interruptions, 20),
    "power": Part("The power fails", power_cuts, 10),
    "fresh": Part("A fresh store is opened by several at once", fresh_stores, 50),
    "mlflow": Part("A fresh store is opened by several `mlflow run` at once", fresh_stores_of_mlflow, 10),
    "away": Part("The store is away or locked", outages, 3),
    "slow": Part("The store is slow", slow_stores, 3),
    "disk": Part("The disk is full", full_disks, 10),
    "flips": Part("A file is damaged", flips, 300),
    "backup": Part("A store is moved, or lost and restored", moves, 5),
    "races": Part("Several change the champion at once", races, 200),
    "reproduce": Part("A finished training is done again", repetitions, 5),
    "doctor": Part("Something is wrong, and `doctor` examines it", examinations, 3),
    "mistakes": Part("A user is mistaken", mistakes, 300),
}


@click.command()
@click.option(
    "--parts", default=",".join(PARTS), show_default=True, help="Which faults; the others' tables stay."
)
@click.option("--scale", default=1.0, show_default=True, help="Share of the tries to make; one at least.")
@click.option("--seed", default=0, show_default=True, help="Of the moments at which faults are injected.")
@click.option(
    "--page",
    "path",
    default="docs/reliability.md",
    show_default=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Where the tables go.",
)
def main(parts: str, scale: float, seed: int, path: Path) -> None:
    """Inject faults into commands on toy images, and say how many ended as promised."""
    unknown = sorted(set(parts.split(",")) - PARTS.keys())
    if unknown:
        raise click.BadParameter(
            f"{', '.join(unknown)}: choose from {', '.join(PARTS)}", param_hint="--parts"
        )
    # A connection that is kept takes a database that was put back for the one that it has read.
    os.environ["MLFLOW_SQLALCHEMYSTORE_POOLCLASS"] = "NullPool"
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        stores = ToyStores(Path(folder))
        for name in parts.split(","):
            part = PARTS[name]
            stores.random.seed(f"{name} {seed}")  # the same moments, whichever parts come before
            rows = part.inject(stores, max(1, round(part.tries * scale)))
            section = page.section(part.title, rows)
            print(f"\n{section}", flush=True)
            page.write(path, {part.title: section}, [each.title for each in PARTS.values()])
    print(f"Written to {path}")


if __name__ == "__main__":
    main()
