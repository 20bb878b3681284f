"""Colours, settings and axes that the pictures share."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lenet_study.recipes.variants import VARIANTS

# The first five stay 30 CIELAB units apart to any colour vision (simulated: Machado et al. 2009).
PALETTE = ("#8C8C8C", "#E69F00", "#56B4E9", "#117733", "#7B3294", "#CC3311", "#332288", "#44AA99")
COLOURS: dict[str, str] = dict(zip(VARIANTS, cycle(PALETTE), strict=False))
CHANGED = "#D55E00"
styled = rc_context(  # a decorator: the settings hold while a figure is made
    {
        "figure.dpi": 150,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10,
        "font.size": 9,
        "grid.color": "#E6E6E6",
        "legend.frameon": False,
    }
)


def new_figure(width: float, height: float, title: str = "") -> Figure:
    """Return an empty figure of so many inches, whose parts make room for each other."""
    figure = Figure((width, height), layout="constrained")
    if title:
        figure.suptitle(title, weight="bold", size=12)
    return figure


def draw_steps(axes: Axes, first: int, rates: Sequence[float], colour: str) -> None:
    """Draw the learning rates of consecutive epochs, from the first on, as a stair."""
    edges = np.arange(first, first + len(rates) + 1) - 0.5  # so that an epoch's step lies over its number
    axes.stairs(rates, edges, baseline=None, color=colour, lw=1.8)
