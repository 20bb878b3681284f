"""Foreign models: TorchScript files of other projects, scored on the same images as our own.

To score such a file is to run its code; docs/evaluate.md tells what that can do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lenet_study.errors import UserError
from lenet_study.evidence.comparison import OnImages
from lenet_study.evidence.inputs import Inputs, Scale
from lenet_study.evidence.predictions import Predictions, outputs
from lenet_study.training.dataset import Normalisation, Split
from lenet_study.training.model import CLASSES

GUESS_IMAGES = 5000  # validation images on which a scale is found; more tell no more and take longer
SURE = 0.001  # largest p-value (exact McNemar) at which the better of two scales is believed
_WANTED = f"logits [N, {len(CLASSES)}], alone or followed by those of two auxiliary heads"


@dataclass(frozen=True)
class ForeignModule:
    """A module as it was read, where it computes, and what the user calls it."""

    module: torch.jit.ScriptModule
    device: torch.device
    reference: str

    def answers(self, images: Tensor, normalisation: Normalisation) -> tuple[Tensor, ...]:
        """Return what the classifier, and two auxiliary heads if it has them, answer: float32 [N, 10].

        Raises:
            UserError: The module cannot be run on such images, or answers in other shapes.
        """
        return outputs(lambda batch: self._heads(normalisation(batch)), images, self.device)

    def _heads(self, batch: Tensor) -> list[Tensor]:
        count = len(batch)
        try:
            answer = self.module(batch)
        except Exception as error:  # of many kinds: the code is not ours
            reason = (str(error).splitlines() or [type(error).__name__])[-1][:200]
            raise UserError(
                f"model={self.reference} fails on images {list(batch.shape)} ({reason}): "
                "name a model of grey images of 28 × 28 pixels"
            ) from error
        parts = answer if isinstance(answer, tuple | list) else (answer,)
        shapes = [list(part.shape) if isinstance(part, Tensor) else type(part).__name__ for part in parts]
        wanted = [count, len(CLASSES)]
        if not shapes or shapes[0] != wanted:
            answered = ", ".join(map(str, shapes)) or "nothing"
            raise UserError(
                f"model={self.reference} answers {count} images with {answered}: name a model that returns "
                f"{_WANTED}"
            )
        heads = parts[:3] if shapes[1:3] == [wanted, wanted] else parts[:1]
        return [head.float() for head in heads]


@dataclass(frozen=True)
class ForeignModel:
    """A foreign module, and what was found out about it."""

    module: ForeignModule
    scale: Scale
    normalisation: Normalisation  # gives images this scale
    reason: str  # for the scale, in words
    probabilities: bool  # whether it answers with probabilities instead of logits

    def predict(self, split: Split) -> Predictions:
        """Predict all images; the logarithms of probabilities count as logits."""
        answers = self.module.answers(split.images, self.normalisation)
        if self.probabilities:
            least = torch.finfo(torch.float32).tiny  # the logarithm of zero is not finite
            answers = tuple(answer.clamp(min=least).log() for answer in answers)
        first, second = answers[1:] or (None, None)
        return Predictions(answers[0], first, second, None, split.labels)


def examine(module: ForeignModule, inputs: Inputs, train: Tensor, validation: Split) -> ForeignModel:
    """Find out which images a foreign module expects, and whether its answers can be scored.

    Args:
        module: The module.
        inputs: Scale of its images; ``auto`` takes the one with the highest accuracy.
        train: uint8 [N, 28, 28], the images whose mean and deviation normalise.
        validation: Images that choose the scale; the test split never does.

    Raises:
        UserError: As ``ForeignModule.answers`` does; the answers are not finite; or no scale is significantly
            better than the others.
    """
    normalisations = scales(train)
    candidates = normalisations if inputs == "auto" else {inputs: normalisations[inputs]}
    logits = {scale: module.answers(validation.images, candidates[scale])[0] for scale in candidates}
    right = {
        scale: (answer.argmax(1) == validation.labels) & answer.isfinite().all(1)
        for scale, answer in logits.items()
    }
    scale = max(right, key=lambda candidate: int(right[candidate].sum()))
    if not logits[scale].isfinite().all():
        raise UserError(
            f"model={module.reference} answers with numbers that are not finite: name another model"
        )
    reason = _reason(right, scale, module.reference) if inputs == "auto" else f"as inputs={inputs} says"
    return ForeignModel(module, scale, candidates[scale], reason, _are_probabilities(logits[scale]))


def scales(train: Tensor) -> dict[Scale, Normalisation]:
    """Return what turns grey levels into images of each scale; ``train`` is as in ``examine``."""
    return {
        "unit": Normalisation(mean=0, std=1),
        "normalised": Normalisation.of(train),
        "symmetric": Normalisation(mean=0.5, std=0.5),
    }


def _reason(right: Mapping[Scale, Tensor], best: Scale, reference: str) -> str:
    """Return in words why one scale was taken: ``right`` tells for each which images were classified so.

    Raises:
        UserError: Another one is as good, but for chance.
    """
    count = len(right[best])
    shares = ", ".join(f"{scale} {100 * int(hits.sum()) / count:.1f} %" for scale, hits in right.items())
    measured = f"{shares} right of {count:,} validation images"
    for other in right.keys() - {best}:
        if OnImages.of(right[best].numpy(), right[other].numpy()).test.p_value > SURE:
            raise UserError(
                f"model={reference} does not show which images it expects ({measured}): say it by "
                f"inputs={', '.join(list(right)[:-1])} or {list(right)[-1]}"
            )
    return measured


def _are_probabilities(answer: Tensor) -> bool:
    """Whether rows [N, 10] are probabilities: not negative, with sums of one."""
    return bool((answer >= 0).all() and ((answer.sum(1) - 1).abs() < 1e-3).all())
