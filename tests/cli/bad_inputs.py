"""What users get wrong: bad values of every parameter and variable, broken recipe files, broken data.

Values of numbers, choices and texts are made from the declarations, so that a parameter to come is covered.
``{folder}`` stands for the folder that ``write_broken_things`` has filled.
"""

import gzip
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import click
import optuna

from lenet_study.cli.commands import COMMANDS
from lenet_study.cli.parameters import Pattern, options_of
from lenet_study.recipes import recipe_file
from lenet_study.recipes.recipe import Recipe
from lenet_study.recipes.variants import VARIANTS
from lenet_study.training.data_files import SHA256

USER, OPERATION = 2, 1  # exit codes


@dataclass(frozen=True)
class Case:
    """A command line in an environment, and what the one sentence must name."""

    arguments: tuple[str, ...]
    named: tuple[str, ...]
    code: int = USER
    environment: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return the name of its test: the command as typed, long values cut."""
        words = [f"{name}={value}" for name, value in self.environment.items()] + [*self.arguments]
        return ascii(" ".join(word if len(word) < 60 else f"{word[:40]}…{len(word)}" for word in words))[1:-1]

    def filled(self, folder: Path) -> Self:
        """Return the case with the folder's path in its words."""

        def fill(text: str) -> str:
            return text.replace("{folder}", str(folder))

        return replace(
            self,
            arguments=tuple(map(fill, self.arguments)),
            named=tuple(map(fill, self.named)),
            environment={name: fill(value) for name, value in self.environment.items()},
        )


# ---- values by the declared type ----

NO_NUMBERS = ["", " ", " 3", "3 ", "3\n", "3\0", "9" * 5000, "\uff11\uff12"]
NO_NUMBERS += ["abc", "nan", "-inf", "true", "1,5", "0x10", "1_000", "1e999", "--"]
NO_NUMBERS += ["10;ls", "$(id)", "None"]
NO_WHOLE_NUMBERS = ["1.5", "1e3", "3.0"]
NO_SWITCHES = ["maybe", "2", "-1", "nan", "on\0", "\uff11"]
NO_TEXTS = ["\0", "a\0b", "line\nline", "\x1b[31mred", "\udcff"]


def bad_values(option: click.Option) -> list[str]:
    """Values that an option must refuse, whatever it means."""
    kind = option.type
    if isinstance(kind, click.IntRange | click.FloatRange):
        assert kind.min is not None, f"{option.name} has no lower bound"
        assert kind.max is not None, f"{option.name} has no upper bound: 10^30 would be taken"
        outside = [str(kind.min - 1), str(kind.max + 1), str(2**63), str(10**30), "-" + "9" * 400]
        outside += [str(kind.min)] if kind.min_open else []
        return outside + NO_NUMBERS + (NO_WHOLE_NUMBERS if isinstance(kind, click.IntRange) else [])
    if isinstance(kind, click.Choice):
        first = kind.choices[0]
        no_choices = ["", "nonsense", f" {first}", f"{first} ", f"{first}\0", first + "\u2164"]
        return no_choices + NO_TEXTS
    if isinstance(kind, Pattern):
        return ["", " ", "a/b", "..", "a b", "x" * 1000, "🙂", "-", *NO_TEXTS]
    return NO_SWITCHES if kind is click.BOOL else NO_TEXTS


def declared_cases() -> Iterator[Case]:
    """Every parameter of every command with values that its type refuses: all, where it is declared anew."""
    seen = set()
    for command, function in COMMANDS.items():
        options = options_of(function)
        required = [word for option in options.values() if option.required for word in (option.opts[0], "x")]
        for option in options.values():
            flag = option.opts[0]
            declaration = (option.name, option.help)
            values = bad_values(option)
            for value in values[:3] if declaration in seen else values:
                yield Case((command, *required, flag, value), (flag,))
            yield Case((command, *required, flag), (flag, "requires an argument", "--help"))
            yield Case((command, *required, f"{flag}x", "1"), (f"{flag}x", f"{command} --help"))
            seen.add(declaration)
        yield Case((command, *required, "stray"), ("stray", f"{command} --help"))
        yield Case((command, *required, "stray\nline"), ("stray", f"{command} --help"))


# ---- what takes looking: files, addresses, ids ----


NO_FOLDERS = ["~nosuch/x", "{folder}/text", "{folder}/text/below", "{folder}/fifo"]
NO_FOLDERS += ["{folder}/dangling", "{folder}/loop/x"]
NO_FOLDERS += ["x" * 300, "x/" * 3000]
NO_MODELS = ["nonsense", "x/y", "{folder}/fifo", "{folder}", "~nosuch/x", "models:"]
NO_MODELS += ["models:/", "models:/nosuch/1", "models:/a/b/c"]
NO_MODELS += ["models:/nosuch@champion", "runs:/", "runs:/x", "runs:/x/model", "http://[::1"]
NO_MODELS += ["file:///nosuch"]
NO_MODELS += ["", " ", "x" * 32, "x" * 300, "models:/../../etc", "models:/a@b c", "models:/x/" + "9" * 30]
NO_FILES = [
    "nosuch.json",
    "~nosuch/x",
    "{folder}",
    "{folder}/fifo",
    "{folder}/dangling",
    "/dev/zero",
    "x" * 300,
]
NO_IMAGES = ["", " ", "'", "nosuch.png", "{folder}", "{folder}/fifo", "{folder}/dangling", "/dev/zero"]
NO_IMAGES += ["{folder}/text", "'{folder}/text:3'", "x" * 300, "~nosuch/x", "{folder}/recipe.json"]
NO_RUNS = ["nonsense", "x" * 32, "' or 1=1", "../..", "x" * 5000, "\uff11\uff12", " "]


def path_cases() -> Iterator[Case]:
    """Folders and files that cannot be what a parameter says."""
    for command in ("train", "kfold", "retrain", "study", "search", "evaluate", "data", "report"):
        for value in NO_FOLDERS:
            yield Case((command, "--data-dir", value), ("data_dir", value[:40]))
    for command in ("train", "kfold", "retrain", "study", "resume"):
        for value in NO_FOLDERS:
            yield Case((command, "--checkpoint-dir", value), ("--checkpoint-dir", value[:40]))
    for value in NO_MODELS:
        yield Case(("evaluate", "--model", value), ("model=", value[:40]))
        yield Case(("fetch", "--to", "copy", "--model", value), ("model=", value[:40]))
    for value in ("{folder}/text", "{folder}", "{folder}/fifo", "", ".", "/", "x" * 300, "{folder}/text/x"):
        yield Case(("fetch", "--to", value), ("to=", value[:40]))
    for value in (
        "{folder}/text",
        "{folder}",
        "{folder}/fifo",
        "/",
        "x" * 300,
        "nosuch/x",
        "{folder}/text/x",
    ):
        yield Case(("backup", "--to", value), ("to=", value[:40]))
    for value in ("{folder}/text", "{folder}", "{folder}/fifo", "nosuch", "/dev/zero", "x" * 300):
        yield Case(("restore", "--source", value, "--to", "new"), ("source=", value[:40]))
    for value in NO_FOLDERS:
        yield Case(("restore", "--source", "{folder}/text", "--to", value), ("to", value[:40]))
    for value in ("{folder}", ".", "/", "nosuch/x", "{folder}/a%20b"):
        yield Case(("restore", "--source", "{folder}/text", "--to", value), ("to=", value[:40]))
    for value in NO_IMAGES:
        for output in ("table", "request"):
            named = f"image={value[:40]}".replace("'", "")
            yield Case(("predict", "--image", value, "--output", output), (named,))
    for value in ("{folder}/text", "{folder}/recipe.json"):
        yield Case(("evaluate", "--model", value), (value, "TorchScript"))
    for value in NO_RUNS:
        yield Case(("resume", "--run-id", value), ("run_id=", value[:40]))
        yield Case(("verify", "--run-id", value), ("run_id=", value[:40]))
    yield Case(("promote", "--version", "7"), ("version=7",))
    yield Case(("promote", "--version", "7", "--rollback", "true"), ("version=7", "rollback=true"))
    for value in ["", *NO_RUNS]:
        yield Case(("reproduce", "--run-id", value), ("run_id=", value[:40]))
    for value in [
        "",
        *NO_RUNS,
        "v9",
        "v4",
        "7",
        "champion",
        "9" * 30,
        "models:",
        "models:/nosuch/1",
        "models:/a/b/c",
    ]:
        yield Case(("compare", "--a", value, "--b", "v3"), (f"a={value[:40]}",))
        yield Case(("compare", "--a", "v3", "--b", value), ("a=v3" if value.strip() else f"b={value}",))
    yield Case(("compare", "--a", "v3", "--b", "v3"), ("a=v3", "b=v3", "the same"))
    yield Case(("report",), ("no study", "run `study` first"))
    for value in NO_RUNS:
        yield Case(("report", "--run-id", value), ("run_id=", value[:40]))
    for value in (
        "{folder}",
        "{folder}/fifo",
        "/",
        "x" * 300,
        "nosuch/x",
        "{folder}/text/x",
        "{folder}/dangling",
    ):
        yield Case(("report", "--to", value), ("to=", value[:40]))


def recipe_cases() -> Iterator[Case]:
    """Recipe files that are none."""
    for value in NO_FILES:
        yield Case(("train", "--recipe", value), ("recipe=", value[:40]))
    for name, (_, named) in BROKEN_RECIPES.items():
        for command in ("train", "kfold", "retrain"):
            yield Case((command, "--recipe", f"{{folder}}/{name}.json"), ("recipe=", f"{name}.json", named))


def data_cases() -> Iterator[Case]:
    """Data folders with a broken file: each in the place of one of the four."""
    for name in BROKEN_DATA:
        for command in (("data",), ("train", "--variant", "baseline"), ("study",)):
            yield Case((*command, "--data-dir", f"{{folder}}/{name}"), (f"{name}/train-images", "delete it"))
        yield Case(
            ("data",),
            (f"{name}/train-images", "delete it"),
            environment={"LENET_STUDY_DATA": f"{{folder}}/{name}"},
        )


STORAGES = {  # what is no storage of a search: what the sentence names
    "": "storage is no address",
    "nonsense": "storage is no address",
    " ": "storage is no address",
    "http://[::1": "storage is no address",
    "sqlite://": "sqlite:///optuna.db",
    "sqlite:///": "sqlite:///optuna.db",
    "sqlite:///:memory:": "sqlite:///optuna.db",
    "sqlite:///{folder}": "storage=",
    "sqlite:///{folder}/fifo": "storage=",
    "sqlite:///{folder}/text": "storage=",
    "sqlite:///{folder}/nosuch/x.db": "no existing folder",
    "sqlite:///{folder}/mlflow.db": "MLflow",
    "sqlite:///{folder}/search.db?timeout=abc": "timeout=abc",
    "sqlite:///" + "x" * 300: "storage=",
    "sqlite+nosuch:///x.db": "storage=",
    "postgresql+psycopg://127.0.0.1:1/x": "storage=",
    "postgresql+psycopg://127.0.0.1:abc/x": "storage is no address",
    "mysql://127.0.0.1:1/x": "storage=",
    "redis://127.0.0.1:1": "storage=",
    "http://127.0.0.1:1": "storage=",
}
STORES = {  # what is no store of MLflow: exit code, what the sentence names beside the variable
    "nonsense": (USER, "nonsense"),
    "./mlruns": (USER, "mlruns"),
    "file:///nosuch/mlruns": (USER, "mlruns"),
    "nosuch://host": (USER, "nosuch://host"),
    "http://": (USER, "http://"),
    "http://[::1": (USER, "http://[::1"),
    "http://127.0.0.1:abc": (USER, "127.0.0.1:abc"),
    "http://127.0.0.1:99999": (USER, "127.0.0.1:99999"),
    "http://127.0.0.1:1": (OPERATION, "make server"),
    "https://127.0.0.1:1": (OPERATION, "make server"),
    "http://nosuch.invalid": (OPERATION, "make server"),
    "http://x" + "y" * 300: (USER, "xy"),
    "sqlite://": (USER, "sqlite://"),
    "sqlite:///": (USER, "sqlite:///"),
    "sqlite:///:memory:": (USER, ":memory:"),
    "sqlite:///{folder}": (USER, "is no file"),
    "sqlite:///{folder}/fifo": (USER, "is no file"),
    "sqlite:///{folder}/dangling": (USER, "is no file"),
    "sqlite:///{folder}/text": (USER, "/text"),
    "sqlite:///{folder}/optuna-only.db": (USER, "another program"),
    "sqlite:///{folder}/nosuch/x.db": (USER, "no existing folder"),
    "sqlite:///{folder}/mlflow.db?timeout=abc": (USER, "timeout=abc"),
    "sqlite:///" + "x" * 300: (USER, "xxx"),
    "sqlite:mlflow.db": (USER, "sqlite:mlflow.db"),
    "sqlite+nosuch:///x.db": (USER, "sqlite+nosuch"),
    "postgresql+psycopg://me:secret@127.0.0.1:1/x": (OPERATION, "127.0.0.1:1/x"),
    "postgresql+psycopg://127.0.0.1:abc/x": (USER, "127.0.0.1:abc/x"),
    "postgresql://127.0.0.1:1/x": (OPERATION, "127.0.0.1:1/x"),
    "mysql://127.0.0.1:1/x": (USER, "needs a package"),
    "\uff11\uff12": (USER, "MLFLOW_TRACKING_URI"),
    "'; DROP TABLE runs; --": (USER, "DROP TABLE"),
}
QUICK = ("train", "--variant", "baseline", "--epochs", "1", "--data-dir", "{folder}/data")
OPENING = {  # commands that open a run of their own
    "train": QUICK,
    "kfold": ("kfold", *QUICK[1:], "--folds", "2", "--workers", "1"),
    "study": ("study", *QUICK[3:], "--folds", "2", "--workers", "1"),
    "promote": ("promote",),
}
VARIABLES = {  # variables that decide which run or experiment is used: bad values
    "MLFLOW_RUN_ID": NO_RUNS,
    "MLFLOW_EXPERIMENT_ID": ["abc", "999", "-1", "1.5", "9" * 30, "\uff11\uff12", "' or 1=1", " "],
    "MLFLOW_EXPERIMENT_NAME": ["x" * 600],
}


def environment_cases() -> Iterator[Case]:
    """Variables that name no store, no run, no experiment or no data."""
    for value, named in STORAGES.items():
        yield Case(("search", "--data-dir", "{folder}/data", "--storage", value), ("storage", named))
    for value, (code, named) in STORES.items():
        for arguments in (("reap",), QUICK) if code == USER else (("reap",),):
            environment = {"MLFLOW_TRACKING_URI": value}
            yield Case(arguments, ("MLFLOW_TRACKING_URI", named), code, environment)
    for value in (
        "http://127.0.0.1:1",
        "sqlite://",
        "sqlite:///{folder}/nosuch.db",
        "sqlite:///{folder}/text",
    ):
        for command in ("relocate", "backup"):
            yield Case(
                (command,), (value.removeprefix("sqlite:///"),), environment={"MLFLOW_TRACKING_URI": value}
            )
    for variable, values in VARIABLES.items():
        for value in values:
            for arguments in OPENING.values():
                yield Case(arguments, (f"{variable}={value[:40]}",), environment={variable: value})
    for value in ("~nosuch/x", "{folder}/text", "{folder}/fifo", "x" * 300):
        yield Case(("data",), ("LENET_STUDY_DATA", value[:40]), environment={"LENET_STUDY_DATA": value})
    for variable in ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        store = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:1", variable: "abc"}
        yield Case(("reap",), ("MLFLOW_TRACKING_URI",), OPERATION, store)


def cases() -> list[Case]:
    """Return all cases, each once."""
    makers = (declared_cases, path_cases, recipe_cases, data_cases, environment_cases)
    return list({str(case): case for maker in makers for case in maker()}.values())


# ---- the things on disk that they name ----

_LOGGED = json.loads(recipe_file.dumps(Recipe(name="mine", variant=VARIANTS["baseline"])))
_RECIPE = {name: value for name, value in _LOGGED.items() if name != "sha256"}  # a user's own file


def _changed(section: str, **fields: object) -> str:
    return json.dumps(_RECIPE | {section: {**_RECIPE[section], **fields}})


BROKEN_RECIPES = {  # content, what the sentence names beside the file
    "empty": ("", "JSON"),
    "cut": (recipe_file.dumps(Recipe(name="mine", variant=VARIANTS["v1"]))[:100], "JSON"),
    "deep-list": ("[" * 100_000, "JSON"),
    "deep-object": ('{"a":' * 100_000 + "1" + "}" * 100_000, "JSON"),
    "deep-closed": ("[" * 900 + "]" * 900, "refused"),
    "list": ("[]", "refused"),
    "null": ("null", "refused"),
    "number": ("9" * 5000, "JSON"),
    "bom": ("\ufeff" + json.dumps(_RECIPE), "JSON"),
    "unknown-key": (json.dumps(_RECIPE | {"x": 1}), "x"),
    "long-key": (json.dumps(_RECIPE | {"x" * 100_000: 1}), "xxx"),
    "line-key": (json.dumps(_RECIPE | {"a\nb": 1}), "refused"),
    "surrogate": (json.dumps(_RECIPE | {"name": "\ud800"}), "name"),
    "surrogate-key": (json.dumps(_RECIPE | {"\ud800": 1}), "refused"),
    "name": (json.dumps(_RECIPE | {"name": "../x"}), "name"),
    "name-number": (json.dumps(_RECIPE | {"name": 7}), "name"),
    "no-variant": (json.dumps({"name": "mine"}), "variant"),
    "config-list": (json.dumps(_RECIPE | {"config": [1]}), "config"),
    "config-seed": (_changed("config", seed=1), "seed"),
    "epochs": (_changed("config", epochs=10**30), "epochs"),
    "batch": (_changed("config", batch_size=2**63), "batch_size"),
    "rate": (_changed("config", learning_rate=1e300), "learning_rate"),
    "rate-nan": (_changed("config", learning_rate=float("nan")), "learning_rate"),
    "channels": (_changed("variant", channels=[10**30, 1]), "channels"),
    "channels-text": (_changed("variant", channels="32"), "channels"),
    "halve": (_changed("variant", halve_learning_rate_every=-1), "halve_learning_rate_every"),
    "change": (_changed("variant", change="\ud800"), "change"),
    "dropout": (_changed("variant", dropout=float("inf")), "dropout"),
    "parent": (_changed("variant", parent="\0"), "parent"),
    "damaged": (json.dumps(_LOGGED | {"name": "mime"}), "sha256"),
    "sum-number": (json.dumps(_LOGGED | {"sha256": 7}), "sha256"),
}
BROKEN_DATA = tuple(
    f"images-{what}"
    for what in ("folder", "fifo", "dangling", "empty", "text", "cut", "no-gzip", "cut-gzip", "gzip-folder")
)


def write_broken_things(folder: Path) -> None:
    """Fill a folder that holds `data`, four whole files, with what the cases name."""
    (folder / "text").write_text("This is neither a model nor a database.\n" * 100)
    os.mkfifo(folder / "fifo")
    (folder / "dangling").symlink_to(folder / "nowhere")
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "recipe.json").write_text(json.dumps(_RECIPE))
    for name, (content, _) in BROKEN_RECIPES.items():
        (folder / f"{name}.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    optuna.create_study(storage=f"sqlite:///{folder}/optuna-only.db")
    for name in BROKEN_DATA:
        _write_broken_data(folder / name, folder / "data")


def _write_broken_data(folder: Path, whole: Path) -> None:
    """Make a data folder, the first file of which is broken as the folder's name says."""
    folder.mkdir()
    first, *others = SHA256
    for name in others:
        (folder / name).symlink_to(whole / name)
    raw = (whole / first).read_bytes()
    what = folder.name.removeprefix("images-")
    broken = folder / (f"{first}.gz" if "gzip" in what else first)
    contents = {
        "empty": b"",
        "text": b"404 not found",
        "cut": raw[:-1],
        "no-gzip": raw,
        "cut-gzip": gzip.compress(raw)[:-20],
    }
    if what.endswith("folder"):
        broken.mkdir()
    elif what == "fifo":
        os.mkfifo(broken)
    elif what == "dangling":
        broken.symlink_to(folder / "nowhere")
    else:
        broken.write_bytes(contents[what])
