"""Statistical tests of the project's claims."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class PairedTest:
    """Mean and spread of paired differences, and Student's t-test of them."""

    mean: float
    std: float  # of the sample; 0 for a single pair
    statistic: float  # one degree of freedom fewer than pairs; NaN if differences do not vary, or for one
    p_value: float  # of this statistic or a more extreme one if there were no difference; 1 for NaN


def corrected_paired_t_test(
    differences: Sequence[float], ratio: float, alternative: Literal["two-sided", "greater"] = "two-sided"
) -> PairedTest:
    """Test whether paired differences have a mean other than zero, where the pairs' images overlap.

    Accuracies of splits that share images are not independent, so that the plain variance of their mean,
    s²/n, is too small. Here it is s²(1/n + ratio): C. Nadeau and Y. Bengio, "Inference for the
    generalization error", Machine Learning 52, 2003.

    The ratio is that of validation to training images, such as 0.2 / 0.8; 0 gives Student's plain paired
    t-test. The alternative ``greater`` tests for a mean above zero only.

    >>> round(corrected_paired_t_test([1.0, 2.0, 4.0], ratio=0.25).statistic, 4)
    2.0
    """
    values = np.asarray(differences, dtype=float)
    count, mean = len(values), float(values.mean())
    std = float(values.std(ddof=1)) if count > 1 else 0.0
    if std == 0:
        return PairedTest(mean, std, math.nan, 1.0)
    statistic = mean / (std * math.sqrt(1 / count + ratio))
    p_value = float(stats.t.sf(statistic, count - 1))
    if alternative == "two-sided":
        p_value = 2 * float(stats.t.sf(abs(statistic), count - 1))
    return PairedTest(mean, std, statistic, p_value)
