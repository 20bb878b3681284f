"""Verdicts on a training that was done again: identical, equivalent, or differs."""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
from torch import Tensor

from lenet_study.evidence.comparison import OnImages
from lenet_study.training.history import Epoch

DELTA = 0.005  # of accuracy; half of one accuracy's 95 % interval on 10,000 images, fixed before looking
_FINAL = b" : Final["  # marks a constant in TorchScript's code
_NUMBER = re.compile(rb"[./]___torch_mangle_\d+")  # of a class that is not the first of its name in a process


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of a training, as far as it can be compared."""

    history: tuple[Epoch, ...]
    weights_sha256: str
    torchscript_digest: str  # of ``torchscript_digest``
    logits: Tensor  # float32 [N, 10] of the images that are compared


@dataclass(frozen=True, kw_only=True)
class FactChange:
    """A fact that decides bits, as it was recorded and as it is now."""

    fact: str
    recorded: str
    now: str

    def __str__(self) -> str:
        """Return it in words."""
        return f"{self.fact}: {self.recorded}, now {self.now}"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A verdict on a repetition, with the figures of its comparison."""

    kind: Literal["identical", "equivalent", "differs"]
    sentence: str
    unequal: Sequence[str]  # of weights, metrics, exported file and predictions
    first_epoch: str  # first epoch and metric that differ; empty if none does
    figures: Mapping[str, float]  # see ``schema.Metric.REPRODUCE_FIGURE``


def judge(
    recorded: Outcome,
    repeated: Outcome,
    labels: Tensor,
    causes: Sequence[str],
    file_causes: Sequence[str] = (),
) -> Verdict:
    """Judge a repetition.

    It is *identical* if weights, all epochs' metrics, the exported file and the predictions are equal. It is
    *equivalent* if something that decides bits has changed and the accuracies on the compared images are at
    most ``DELTA`` apart. Otherwise it *differs*.

    Args:
        recorded: The result that the store holds.
        repeated: That of the repetition, on the same images.
        labels: True classes of these images, int64 [N].
        causes: Changes, in words, of what decides the bits of weights.
        file_causes: Changes, in words, that explain another exported file of the same weights.
    """
    first = first_difference(recorded.history, repeated.history)
    equal = {
        "weights": recorded.weights_sha256 == repeated.weights_sha256,
        "metrics": not first,
        "exported file": recorded.torchscript_digest == repeated.torchscript_digest,
        "predictions": recorded.logits.equal(repeated.logits),
    }
    unequal = [name for name, same in equal.items() if not same]
    reasons = [*causes, *(file_causes if unequal == ["exported file"] else ())]
    figures = compare(recorded.logits, repeated.logits, labels)
    apart = abs(figures["difference"]) > DELTA + 1e-12  # 60 of 12,000 images more are within it
    if not unequal:
        what = "weights, all epochs' metrics, exported file and predictions are equal"
        return Verdict(kind="identical", sentence=what, unequal=(), first_epoch="", figures=figures)
    found = f"{', '.join(unequal)} not equal{f', first in {first}' if first else ''}; {_in_words(figures)}"
    if apart:
        sentence = f"the accuracies are more than {100 * DELTA} points apart; {found}"
    elif not reasons:
        sentence = f"nothing that decides bits is known to have changed; {found}"
    else:
        sentence = f"{found}; within {100 * DELTA} points"
    kind: Literal["equivalent", "differs"] = "differs" if apart or not reasons else "equivalent"
    return Verdict(kind=kind, sentence=sentence, unequal=unequal, first_epoch=first, figures=figures)


def first_difference(recorded: Sequence[Epoch], repeated: Sequence[Epoch]) -> str:
    """Return the first epoch and metric that differ, in words; empty if none does."""
    table = histories(recorded, repeated)
    unequal = table[~table["equal"].astype(bool)]
    if unequal.empty:
        return ""
    row = unequal.iloc[0]
    return f"epoch {row['epoch']}: {row['metric']} {row['recorded']}, now {row['repeated']}"


def histories(recorded: Sequence[Epoch], repeated: Sequence[Epoch]) -> pd.DataFrame:
    """Return a row for each epoch and metric but the time: as recorded, as repeated, and whether equal."""
    rows = []
    for number in range(max(len(recorded), len(repeated))):
        was, now = (
            asdict(history[number]) if number < len(history) else {} for history in (recorded, repeated)
        )
        for metric in (was or now).keys() - {"epoch", "seconds"}:
            rows.append((number + 1, metric, was.get(metric), now.get(metric)))
    table = pd.DataFrame(rows, columns=["epoch", "metric", "recorded", "repeated"], dtype=object)
    table["equal"] = [was == now for was, now in zip(table["recorded"], table["repeated"], strict=True)]
    return table.sort_values(["epoch", "metric"], ignore_index=True)


def compare(recorded: Tensor, repeated: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the figures of two models' logits [N, 10] for the same images; differences are now less then."""
    classes = recorded.argmax(1), repeated.argmax(1)
    now, then = classes[1] == labels, classes[0] == labels
    images = OnImages.of(now.numpy(), then.numpy())
    interval, test = images.difference, images.test
    return {
        "recorded_accuracy": then.double().mean().item(),
        "repeated_accuracy": now.double().mean().item(),
        "difference": interval.difference,
        "difference_low": interval.low,
        "difference_high": interval.high,
        "p_value": test.p_value,
        "mid_p_value": test.mid_p_value,
        "class_agreement": (classes[0] == classes[1]).double().mean().item(),
        "max_abs_difference": (recorded - repeated).abs().max().item(),
    }


def torchscript_digest(path: Path) -> str:
    """Return a SHA-256 sum over what a TorchScript file says, the same in all processes.

    The file's own sum is not: torch keeps a module's constants in a set, so that Python's random hashes
    decide their order in the file, and it numbers the classes of all models that a process has exported.
    From both follow ``serialization_id`` and the pickles that map the code to its source.
    """
    digest = hashlib.sha256()
    with zipfile.ZipFile(path) as file:
        for name in file.namelist():
            if name.endswith(("/.data/serialization_id", ".debug_pkl")):
                continue
            lines = _NUMBER.sub(b"", file.read(name)).split(b"\n")
            if name.endswith(".py"):
                lines = sorted(lines, key=lambda line: (_FINAL in line, line if _FINAL in line else b""))
            digest.update(_NUMBER.sub(b"", name.encode()) + b"\n".join(lines))
    return digest.hexdigest()


def _in_words(figures: Mapping[str, float]) -> str:
    low, high = (100 * figures[name] for name in ("difference_low", "difference_high"))
    return (
        f"accuracy {figures['recorded_accuracy']:.2%}, now {figures['repeated_accuracy']:.2%} "
        f"(95 % interval of the difference {low:+.2f} to {high:+.2f} points, McNemar's exact "
        f"p {figures['p_value']:.2g}), the same class on {figures['class_agreement']:.2%} of the images"
    )
