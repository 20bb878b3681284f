"""The rooms of src/lenet_study: who may import whom, by name of file and line."""

import ast
from collections import Counter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"
BELOW = {  # the rooms that a room may import
    "errors": set(),
    "recipes": {"errors"},
    "training": {"recipes", "errors"},
    "evidence": {"training", "recipes", "errors"},
    "tracking": {"evidence", "training", "recipes", "errors"},
    "execution": {"evidence", "training", "recipes", "errors"},
    "workflows": {"execution", "tracking", "evidence", "training", "recipes", "errors"},
    "search": {"workflows", "execution", "tracking", "evidence", "training", "recipes", "errors"},
    "server": {"errors", "execution.signals", "tracking.archive"},
}
BELOW["cli"] = BELOW["search"] | {"search"}
BELOW["__main__"] = BELOW["cli"] | {"cli"}
LIBRARIES = {  # a library that only some rooms may import
    "mlflow": {"tracking", "server"},
    "optuna": {"search"},
    "torch": {"training", "evidence", "tracking", "workflows"},
    "torchvision": set(),
}


def room_of(parts):
    """The room of a module, given what follows ``lenet_study.`` in its name."""
    return parts[0] if parts else "__init__"


def imports(path):
    """Modules that a file imports, anywhere in it, with their lines."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno


def wrong_arrows(source):
    """A sentence for each import that goes the wrong way."""
    for path in sorted((source / "lenet_study").rglob("*.py")):
        room = room_of(path.relative_to(source / "lenet_study").with_suffix("").parts)
        for module, line in imports(path):
            first, *rest = module.split(".")
            where = f"{path.relative_to(source)}:{line}"
            if first == "lenet_study" and rest and room != "__init__":
                target = room_of(rest)
                exact = ".".join(rest[:2])
                if target != room and not {target, exact} & BELOW[room]:
                    yield f"{where}: {room} must not import {module}: it may import {sorted(BELOW[room])}"
            elif first in LIBRARIES and room not in LIBRARIES[first]:
                yield f"{where}: {room} must not import {first}: only {sorted(LIBRARIES[first])} may"


def test_imports_go_from_top_to_bottom():
    assert list(wrong_arrows(SOURCE)) == []


@pytest.mark.parametrize(
    ("file", "line", "rule"),
    [
        ("training/a.py", "from lenet_study.tracking.run import Run", "training must not import"),
        ("tracking/a.py", "import lenet_study.execution.inline", "tracking must not import"),
        ("execution/a.py", "from lenet_study.tracking import run", "execution must not import"),
        ("server/a.py", "from lenet_study.execution import inline", "server must not import"),
        ("workflows/a.py", "def f():\n    import mlflow", "workflows must not import mlflow"),
        ("recipes/a.py", "from torch import nn", "recipes must not import torch"),
    ],
)
def test_a_wrong_arrow_is_named_with_file_line_and_rule(tmp_path, file, line, rule):
    path = tmp_path / "lenet_study" / file
    path.parent.mkdir(parents=True)
    path.write_text(f"{line}\n")
    (sentence,) = wrong_arrows(tmp_path)
    assert sentence.startswith(f"lenet_study/{file}:")
    assert rule in sentence


def test_server_may_import_signals(tmp_path):
    path = tmp_path / "lenet_study" / "server" / "a.py"
    path.parent.mkdir(parents=True)
    path.write_text("from lenet_study.execution.signals import stop_on_signals\n")
    assert list(wrong_arrows(tmp_path)) == []


def test_no_two_modules_share_a_name():
    names = Counter(path.stem for path in (SOURCE / "lenet_study").rglob("*.py"))
    assert {name for name, count in names.items() if count > 1} <= {"__init__", "__main__"}


def test_the_hall_holds_rooms_alone():
    modules = {path.stem for path in (SOURCE / "lenet_study").glob("*.py")}
    assert modules == {"__init__", "__main__", "errors"}
