"""The report as one HTML file: the same bytes from the same store, and nothing fetched from anywhere."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from matplotlib import color_sequences

from lenet_study.evidence.figures.style import COLOURS
from lenet_study.evidence.report import layers, svg
from lenet_study.evidence.report.confidence import calibration
from lenet_study.evidence.report.confusion_tables import Confusion, class_numbers, confusions
from lenet_study.evidence.report.content import (
    Evidence,
    cut,
    predictions_of,
    run_names,
    seeds_of,
    variants_of,
)
from lenet_study.evidence.report.depth import by_depth
from lenet_study.evidence.report.glance import glance
from lenet_study.evidence.report.hardest import hardest_images
from lenet_study.evidence.report.image_sheet import scatter, sheet
from lenet_study.evidence.report.runs_table import run_groups, study_command
from lenet_study.evidence.report.seed_curves import tabs
from lenet_study.evidence.report.shown_claims import ShownClaim, counts, headline, in_order, shown_as
from lenet_study.evidence.report.svg import Scale
from lenet_study.evidence.report.variant_pairs import families
from lenet_study.evidence.report.weights_table import against_weights
from lenet_study.training.model import CLASSES

ASSETS = Path(__file__).with_name("assets")
SECTIONS = {
    "scorecard": "Scorecard",
    "curves": "Curves",
    "pairs": "Pairs of models",
    "weights": "Published weights",
    "confusion": "Confusion",
    "map": "Map of the images",
    "depth": "Auxiliary heads",
    "calibration": "Calibration",
    "hardest": "Hardest images",
    "architecture": "Architecture",
    "provenance": "Provenance",
}
MAP_SIDE = 480  # pixels of the map for readers without scripts
_STEPS = 65535  # of a coordinate
_LEADING = 30  # characters of a fact at the top


def render(evidence: Evidence) -> str:
    """Return the whole page of a study.

    Every section names the runs that it was made of; a section without its data says what it lacks.
    """
    results, names = evidence.results, run_names(evidence.results)
    matrices, drawn = confusions(results), _map(evidence)
    source, columns = sheet(evidence.images.images) if evidence.images else ("", 1)
    content = {
        "headline": headline(evidence.claims),
        "tally": counts(evidence.claims),
        "remarks": [cut(remark) for remark in evidence.remarks],
        "claims": [_claim(claim, names) for claim in in_order(evidence.claims)],
        "variants": variants_of(results),
        "seeds": seeds_of(results),
        "leading": _leading(evidence),
        "glance": glance(evidence),
        "sections": SECTIONS.items(),
        "missing": [cut(sentence) for sentence in results.missing],
        "tabs": tabs(evidence),
        "families": families(results),
        "weights": against_weights(results),
        "least_p": 2.0 ** (1 - seeds_of(results)),
        "confusions": matrices,
        "confusion_runs": [(run_id, names[run_id]) for each in matrices for run_id in each.run_ids],
        "classes": CLASSES,
        "names": names,
        "map": drawn if isinstance(drawn, _Map) else None,
        "map_missing": drawn if isinstance(drawn, str) else "",
        "depth": by_depth(results),
        "calibration": calibration(results),
        "hardest": hardest_images(evidence),
        "drawings": layers.drawings(variants_of(results)),
        "layer_rows": layers.layer_rows(variants_of(results)),
        "facts": [(cut(name), cut(value)) for name, value in sorted(results.facts.items())],
        "run_groups": run_groups(evidence),
        "run_id": results.run_id,
        "study_command": study_command(results.facts),
        "sheet": Markup(source),
        "payload": _json(_payload(matrices, drawn, columns)),
    }
    page = _template().render(content)
    # Texts of the store may hold what is no Unicode, such as halves of surrogate pairs.
    return page.encode("utf-8", "replace").decode()


@cache
def _template() -> jinja2.Template:
    script = ASSETS.joinpath("report.js").read_text(encoding="utf-8").strip()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS),
        autoescape=True,
        trim_blocks=False,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"percent": svg.percent, "difference": svg.difference, "p_value": svg.p_value}
    environment.globals |= {
        "style": Markup(_style()),
        "script": Markup(script),
        "policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
        "command": _command,
    }
    return environment.get_template("page.html")


def _style() -> str:
    """Return the stylesheet with the colours of variants and classes; on dark paper they are lighter."""
    rules = [ASSETS.joinpath("report.css").read_text(encoding="utf-8").strip()]
    coloured = {f"of-{name}": colour for name, colour in COLOURS.items()}
    coloured |= {f"class-{label}": colour for label, colour in enumerate(color_sequences["tab10"])}
    for name, colour in coloured.items():
        colour = colour if isinstance(colour, str) else _hex(colour)
        lighter = f"color-mix(in oklab, {colour}, white 30%)"
        rules.append(f".{name} {{ --own: light-dark({colour}, {lighter}); }}")
    return "\n".join(rules)


def _hex(colour: tuple[float, float, float]) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in colour)


def _command(text: str) -> Markup:
    return Markup('<span class="command"><code class="whole">{}</code></span>').format(text)


def _claim(claim: ShownClaim, names: Mapping[str, str]) -> dict[str, object]:
    """Return a claim as the scorecard shows it."""
    verdict = shown_as(claim.verdict)
    texts = ("title", "quotation", "published", "ours", "over", "sentence", "verdict")
    return {
        **{name: cut(getattr(claim, name)) for name in texts},
        "id": claim.id,
        "kind": verdict.kind,
        "sign": verdict.sign,
        "picture": _interval(claim),
        "runs": [(run_id, cut(names.get(run_id, run_id))) for run_id in claim.run_ids],
        "missing": [cut(sentence) for sentence in claim.missing],
        "commands": [cut(command) for command in claim.commands],
    }


def _interval(claim: ShownClaim) -> Markup:
    """Return the picture of a claim's interval; empty where there is none to draw."""
    if not (isfinite(claim.low) and isfinite(claim.high)):
        return Markup("")
    ends = [claim.low, claim.high, claim.value, claim.published_value]
    name = f"Interval {claim.low:.4g} to {claim.high:.4g}"
    name += f", published {claim.published_value:.4g}" if isfinite(claim.published_value) else ""
    return svg.interval_picture(
        claim.low,
        claim.high,
        scale=Scale.around(ends, 0, 140, margin=0.2),
        name=name,
        centre=claim.value,
        mark=claim.published_value,
    )


def _leading(evidence: Evidence) -> list[tuple[str, str]]:
    """Return what the results rest on, in numbers, and the facts that stand at the top."""
    results = evidence.results
    numbers = [
        ("seeds", f"{seeds_of(results)}"),
        ("trainings", f"{len(results.trainings)}"),
        ("evaluations", f"{len(results.evaluations)}"),
        ("selected model", results.selected),
    ]
    facts = [(name, _start(results.facts[name])) for name in evidence.leading_facts if name in results.facts]
    return [(name, value) for name, value in numbers if value] + facts


def _start(fact: str) -> str:
    """Return the start of a long fact, such as a sum; the whole stands under provenance."""
    return fact if len(fact) <= _LEADING else f"{fact[:12]}…"


@dataclass(frozen=True)
class _Map:
    """The map of the test images."""

    run_id: str
    labels: np.ndarray  # int [N]
    predicted: np.ndarray
    probabilities: np.ndarray  # of the predicted class, float [N]
    places: np.ndarray  # across and down, float [N, 2] in 0..1

    @property
    def picture(self) -> Markup:
        """The map for readers without scripts."""
        palette = (255 * np.array(color_sequences["tab10"])).round().astype(np.uint8)
        return Markup(scatter(self.places, palette[self.labels], MAP_SIDE))


def _map(evidence: Evidence) -> _Map | str:
    """Return the map, or why there is none."""
    embedding = evidence.embedding
    if embedding is None:
        return "There is no map: no evaluation of this study has the coordinates of its t-SNE picture."
    table = predictions_of(evidence.results).get(embedding.run_id)
    if table is None or len(table) != len(embedding.coordinates):
        return "There is no map: its evaluation has no predictions, or of another number of images."
    return _Map(
        embedding.run_id,
        class_numbers(table["true"]),
        class_numbers(table["predicted"]),
        table["probability"].to_numpy(dtype=float),
        _unit_square(embedding.coordinates),
    )


def _unit_square(coordinates: np.ndarray) -> np.ndarray:
    """Return coordinates moved and scaled into 0..1, both axes alike, the larger extent filling it."""
    low, high = coordinates.min(0), coordinates.max(0)
    places: np.ndarray = 0.5 + (coordinates - (low + high) / 2) / max(float((high - low).max()), 1e-12)
    return places


def _payload(matrices: Sequence[Confusion], drawn: _Map | str, columns: int) -> dict[str, Any]:
    """Return what the script reads: classes of images as strings of digits, an image per digit."""
    content: dict[str, Any] = {"classes": CLASSES, "columns": columns, "labels": "", "matrices": []}
    if matrices:
        content["labels"] = _digits(matrices[0].labels)
        content["matrices"] = [[_digits(row) for row in matrix.predicted] for matrix in matrices]
    if isinstance(drawn, _Map):
        content["map"] = {
            "coordinates": _packed(np.round(_STEPS * drawn.places).astype("<u2")),
            "probabilities": _packed(np.round(255 * drawn.probabilities).astype(np.uint8)),
            "predicted": _digits(drawn.predicted),
        }
    return content


def _packed(numbers: np.ndarray) -> str:
    return base64.b64encode(numbers.tobytes()).decode()


def _digits(numbers: np.ndarray) -> str:
    return "".join(map(str, numbers.tolist()))


def _json(content: Mapping[str, Any]) -> Markup:
    """Return JSON that cannot end its element: every ``<`` is escaped."""
    return Markup(json.dumps(content, sort_keys=True, separators=(",", ":")).replace("<", "\\u003c"))
