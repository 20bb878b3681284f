"""Pictures as inline SVG: elements, axes and intervals, with one format for all numbers.

Colours are classes of the stylesheet, so that a picture follows the theme and the printer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from markupsafe import Markup, escape
from matplotlib.ticker import MaxNLocator

Value = str | float
DIAMOND = 4.0  # half of the width of the published figure's mark


def element(name: str, *children: str, **attributes: Value) -> Markup:
    """Return an element; children and attributes are escaped unless they are markup.

    A trailing underscore leaves room for Python's keywords, other underscores become hyphens.

    >>> print(element("text", "a < b", x=1.25, class_="label", text_anchor="end"))
    <text x="1.2" class="label" text-anchor="end">a &lt; b</text>
    """
    pairs = [
        Markup(' {}="{}"').format(
            key.rstrip("_").replace("_", "-"), value if isinstance(value, str) else number(value)
        )
        for key, value in attributes.items()
    ]
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), Markup("").join(pairs), _joined(children))


def picture(width: float, height: float, name: str, *children: str, class_: str = "chart") -> Markup:
    """Return a whole picture, which assistive technology reads as one image of this name."""
    box = f"0 0 {number(width)} {number(height)}"
    return element("svg", *children, viewBox=box, role="img", aria_label=name, class_=class_)


def number(value: float) -> str:
    """Return a coordinate to a tenth, without superfluous zeros.

    >>> number(3.0), number(2.449), number(-0.01)
    ('3', '2.4', '0')
    """
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text


def polyline(xs: Sequence[float], ys: Sequence[float], class_: str) -> Markup:
    """Return a line through points; those without a finite y are left out."""
    points = " ".join(f"{number(x)},{number(y)}" for x, y in zip(xs, ys, strict=True) if y == y)
    return element("polyline", points=points, class_=class_)


@dataclass(frozen=True)
class Scale:
    """A linear scale from values to coordinates."""

    low: float
    high: float
    start: float  # coordinate of ``low``
    end: float

    @classmethod
    def around(cls, values: Sequence[float], start: float, end: float, margin: float = 0.06) -> Scale:
        """Return a scale on which all finite values lie, with a margin on both sides."""
        finite = [value for value in values if isfinite(value)] or [0.0, 1.0]
        low, high = min(finite), max(finite)
        room = margin * (high - low) or abs(low) * margin or 1.0
        return cls(low - room, high + room, start, end)

    def __call__(self, value: float) -> float:
        """Return the coordinate of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, count: int) -> list[float]:
        """Return about so many round values on the scale."""
        values = MaxNLocator(nbins=count, steps=[1, 2, 5, 10]).tick_values(self.low, self.high)
        return [float(value) for value in values if self.low <= value <= self.high]


def percent(value: float, digits: int = 1) -> str:
    """Return a share as a percentage, for axes and tables.

    >>> percent(0.9254), percent(float("nan"))
    ('92.5\u202f%', '–')
    """
    return f"{100 * value:.{digits}f}\u202f%" if value == value else "–"


def decimal(value: float, digits: int = 3) -> str:
    """Return a number with so many decimals; a dash for NaN."""
    return f"{value:.{digits}f}" if value == value else "–"


def difference(value: float) -> str:
    r"""Return a difference of accuracies in percentage points, with its sign.

    >>> difference(0.0123), difference(-0.004)
    ('+1.23', '\u22120.40')
    """
    return f"{100 * value:+.2f}".replace("-", "\N{MINUS SIGN}") if value == value else "–"


def p_value(value: float) -> str:
    """Return a probability in words; the smallest ones all read alike."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def labels(ticks: Sequence[float], unit: str = "") -> list[str]:
    """Return ticks in words, all with the same number of decimals; the unit ``%`` multiplies by 100."""
    factor = 100 if unit == "%" else 1
    step = factor * (ticks[1] - ticks[0]) if len(ticks) > 1 else 1.0
    digits = next((digits for digits in range(4) if abs(round(step, digits) - step) < 1e-9), 4)
    return [f"{factor * tick:.{digits}f}" + (f"\u202f{unit}" if unit else "") for tick in ticks]


def grid(x: Scale, y: Scale, x_ticks: Sequence[float], x_labels: Sequence[str], unit: str = "") -> Markup:
    """Return horizontal grid lines with their values, and the labels below the x axis."""
    y_ticks = y.ticks(4)
    parts = []
    for tick, label in zip(y_ticks, labels(y_ticks, unit), strict=True):
        parts.append(element("line", x1=x.start, x2=x.end, y1=y(tick), y2=y(tick), class_="grid"))
        parts.append(element("text", label, x=x.start - 6, y=y(tick) + 4, class_="tick end"))
    for tick, label in zip(x_ticks, x_labels, strict=True):
        parts.append(element("text", label, x=x(tick), y=y.start + 18, class_="tick middle"))
    return Markup("").join(parts)


def diamond(x: float, y: float, class_: str = "published") -> Markup:
    """Return the mark of a published figure."""
    corners = ((0, -1.25), (1, 0), (0, 1.25), (-1, 0))
    points = " ".join(f"{number(x + DIAMOND * dx)},{number(y + DIAMOND * dy)}" for dx, dy in corners)
    return element("polygon", points=points, class_=class_)


def interval_picture(
    low: float,
    high: float,
    *,
    scale: Scale,
    name: str,
    mark: float | None = None,
    zero: float | None = None,
    centre: float | None = None,
) -> Markup:
    """Return an interval as a bar on a line.

    Args:
        low: Lower end; no bar is drawn if an end is not finite.
        high: Upper end.
        scale: From values to the picture's 140 units of width.
        name: For those who do not see it.
        mark: The published figure: a diamond.
        zero: No difference: an upright line.
        centre: Our own figure: a dot.
    """
    parts = [element("line", x1=0, x2=140, y1=12, y2=12, class_="grid")]
    if zero is not None:
        parts.append(element("line", x1=scale(zero), x2=scale(zero), y1=1, y2=23, class_="zero"))
    if isfinite(low) and isfinite(high):
        left, right = max(0.0, scale(low)), min(140.0, scale(high))
        width = max(1.5, right - left)
        parts.append(element("rect", x=left, y=9, width=width, height=6, rx=3, class_="interval"))
    if centre is not None and isfinite(centre):
        parts.append(element("circle", cx=scale(centre), cy=12, r=3.4, class_="centre"))
    if mark is not None and isfinite(mark):
        parts.append(diamond(scale(mark), 12))
    return picture(140, 24, name, *parts, class_="small")


def _joined(children: Sequence[str]) -> Markup:
    return Markup("").join(escape(child) for child in children)
