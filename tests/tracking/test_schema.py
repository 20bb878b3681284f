"""The names of tags, metrics and files stand in the schema alone."""

import ast
import pickle
import re
from dataclasses import fields
from pathlib import Path

import pytest

from lenet_study.evidence.measures import MEASURES
from lenet_study.recipes.recipe import TrainingConfig
from lenet_study.tracking.schema import File, Metric, Name, Tag, names
from lenet_study.training.history import Epoch

SOURCE = Path(__file__).parents[2] / "src" / "lenet_study"
SCHEMA = [name for section in (Tag, Metric, File) for name in names(section)]
FIELDS = {field.name for declaration in (Epoch, TrainingConfig) for field in fields(declaration)}
FIELDS |= MEASURES.keys()  # columns of a study's tables
WRITERS = {"set_tags", "log_metrics", "set_tag", "log_metric", "set_model_version_tag", "runs_with"}
SAVERS = {"log_text", "log_table", "log_figure"}  # their second argument is a file's name
READERS = {"tags", "metrics"}  # `run.data.tags["…"]`, `run.data.metrics.get("…")`


def pattern(name):
    """A schema's name as a regular expression; what stands in braces is anything."""
    return re.compile(re.sub(r"\\{\w+\\}", ".+", re.escape(name)))


def is_distinctive(name):
    """Whether a text like this is hardly anything but this name: `train/loss`, and not `fold`."""
    return bool(re.search(r"[/._]", name)) and name not in FIELDS


DISTINCTIVE = [pattern(name) for name in SCHEMA if is_distinctive(name)]
DISTINCTIVE += [pattern(former) for name in SCHEMA for former in name.formerly if is_distinctive(former)]


def text_of(node):
    """A constant text, or an f-string with ``{}`` for what it inserts; None for all else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return None


def keys_of(node):
    """The nodes that a call, a subscript or a comparison uses as names of tags, metrics or files."""
    if isinstance(node, ast.Subscript) and getattr(node.value, "attr", "") in READERS:
        yield node.slice
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name)):
        return
    function = getattr(node.func, "attr", getattr(node.func, "id", ""))
    dictionaries = [keyword.value for keyword in node.keywords if keyword.arg == "tags"]
    if function in WRITERS:
        dictionaries += node.args
    if function in SAVERS:
        yield from node.args[1:2]
    if function == "get" and getattr(node.func.value, "attr", "") in READERS:
        yield from node.args[:1]
    for dictionary in dictionaries:
        yield from (key for part in ast.walk(dictionary) if isinstance(part, ast.Dict) for key in part.keys)


def literals(path):
    """A sentence for each name that a file writes out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    used = {id(key) for node in ast.walk(tree) for key in keys_of(node)}
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        text = text_of(node)
        if text is None or id(node) in inner:
            continue
        if id(node) in used or any(name.fullmatch(text) for name in DISTINCTIVE):
            yield f"{path.name}:{node.lineno}: {text!r} belongs in tracking/schema.py"


def test_no_other_module_writes_a_name_out():
    paths = sorted(SOURCE.rglob("*.py"))
    assert len(paths) > 40
    alone = ("schema.py", "served_model.py")  # the latter is copied into models, where there is no schema
    assert [line for path in paths if path.name not in alone for line in literals(path)] == []


@pytest.mark.parametrize(
    "line",
    [
        'run.set_tags({"weights.sha256": digest})',
        'run.set_tags({"fold": 3})',
        'run.set_tags({**tags, "fold": 3})',
        'open_run("v1", stage="train", params={}, tags={"variant": "v1"})',
        'run.log_metrics({"val/loss": 0.5})',
        'run.log_metrics({f"kfold/{metric}_mean": 0.5})',
        'run.log_table(table, "folds")',
        'name = "history.csv"',
        'name = f"{picture}.png"',
        'sums = ("weights.sha256", "parity")',
        'digest = f"dataset.{context}.sha256"',
        'variant = run.data.tags["variant"]',
        'variant = run.data.tags.get("variant")',
        'threads = stored["machine.threads"]',
        'runs = runs_with({"stage": "trial"})',
        'tag = "mlflow.runColor"',
    ],
)
def test_a_name_that_is_written_out_is_reported(tmp_path, line):
    path = tmp_path / "module.py"
    path.write_text(f"x = 1\n{line}\n")
    (sentence,) = literals(path)
    assert sentence.startswith("module.py:2: ")


@pytest.mark.parametrize(
    "line",
    [
        '"""Logs ``history.csv`` and the tag ``weights.sha256``."""',
        'run.set_tags({Tag.FOLD: 3, **{Tag.TRIAL: "4"}})',
        "run.log_table(table, File.FOLDS)",
        'row = {"learning_rate": 0.1, "epoch": 3, "variant": "v1"}',
        'columns = table[["val_accuracy", "val_loss"]]',
        'stage = "train"',
        'print(f"{name}: see comparison.csv in the run {run.id}")',
    ],
)
def test_other_texts_are_not_reported(tmp_path, line):
    path = tmp_path / "module.py"
    path.write_text(f"x = 1\n{line}\n")
    assert list(literals(path)) == []


def test_every_name_is_declared_once():
    for section in (Tag, Metric, File):
        declared = [*names(section), *(former for name in names(section) for former in name.formerly)]
        assert len(declared) == len(set(declared))


def test_a_name_is_read_under_its_former_names():
    name = Name("new", "A test", formerly=("older", "oldest"))
    assert name.read({"oldest": 1, "older": 2}) == 2
    assert name.read({"older": 2, "new": 3}) == 3
    assert name.read({"other": 1}) is None


def test_names_reach_other_processes_whole():
    for name in SCHEMA:
        copy = pickle.loads(pickle.dumps(name))
        assert copy == name
        assert vars(copy) == vars(name)
