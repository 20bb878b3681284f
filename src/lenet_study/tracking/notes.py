"""Notes of runs and experiments in Markdown: what they are, and links to what belongs to them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from lenet_study.tracking.links import run_page
from lenet_study.tracking.schema import Tag

MOST_LINKS = 30  # of a note; a model may have been evaluated hundreds of times
LIMIT = 8000  # characters of a run's note; MLflow cuts longer ones without a word
_RULE = "\n\n---\n\n"  # between what a note says, which a user may edit, and its links, which are made anew
_NEIGHBOURS = {  # tags that name other runs, in the order of the links
    Tag.STUDY: "study",
    Tag.PARENT_RUN: "parent run",
    Tag.PARENT_WORK: "search",
    Tag.MODEL_RUN_ID: "training of the model",
    Tag.COMPARED_RUN_ID: "model before",
    Tag.REPRODUCED_RUN_ID: "training that was repeated",
}


def link(text: str, page: str) -> str:
    """Return a link to a page of the same MLflow server."""
    return f"[{text}]({page})"


def neighbours(experiment_id: str, tags: Mapping[str, str], run_id: str = "") -> list[str]:
    """Return links to the runs that a run's tags name, but not to itself."""
    named = ((text, other) for tag, text in _NEIGHBOURS.items() for other in tags.get(tag, "").split())
    return [link(text, run_page(experiment_id, other)) for text, other in named if other != run_id]


def with_links(note: str, links: Iterable[str]) -> str:
    r"""Return a note with these links in place of those that it has.

    >>> with_links(with_links("A run.", ["[study](#/1)"]), ["[study](#/2)"])
    'A run.\n\n---\n\n[study](#/2)'
    """
    text, listed = without_links(note), " · ".join([*links][:MOST_LINKS])
    end = _RULE + listed if listed else ""
    return text[: LIMIT - len(end)] + end


def without_links(note: str) -> str:
    r"""Return what a note says beside its links; a rule that is the user's own stays.

    >>> without_links("A run.\n\n---\n\nMine.\n\n---\n\n[study](#/1)")
    'A run.\n\n---\n\nMine.'
    """
    text, rule, listed = note.rpartition(_RULE)
    return text if rule and listed.startswith("[") else note


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as a Markdown table; the first is its head."""
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "|---" * len(rows[0]) + "|", *body])
