"""``data``: find or fetch Fashion-MNIST, and verify it."""

from __future__ import annotations

from lenet_study.execution.reporter import Reporter
from lenet_study.training.data_files import DataFiles


def verify_data(data: DataFiles, reporter: Reporter = Reporter()) -> None:
    """Find or fetch the data, check it, and say where it is. Raises as ``DataFiles.train``."""
    reporter.message(f"Fashion-MNIST is in {data.verify()}; all four files have the published SHA-256 sums.")
