"""`make bench`: measures, prints tables, and writes them as JSON."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import click
import pandas as pd

from bench import checkpoints, costs, growth, neighbours, speed, steps
from bench.machine import machine
from lenet_study.recipes.variants import VARIANTS
from lenet_study.training.data_files import DataFiles
from lenet_study.training.hardware import cores

STUDY = ("study", "--epochs", "1", "--folds", "2")
SEARCH = ("search", "--trials", "20", "--max-epochs", "4", "--max-parameters", "100000")
SEARCH += ("--pruner", "NopPruner", "--confirm-seeds", "0")
PARTS = "speed,side,steps,faults,neighbours,costs,checkpoints,training,study,search,store"


@click.command()
@click.option("--variants", default=",".join(VARIANTS), show_default=True, help="Which to measure.")
@click.option("--images", default=9_600, show_default=True, help="Images of an epoch; scaled to 48,000.")
@click.option("--rounds", default=3, show_default=True, help="Measured rounds.")
@click.option("--seconds", default=4.0, show_default=True, help="Of each measurement of single steps.")
@click.option("--busy", default="0,2,4", show_default=True, help="Numbers of busy neighbours.")
@click.option("--parts", default=PARTS, show_default=True, help="What to measure.")
@click.option("--runs", default="1,1000,10000", show_default=True, help="Sizes of the store.")
@click.option(
    "--output", default="bench/results.json", show_default=True, help="Where the tables go; others stay."
)
def main(
    variants: str, images: int, rounds: int, seconds: float, busy: str, parts: str, runs: str, output: str
) -> None:
    """Measure the project's speed beside other ways to do the same, and its costs as work grows."""
    DataFiles.at().ensure()  # before anything is measured
    names = variants.split(",")
    different = [name for name in names if name not in neighbours.ALIKE] or names
    results = json.loads(Path(output).read_text()) if Path(output).exists() else {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tables: dict[str, tuple[str, Callable[[], pd.DataFrame]]] = {
            "speed": (
                "seconds per epoch, one training at a time",
                lambda: speed.versus(names, images, rounds, folder),
            ),
            "side": (
                "seconds per epoch and training, side by side",
                lambda: speed.side_by_side(names, images, 2, cores(), folder),
            ),
            "steps": (
                "a single step and what changes it, one thread",
                lambda: steps.single_steps(different, seconds, rounds),
            ),
            "faults": (
                "page faults per step, one thread",
                lambda: steps.faults_per_step(different, images, seconds, rounds),
            ),
            "neighbours": (
                "a single step beside busy neighbours",
                lambda: neighbours.beside_neighbours(different, _numbers(busy), seconds, rounds),
            ),
            "costs": ("costs", lambda: costs.costs(names[-1], folder)),
            "checkpoints": (
                "a checkpoint after each epoch",
                lambda: checkpoints.checkpoints(names, images, rounds, folder),
            ),
            "training": ("growth of a training", lambda: growth.of_training(names[-1])),
            "study": (
                "growth of a study of one epoch, against workers of one thread",
                lambda: growth.of_workers(STUDY, sorted({1, cores()}), folder),
            ),
            "search": (
                "growth of a search of twenty small trials, against workers of one thread",
                lambda: growth.of_workers(SEARCH, sorted({1, cores()}), folder),
            ),
            "store": ("growth of the store", lambda: growth.of_store(_numbers(runs), folder, rounds)),
        }
        for part in parts.split(","):
            title, measure = tables[part]
            measured_on = machine()
            table = measure()
            print(f"\n{title}\n{table.to_string(index=False)}", flush=True)
            results[title] = {"machine": measured_on, "table": table.to_dict("records")}
            Path(output).write_text(json.dumps(results, indent=2) + "\n")
    print(f"\nWritten to {output}")


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


if __name__ == "__main__":
    main()
