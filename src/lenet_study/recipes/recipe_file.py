"""Recipe files: a recipe as JSON, from which the same model can be trained again.

A file that a run wrote ends with the SHA-256 sum of its content, so that a damaged digit is no other recipe.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from lenet_study.errors import UserError
from lenet_study.recipes.constraints import OneOf
from lenet_study.recipes.recipe import PER_RUN, Recipe, TrainingConfig, variant_recipes
from lenet_study.recipes.variants import VARIANTS

_NAME = r"\w[\w .,+-]{0,99}"
_OLD_KEYS = {"spec": "variant", "protocol": "config"}  # of files written before version 0.2


@dataclass(frozen=True, kw_only=True)
class RecipeChoice:
    """Which recipe a command works on."""

    variant: Annotated[str, OneOf(tuple(VARIANTS)), "Which variant."] = "v4"
    recipe: Annotated[str, "A recipe file instead of a variant, as every training logs it."] = ""

    def load(self, config: TrainingConfig) -> Recipe:
        """Return the recipe of the file, if one is named, else that of the variant."""
        return read(self.recipe, config) if self.recipe else variant_recipes(config)[self.variant]


def dumps(recipe: Recipe) -> str:
    """Return the content of a recipe's file."""
    content = {"name": recipe.name, "variant": asdict(recipe.variant), "config": recipe.config.of_recipe}
    return json.dumps({**content, "sha256": content_digest(content)}, indent=2) + "\n"


def content_digest(content: Mapping[str, object]) -> str:
    """Return the SHA-256 sum of what JSON can hold, however it is laid out."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read(path: str, config: TrainingConfig) -> Recipe:
    """Read a recipe file, or refuse it; seed and precision are those of the command line's configuration.

    A field that the file decides may have its default or the file's value on the command line.
    """
    where = f"recipe={path}"
    try:
        if Path(path).exists() and not Path(path).is_file():  # a pipe or a device could be read for ever
            raise OSError("it is no file")
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{where} cannot be read ({reason}): name the recipe.json of a run") from error
    recipe = loads(text, where)
    default = TrainingConfig().of_recipe
    for name, value in config.of_recipe.items():
        decided = getattr(recipe.config, name)
        if value not in (decided, default[name]):
            cure = f"leave {name} out, or change the file"
            raise UserError(f"{name}={value} contradicts {where}, which says {decided}: {cure}")
    return replace(recipe, config=replace(recipe.config, seed=config.seed, precision=config.precision))


def is_name(text: str) -> bool:
    """Whether a recipe may have this name.

    >>> is_name("lenet-trial-3"), is_name("' or 1=1")
    (True, False)
    """
    return bool(re.fullmatch(_NAME, text))


def loads(text: str, where: str) -> Recipe:
    """Return the recipe that a file's text describes, or refuse it; ``where`` names the file."""
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is no JSON ({error}): name the recipe.json of a run") from error
    if isinstance(content, dict):
        if (logged := content.pop("sha256", None)) not in (None, content_digest(content)):
            cure = "bring the original back, or remove `sha256` from a file that you have changed yourself"
            raise UserError(f"{where} is not what its run wrote (sha256={logged!r:.70}): {cure}")
        for former, key in _OLD_KEYS.items():
            if former in content and key not in content:
                content[key] = content.pop(former)
    recipe = _validate(content, where)
    if recipe.variant.parent not in (None, *VARIANTS):
        variants = ", ".join(VARIANTS)
        problem = f"variant.parent={recipe.variant.parent} is no variant: write null, or {variants}"
    elif chosen_anew := [name for name in PER_RUN if name in content.get("config", {})]:
        problem = f"config.{chosen_anew[0]} is no part of a recipe: name it on the command line instead"
    elif not is_name(recipe.name):
        problem = f"name={recipe.name!r} is no name: use letters, digits, spaces and . , + - _"
    elif recipe.name not in VARIANTS:
        return recipe
    elif recipe.searched:
        problem = f"name={recipe.name} is that of a variant with other fields: change the name"
    else:
        return replace(recipe, variant=VARIANTS[recipe.name])
    raise UserError(f"{where}: {problem}")


def _validate(content: Any, where: str) -> Recipe:
    """Return the recipe that parsed JSON describes; a ``UserError`` names the first wrong field."""
    import pydantic  # noqa: PLC0415 -- 0.1 s, which help and refused values do not need

    try:
        # As JSON once more: pydantic takes a list for a tuple from JSON, and refuses it from Python.
        return pydantic.TypeAdapter(Recipe).validate_json(json.dumps(content))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the content"
        value = "" if first["type"] == "missing" else f"={first['input']!r:.80}"
        raise UserError(f"{where}: {field}{value} is refused ({first['msg']}): mend the file") from error
