"""Uncommitted changes of the checkout as a patch, and a commit checked out beside it to work with."""

from __future__ import annotations

import functools
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lenet_study.errors import UserError
from lenet_study.tracking.environment import SECRET

PATHS = ("src", "requirements.txt", "pyproject.toml", "python_env.yaml")  # that decide a result
PATCH_LIMIT = 2**20  # bytes


@dataclass(frozen=True, kw_only=True)
class Changes:
    """Uncommitted changes, or why they are not to be recorded."""

    patch: str = ""  # for `git apply`; empty if there are none that decide a result
    left_out: str = ""


@functools.cache  # the first time counts: files may change while a process works with what it has loaded
def changes(root: Path, limit: int = PATCH_LIMIT) -> Changes:
    """Return the difference of the files that decide a result from HEAD, new files included.

    The user's repository stays as it is: index and objects are temporary ones.
    """
    try:
        content = _difference(root)
        patch = content.decode()
    except UnicodeDecodeError:
        return Changes(left_out="they are no UTF-8 text")
    except (OSError, subprocess.CalledProcessError) as error:
        return Changes(left_out=f"git failed: {_reason(error)}")
    if len(content) > limit:
        return Changes(left_out=f"they are {len(content):,} bytes, more than {limit:,}")
    if SECRET.search(patch):
        return Changes(left_out="they look as if they held a secret")
    return Changes(patch=patch)


def _difference(root: Path) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        objects = Path(root, os.fsdecode(_git(root, "rev-parse", "--git-path", "objects")).rstrip("\n"))
        environment = {
            "GIT_INDEX_FILE": f"{folder}/index",
            "GIT_OBJECT_DIRECTORY": folder,
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": f"{objects}",
        }
        git = functools.partial(_git, root, environment=environment)
        git("read-tree", "HEAD")
        which = ("--modified", "--deleted", "--others", "--exclude-standard")
        names = git("ls-files", "-z", *which, "--", *PATHS)
        git("update-index", "-z", "--add", "--remove", "--stdin", content=names)
        form = ("--binary", "--full-index", "--no-ext-diff", "--src-prefix=a/", "--dst-prefix=b/")
        return git("diff-index", "--cached", "--patch", *form, "HEAD", "--", *PATHS)


@contextmanager
def checked_out(root: Path, commit: str, patch: str = "") -> Iterator[Path]:
    """Check a commit out beside the checkout, apply a patch, and remove it all at the end.

    Raises:
        UserError: The commit is not here, or the patch does not fit it.
    """
    with tempfile.TemporaryDirectory(prefix="lenet-study-") as folder:
        tree = Path(folder, "tree")
        try:
            _add_worktree(root, tree, commit)
            if patch:
                _apply(tree, patch)
            yield tree
        finally:
            # Without --force git keeps a tree with changes. No `git worktree prune`: the user's other trees
            # may be on disks that are not mounted now.
            command = ("git", "-C", root, "worktree", "remove", "--force", f"{tree}")
            subprocess.run(command, capture_output=True, check=False)


def _add_worktree(root: Path, tree: Path, commit: str) -> None:
    try:
        _git(root, "cat-file", "-e", f"{commit}^{{commit}}")
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(
            f"commit {commit[:12]} of its code is not in {root}: get it there with `git fetch`"
        ) from error
    try:  # without the user's hooks, which would be run after a checkout
        _git(root, "-c", "core.hooksPath=/dev/null", "worktree", "add", "--detach", f"{tree}", commit)
    except subprocess.CalledProcessError as error:
        raise UserError(f"commit {commit[:12]} cannot be checked out ({_reason(error)})") from error


def _apply(tree: Path, patch: str) -> None:
    try:
        _git(tree, "apply", "--whitespace=nowarn", "-", content=patch.encode())
    except subprocess.CalledProcessError as error:
        raise UserError(f"its recorded changes do not fit its commit ({_reason(error)})") from error


def _git(
    root: Path, *command: str, content: bytes = b"", environment: Mapping[str, str] | None = None
) -> bytes:
    return subprocess.run(
        ["git", "-C", root, *command],
        input=content,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        check=True,
    ).stdout


def _reason(error: Exception) -> str:
    said = getattr(error, "stderr", None) or str(error).encode()
    return " ".join(said.decode(errors="replace").split())[:300]
