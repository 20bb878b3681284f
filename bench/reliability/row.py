"""One line of the table: a fault, injected many times."""

from __future__ import annotations

import textwrap
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

COLUMNS = ("fault", "tries", "as promised", "steps lost", "steps doubled", "worst, s", "otherwise")
OUTPUT = 4000  # characters of a command's that are printed


@dataclass
class Row:
    """What became of all tries of one fault.

    Attributes:
        fault: What was done, and what is timed.
        tries: How often.
        as_promised: How many ended as docs/reliability.md promises.
        lost: Steps of metrics that are missing, over all tries; None where none are compared.
        doubled: Steps of metrics that are there more than once; None where none are compared.
        worst: Longest time, in seconds; None where none is taken.
        otherwise: How the other tries ended, and how many of them.
    """

    fault: str
    tries: int = 0
    as_promised: int = 0
    lost: int | None = None
    doubled: int | None = None
    worst: float | None = None
    otherwise: Counter[str] = field(default_factory=Counter)

    def count(self, deviations: Iterable[str], seconds: float | None = None, output: str = "") -> None:
        """Count a try and say how it went.

        Args:
            deviations: In what it did not end as promised; none if it did.
            seconds: What it took.
            output: What the commands wrote; its end is printed if they did not end as promised.
        """
        deviations = list(dict.fromkeys(deviations))
        self.tries += 1
        self.as_promised += not deviations
        self.otherwise.update(deviations)
        if seconds is not None:
            self.worst = max(self.worst or 0.0, seconds)
        if deviations or seconds is not None:  # what takes no time needs no sign of life
            took = "" if seconds is None else f" ({seconds:.1f} s)"
            now, how = time.strftime("%H:%M:%S"), ", ".join(deviations) or "as promised"
            print(f"{now}  {self.fault}, {self.tries}: {how}{took}", flush=True)
        if deviations and output:
            print(textwrap.indent(output[-OUTPUT:], "    "), flush=True)

    def count_steps(self, lost: int, doubled: int) -> None:
        """Add a try's steps that are missing and those that are there more than once."""
        self.lost = (self.lost or 0) + lost
        self.doubled = (self.doubled or 0) + doubled

    def cells(self) -> list[str]:
        """Return the row as text, in the order of ``COLUMNS``."""
        otherwise = "; ".join(f"{count}: {deviation}" for deviation, count in self.otherwise.items())
        numbers = [self.tries, self.as_promised, self.lost, self.doubled]
        worst = "–" if self.worst is None else f"{self.worst:.1f}"
        return [
            self.fault,
            *("–" if number is None else str(number) for number in numbers),
            worst,
            otherwise or "–",
        ]
