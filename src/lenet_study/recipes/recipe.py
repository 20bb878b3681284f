"""Spec files: a model and its training as JSON, from which it can be trained again."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args

import click

from lenet_study.cli.parameters import PARAMETERS, Count
from lenet_study.errors import UserError
from lenet_study.recipes.variants import VARIANTS, Augmentation, Optimizer, VariantSpec
from lenet_study.training.loop import Protocol

_SHARE = click.FloatRange(0, 1)
_BELOW_ONE = click.FloatRange(0, 1, max_open=True)
_WIDTH = Count(1, 4096)
_SPEC: dict[str, click.ParamType[Any]] = {
    "change": click.STRING,
    "channels": _WIDTH,
    "hidden_units": _WIDTH,
    "batch_norm": click.BOOL,
    "halve_learning_rate_every": Count(1),
    "cosine_annealing": click.BOOL,
    "dropout": _BELOW_ONE,
    "optimizer": click.Choice(get_args(Optimizer)),
    "weight_decay": click.FloatRange(0, 1),
    "label_smoothing": _BELOW_ONE,
}
_AUGMENTATION: dict[str, click.ParamType[Any]] = {
    "flip": _SHARE,
    "jitter": _SHARE,
    "autocontrast": _SHARE,
    "solarize": _SHARE,
    "shift": Count(0, 14),
    "erase": _SHARE,
}
_JSON: dict[type, tuple[type, ...]] = {  # what JSON must have made of a value; a bool is no number
    click.types.BoolParamType: (bool,),
    click.IntRange: (int,),
    click.FloatRange: (int, float),
}
_PAIRS = ("channels", "hidden_units")
PROTOCOL = ("epochs", "batch_size", "learning_rate", "auxiliary", "auxiliary_weight")  # what a file decides


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A model and how to train it.

    Attributes:
        name: What its runs are called: that of a variant, or of a searched model.
        spec: The model.
        protocol: How it is trained.
    """

    name: str
    spec: VariantSpec
    protocol: Protocol

    @property
    def searched(self) -> bool:
        """Whether it is none of the five variants."""
        return VARIANTS.get(self.name) != self.spec

    def parameters(self, *, of_file: bool) -> dict[str, object]:
        """Its spec as the parameters of a run.

        Args:
            of_file: Also what a spec file decides, because the other parameters do not tell.
        """
        spec = asdict(self.spec)
        augmentation = spec.pop("augmentation")
        del spec["change"]
        values = {**spec, **{f"augmentation.{name}": value for name, value in augmentation.items()}}
        if of_file:
            values |= self._training
        return {f"spec.{name}": value for name, value in values.items()}

    def digest(self) -> str:
        """Tells recipes apart, whatever they are called: 16 hex digits of a SHA-256 sum."""
        model = {key: value for key, value in asdict(self.spec).items() if key != "change"}
        content = json.dumps([model, self._training], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def text(self) -> str:
        """The content of its spec file."""
        content = {"name": self.name, "spec": asdict(self.spec), "protocol": self._training}
        return json.dumps(content, indent=2) + "\n"

    @property
    def _training(self) -> dict[str, object]:
        return {name: getattr(self.protocol, name) for name in PROTOCOL}


def of_variants(protocol: Protocol) -> dict[str, Recipe]:
    """The five variants by name, trained with this protocol."""
    return {name: Recipe(name=name, spec=spec, protocol=protocol) for name, spec in VARIANTS.items()}


def chosen(variant: str, spec: str, protocol: Protocol) -> Recipe:
    """What the parameters ``variant`` and ``spec`` choose: a file, if there is one, else a variant.

    Raises:
        UserError: See ``read``.
    """
    return read(spec, protocol) if spec else of_variants(protocol)[variant]


def read(path: str, given: Protocol) -> Recipe:
    """Read a spec file.

    Args:
        path: The file.
        given: The protocol of the command line. Its seed and precision are taken; of what the file
            decides, it may have the default or the file's value.

    Raises:
        UserError: There is no such file, it is no spec file, or the command line contradicts it.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"spec={path} cannot be read ({reason}): name the spec.json of a run") from error
    recipe = parse(content, f"spec={path}")
    for name in PROTOCOL:
        value, said = getattr(recipe.protocol, name), getattr(given, name)
        if said not in (value, PARAMETERS[name].default):
            raise UserError(
                f"{name}={said} contradicts spec={path}, which says {value}: leave {name} out, or change "
                "the file"
            )
    return replace(recipe, protocol=replace(recipe.protocol, seed=given.seed, precision=given.precision))


def parse(content: Any, where: str) -> Recipe:
    """Check the content of a spec file.

    Args:
        content: What JSON made of it.
        where: Names the file in messages.

    Raises:
        UserError: A field is missing, unknown or out of range.
    """
    top = _fields(content, ("name", "spec", "protocol"), where)
    name = top["name"]
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w .,+-]{0,99}", name):
        raise UserError(f"{where}: name={name!r} is no name: use letters, digits, spaces and . , + - _")
    spec = _fields(top["spec"], tuple(field.name for field in fields(VariantSpec)), f"{where}: spec")
    strengths = _fields(spec.pop("augmentation"), tuple(_AUGMENTATION), f"{where}: augmentation")
    values = {key: _spec_value(key, value, where) for key, value in spec.items()}
    augmentation = {key: _value(_AUGMENTATION[key], key, v, where) for key, v in strengths.items()}
    protocol = _fields(top["protocol"], PROTOCOL, f"{where}: protocol")
    checked = {key: _value(PARAMETERS[key].type, key, value, where) for key, value in protocol.items()}
    recipe = Recipe(
        name=name,
        spec=VariantSpec(**values, augmentation=Augmentation(**augmentation)),
        protocol=Protocol(**checked),
    )
    if name in VARIANTS and recipe.searched:
        raise UserError(f"{where}: name={name} is that of a variant which the spec is not: change the name")
    return recipe


def _fields(content: Any, names: tuple[str, ...], where: str) -> dict[str, Any]:
    if not isinstance(content, Mapping):
        raise UserError(f"{where} is no JSON object with the fields {', '.join(names)}")
    missing = [name for name in names if name not in content]
    unknown = [name for name in content if name not in names]
    if missing or unknown:
        wrong = f"lacks {missing[0]}" if missing else f"has the unknown field {unknown[0]}"
        raise UserError(f"{where} {wrong}: it has exactly {', '.join(names)}")
    return dict(content)


def _spec_value(name: str, value: Any, where: str) -> Any:
    if name in _PAIRS:
        if not isinstance(value, list) or len(value) != 2:
            raise UserError(f"{where}: {name}={value!r} is no pair of whole numbers")
        return tuple(_value(_SPEC[name], name, each, where) for each in value)
    if name == "halve_learning_rate_every" and value is None:
        return None
    return _value(_SPEC[name], name, value, where)


def _value(kind: click.ParamType[Any], name: str, value: Any, where: str) -> Any:
    expected = next((types for each, types in _JSON.items() if isinstance(kind, each)), (str,))
    try:
        if type(value) not in expected or (isinstance(value, float) and not math.isfinite(value)):
            raise click.BadParameter(f"{value!r} is no {kind.name}.")
        return kind.convert(value, None, None)
    except click.BadParameter as error:
        raise UserError(f"{where}: {name}: {error.message}") from error
