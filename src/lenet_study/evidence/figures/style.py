"""Colours, settings and axes that the pictures share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import cycle

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure

from lenet_study.recipes.variants import VARIANTS

# The first five stay 30 CIELAB units apart to any colour vision (simulated: Machado et al. 2009).
PALETTE = ("#8C8C8C", "#E69F00", "#56B4E9", "#117733", "#7B3294", "#CC3311", "#332288", "#44AA99")
COLOURS: dict[str, str] = dict(zip(VARIANTS, cycle(PALETTE), strict=False))
CHANGED = "#D55E00"
# Folds have no names to remember: shades of a hue that no variant has, told apart by lightness and marker.
_SHADES = LinearSegmentedColormap.from_list("folds", ("#26000F", "#D81B60", "#F9A8C6"))
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


def colours_of(names: Iterable[str]) -> dict[str, str]:
    """Return a colour for each training: its variant's, by the first word of its name, else a shade."""
    colours = {name: COLOURS.get(name.partition(" ")[0], "") for name in names}
    others = [name for name, colour in colours.items() if not colour]
    shades = [to_hex(_SHADES(place)) for place in np.linspace(0, 1, max(len(others), 2))]
    return colours | dict(zip(others, shades, strict=False))


def draw_steps(axes: Axes, first: int, rates: Sequence[float], colour: str) -> None:
    """Draw the learning rates of consecutive epochs, from the first on, as a stair."""
    edges = np.arange(first, first + len(rates) + 1) - 0.5  # so that an epoch's step lies over its number
    axes.stairs(rates, edges, baseline=None, color=colour, lw=1.8)
