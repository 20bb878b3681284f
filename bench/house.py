"""How the code is built, in numbers: ``python -m bench.house [ROOT ...]`` prints a column for each checkout.

Nothing of a checkout is imported, so that former ones can be measured, too.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from statistics import median, quantiles

from lenet_study.tracking.schema import File, Metric, Tag, names

PACKAGE = "lenet_study"
TRAINING = ("workflows/train.py", "commands/train.py")  # where a training begins, now and formerly
SCHEMA = "tracking/schema.py"
PARAMETER = "auxiliary_weight"  # an ordinary one: a number with a range, used in one place
LONG = 40  # lines of a function
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Checkout:
    """One state of the project.

    Args:
        root: Its folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.package = root / "src" / PACKAGE
        self.sources = {path: path.read_text(encoding="utf-8") for path in self.package.rglob("*.py")}
        self.trees = {path: ast.parse(text) for path, text in self.sources.items()}
        self.tests = [ast.parse(path.read_text(encoding="utf-8")) for path in (root / "tests").rglob("*.py")]

    @cached_property
    def functions(self) -> list[Function]:
        """All functions and methods of ``src``."""
        return [node for tree in self.trees.values() for node in ast.walk(tree) if isinstance(node, Function)]

    def lines(self) -> str:
        """Lines of ``src``, blank ones and comments included."""
        return f"{sum(len(text.splitlines()) for text in self.sources.values()):,}"

    def training(self) -> str:
        """Lines and files of the module that trains and of all project modules that it imports, in turn."""
        start = next(path for name in TRAINING if (path := self.package / name).exists())
        opened, waiting = set(), [start]
        while waiting:
            path = waiting.pop()
            if path not in opened:
                opened.add(path)
                waiting += self._imported(self.trees[path])
        return f"{sum(len(self.sources[path].splitlines()) for path in opened):,} ({len(opened)})"

    def edits(self) -> str:
        """Lines and files, but for tests and documents, that name one training parameter.

        A generated file is not edited by hand; it says in its first line what it is made by.
        """
        paths = [*self.sources, self.root / "MLproject", self.root / "docker" / "MLproject"]
        lines, files = 0, 0
        for path in paths:
            text = path.read_text(encoding="utf-8")
            if not text.startswith("# Made by"):
                naming = sum(PARAMETER in line.replace("-", "_") for line in text.splitlines())
                lines, files = lines + naming, files + bool(naming)
        return f"{lines} lines, {files} files"

    def literals(self) -> str:
        """Modules but for the schema that write a tag's, metric's or file's name out.

        Only names with a slash or a full stop count: a lone word such as "trial" means much else. A family
        such as ``kfold/{metric}_mean`` counts with anything in its braces.
        """
        everything = {
            spelling
            for section in (Tag, Metric, File)
            for name in names(section)
            for spelling in (name, *name.formerly)
        }
        patterns = [
            re.compile(re.sub(r"\\\{\w+\\\}", ".+", re.escape(name)))
            for name in everything
            if re.search(r"[/.]", name) and not name.startswith("{")
        ]
        modules = [
            path
            for path, tree in self.trees.items()
            if path != self.package / SCHEMA
            and any(pattern.fullmatch(text) for text in _texts(tree) for pattern in patterns)
        ]
        return str(len(modules))

    def function_length(self) -> str:
        """Lines of a function, its docstring included: median, and the length that 90 % do not exceed."""
        lengths = [_length(function) for function in self.functions]
        return f"{median(lengths):.0f} / {quantiles(lengths, n=10)[-1]:.0f}"

    def long_functions(self) -> str:
        """Share of functions of more than 40 lines."""
        return _share([_length(function) > LONG for function in self.functions])

    def docstrings(self) -> str:
        """Share of functions without a leading underscore that have a docstring."""
        public = [function for function in self.functions if not function.name.startswith("_")]
        return _share([ast.get_docstring(function) is not None for function in public])

    def comments(self, room: str = "") -> str:
        """Comments for every 100 lines that are not blank; of one folder of the package if it is named."""
        sources = [text for path, text in self.sources.items() if path.is_relative_to(self.package / room)]
        comments = sum(_comments(text) for text in sources)
        lines = sum(bool(line.strip()) for text in sources for line in text.splitlines())
        return f"{100 * comments / lines:.1f}" if lines else "–"

    def rooms(self) -> set[str]:
        """Folders of the package."""
        return {
            path.parent.relative_to(self.package).parts[0]
            for path in self.sources
            if path.parent != self.package
        }

    def patches(self) -> str:
        """Uses of ``setattr`` in the tests."""
        return str(sum(getattr(node.func, "attr", "") == "setattr" for node in _nodes(self.tests, ast.Call)))

    def private_names(self) -> str:
        """Uses in the tests of another object's names with a leading underscore."""
        return str(
            sum(
                re.match("_[a-z]", node.attr) is not None and getattr(node.value, "id", "") != "self"
                for node in _nodes(self.tests, ast.Attribute)
            )
        )

    def first_number(self) -> str:
        """Line of the README with the first accuracy, such as 92.49 %."""
        lines = (self.root / "README.md").read_text(encoding="utf-8").splitlines()
        return next(
            (str(number) for number, line in enumerate(lines, 1) if re.search(r"\d\.\d+ %", line)), "–"
        )

    def _imported(self, tree: ast.Module) -> Iterator[Path]:
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == PACKAGE:
                for name in node.names:
                    yield (
                        self._file(f"{node.module}.{name.name}")
                        or self._file(str(node.module))
                        or self.package
                    )

    def _file(self, module: str) -> Path | None:
        path = self.package.parent.joinpath(*module.split("."))
        candidates = (path.with_suffix(".py"), path / "__init__.py")
        return next((candidate for candidate in candidates if candidate in self.sources), None)


def _nodes(trees: list[ast.Module], kind: type) -> Iterator[ast.AST]:
    return (node for tree in trees for node in ast.walk(tree) if isinstance(node, kind))


def _texts(tree: ast.Module) -> Iterator[str]:
    """Yield all strings; a value within a formatted one reads as ``{}``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)


def _length(function: Function) -> int:
    return (function.end_lineno or 0) - function.lineno + 1


def _comments(text: str) -> int:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return sum(token.type == tokenize.COMMENT for token in tokens)


def _share(values: list[bool]) -> str:
    return f"{100 * sum(values) / len(values):.0f} %"


def table(checkouts: list[Checkout]) -> str:
    """Return the numbers of all checkouts as one Markdown table."""
    rooms = sorted(set().union(*(checkout.rooms() for checkout in checkouts)))
    measures = {
        "lines to follow one training, opened (files)": Checkout.training,
        "edits by hand for a new training parameter": Checkout.edits,
        "modules that write the tracker's keys as literals": Checkout.literals,
        "median / 90 % function, lines": Checkout.function_length,
        f"functions over {LONG} lines": Checkout.long_functions,
        "public functions with docstring": Checkout.docstrings,
        "comments per 100 lines": Checkout.comments,
        **{f"… in `{room}`": lambda checkout, room=room: checkout.comments(room) for room in rooms},
        "patches of names in tests (`setattr`)": Checkout.patches,
        "private names in tests": Checkout.private_names,
        "first number in the README, line": Checkout.first_number,
        "lines of `src`": Checkout.lines,
    }
    heads = [checkout.root.resolve().name for checkout in checkouts]
    rows = [["", *heads], ["---", *("--:" for _ in heads)]]
    rows += [[label, *(measure(checkout) for checkout in checkouts)] for label, measure in measures.items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    print(table([Checkout(Path(root)) for root in sys.argv[1:] or (Path(__file__).parents[1],)]))
