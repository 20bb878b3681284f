"""The test images that most models get wrong."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from lenet_study.evidence.report.content import Evidence, predictions_of
from lenet_study.evidence.report.image_sheet import nearest, single
from lenet_study.training.model import CLASSES

SHOWN = 18


@dataclass(frozen=True)
class HardImage:
    """One test image, and what models make of it."""

    number: int  # in the file of test images
    source: str  # ``data:`` address; empty without the images
    true: str
    predicted: str  # by most of the models that are wrong
    wrong: int
    models: int
    probability: float  # mean probability of the true class, 0..1
    nearest: str = ""  # ``data:`` address of the nearest training image
    nearest_class: str = ""


def hardest_images(evidence: Evidence, shown: int = SHOWN) -> list[HardImage]:
    """Return the images that most models get wrong; among equals, those whose class they believe least."""
    tables = list(predictions_of(evidence.results).values())
    if not tables:
        return []
    wrong = sum((table["true"] != table["predicted"]).to_numpy(dtype=int) for table in tables)
    belief = np.mean([table["true_probability"].to_numpy(dtype=float) for table in tables], axis=0)
    rows = np.lexsort((belief, -np.asarray(wrong)))[:shown]
    guesses = np.stack([table["predicted"].to_numpy() for table in tables])
    made = []
    for row in rows.tolist():
        true = str(tables[0]["true"].iloc[row])
        others = Counter(str(guess) for guess in guesses[:, row] if guess != true)
        predicted = min(others, key=lambda name: (-others[name], name), default=true)
        source = single(evidence.images.images[row]) if evidence.images else ""
        made.append(
            HardImage(row, source, true, predicted, int(np.asarray(wrong)[row]), len(tables), belief[row])
        )
    return _with_neighbours(evidence, [image for image in made if image.wrong])


def _with_neighbours(evidence: Evidence, hard: list[HardImage]) -> list[HardImage]:
    """Return the images with their nearest training images, if there are any to look at."""
    images, others = evidence.images, evidence.training_images
    if not (images and others and hard):
        return hard
    rows = nearest(images.images[[image.number for image in hard]], others)
    return [
        HardImage(
            *(image.number, image.source, image.true, image.predicted),
            *(image.wrong, image.models, image.probability),
            single(others.images[row]),
            CLASSES[int(others.labels[row])],
        )
        for image, row in zip(hard, rows, strict=True)
    ]
