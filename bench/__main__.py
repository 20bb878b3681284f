"""`make bench`: measures, prints tables, and writes them as JSON."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import click
import pandas as pd
import torch

from bench import costs, growth, speed
from lenet_study.recipes.variants import VARIANTS
from lenet_study.training import fashion_mnist as data
from lenet_study.training.hardware import Hardware, cores

STUDY = ("study", "--epochs", "1", "--folds", "2")
SEARCH = ("search", "--trials", "20", "--max-epochs", "4", "--max-parameters", "100000")
SEARCH += ("--pruner", "NopPruner", "--confirm-seeds", "0")


@click.command()
@click.option("--variants", default=",".join(VARIANTS), show_default=True, help="Which to measure.")
@click.option("--images", default=9_600, show_default=True, help="Images of an epoch; scaled to 48,000.")
@click.option("--rounds", default=3, show_default=True, help="Measured rounds, after one to warm up.")
@click.option(
    "--parts",
    default="speed,side,costs,training,study,search,store",
    show_default=True,
    help="What to measure.",
)
@click.option("--runs", default="1,1000,10000", show_default=True, help="Sizes of the store.")
@click.option(
    "--output", default="bench/results.json", show_default=True, help="Where the tables go; others stay."
)
def main(variants: str, images: int, rounds: int, parts: str, runs: str, output: str) -> None:
    """Measure the project's speed beside other ways to do the same, and its costs as work grows."""
    data.load_train(data.folder_of())  # found or fetched before anything is measured
    names, wanted = variants.split(","), parts.split(",")
    Hardware(device="cpu").prepare()
    results = json.loads(Path(output).read_text()) if Path(output).exists() else {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tables: dict[str, tuple[str, Callable[[], pd.DataFrame]]] = {
            "speed": (
                "seconds per epoch, all cores on one training",
                lambda: speed.versus(names, images, rounds, folder),
            ),
            "side": (
                "seconds per epoch and training, side by side",
                lambda: speed.side_by_side(names, images, 2, cores(), folder),
            ),
            "costs": ("costs", lambda: costs.costs(names[-1], folder)),
            "training": ("growth of a training", lambda: growth.of_training(names[-1])),
            "study": (
                "growth of a study of one epoch, against workers of one thread",
                lambda: growth.of_workers(STUDY, sorted({1, cores()}), folder),
            ),
            "search": (
                "growth of a search of twenty small trials, against workers of one thread",
                lambda: growth.of_workers(SEARCH, sorted({1, cores()}), folder),
            ),
            "store": (
                "growth of the store",
                lambda: growth.of_store([int(count) for count in runs.split(",")], folder, rounds),
            ),
        }
        for part in wanted:
            title, measure = tables[part]
            machine = _machine()
            table = measure()
            print(f"\n{title}\n{table.to_string(index=False)}", flush=True)
            results[title] = {"machine": machine, "table": table.to_dict("records")}
            Path(output).write_text(json.dumps(results, indent=2) + "\n")
    print(f"\nWritten to {output}")


def _machine() -> dict[str, object]:
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": cores(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load before": os.getloadavg()[0],
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")


if __name__ == "__main__":
    main()
