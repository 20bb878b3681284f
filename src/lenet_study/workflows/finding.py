"""What a check of `doctor` finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from lenet_study.errors import StudyError, one_line

SIGNS = {"ok": "✓", "warning": "!", "problem": "✗"}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check.

    Attributes:
        name: What was looked at.
        state: Whether work goes wrong with it ("problem"), may ("warning"), or does not ("ok").
        sentence: What was found.
        cure: What to do, a command or a sentence; empty if nothing is to be done.
    """

    name: str
    state: Literal["ok", "warning", "problem"] = "ok"
    sentence: str
    cure: str = ""

    def line(self) -> str:
        """Return the finding as one line."""
        cure = f"; cure: {self.cure}" if self.cure else ""
        return f"{SIGNS[self.state]} {self.state:<7}  {self.name}: {self.sentence}{cure}"


def guarded(name: str, check: Callable[[], Finding]) -> Finding:
    """Make a check; one that fails is a problem, whatever it fails with."""
    try:
        return check()
    except StudyError as error:  # these end with their cure, behind the last colon
        sentence, _, cure = one_line(error, 2000).rpartition(": ")
        return Finding(name=name, state="problem", sentence=sentence or cure, cure=cure)
    except Exception as error:
        sentence = f"the check failed ({type(error).__name__}: {one_line(error)})"
        return Finding(name=name, state="problem", sentence=sentence, cure="see to what it names")
