"""`make bench`: measures, prints tables, and writes them as JSON."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import click
import pandas as pd
import torch

from bench import costs, growth, speed
from lenet_study.device import cores
from lenet_study.variants import VARIANTS


@click.command()
@click.option("--variants", default=",".join(VARIANTS), show_default=True, help="Which to measure.")
@click.option("--images", default=9_600, show_default=True, help="Images of an epoch; scaled to 48,000.")
@click.option("--rounds", default=3, show_default=True, help="Measured rounds, after one to warm up.")
@click.option(
    "--parts", default="speed,side,costs,training,store", show_default=True, help="What to measure."
)
@click.option("--runs", default="1,1000,10000", show_default=True, help="Sizes of the store.")
@click.option("--output", default="bench/results.json", show_default=True, help="Where the tables go.")
def main(variants: str, images: int, rounds: int, parts: str, runs: str, output: str) -> None:
    """Measure the project's speed beside other ways to do the same, and its costs as work grows."""
    growth.data_is_ready()
    names, wanted = variants.split(","), parts.split(",")
    torch.set_num_threads(cores())
    tables: dict[str, pd.DataFrame] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "speed" in wanted:
            tables["seconds per epoch, all cores on one training"] = speed.versus(
                names, images, rounds, folder
            )
        if "side" in wanted:
            tables["seconds per epoch and training, side by side"] = speed.side_by_side(
                names, images, 2, cores(), folder
            )
        if "costs" in wanted:
            tables["costs"] = costs.costs(names[-1], folder)
        if "training" in wanted:
            tables["growth of a training"] = growth.of_training(names[-1])
        if "store" in wanted:
            tables["growth of the store"] = growth.of_store(
                [int(count) for count in runs.split(",")], folder, rounds
            )
    machine = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": cores(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load before": os.getloadavg()[0],
    }
    for title, table in tables.items():
        print(f"\n{title}\n{table.to_string(index=False)}")
    records = {title: table.to_dict("records") for title, table in tables.items()}
    Path(output).write_text(json.dumps({"machine": machine, "tables": records}, indent=2) + "\n")
    print(f"\nWritten to {output}")


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")


if __name__ == "__main__":
    main()
