"""``data``: find or fetch Fashion-MNIST, and verify it."""

from __future__ import annotations

from lenet_study.training import fashion_mnist as data


def main(*, data_dir: str) -> None:
    """Say where the verified files are."""
    place = data.verify(data.folder_of(data_dir))
    print(f"Fashion-MNIST is in {place}; all four files have the published SHA-256 sums.")
