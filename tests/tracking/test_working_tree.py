"""Uncommitted changes: recorded without touching the repository, and applied to a commit checked out anew."""

import subprocess
from contextlib import suppress

import pytest

from lenet_study.errors import UserError
from lenet_study.tracking import working_tree


@pytest.fixture
def repository(tmp_path):
    """A repository of one commit, and git's own command in it."""
    root = tmp_path / "checkout"
    (root / "src").mkdir(parents=True)

    def git(*command):
        identity = ("-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false")
        done = subprocess.run(
            ["git", *identity, *command], cwd=root, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    git("init", "-q")
    (root / "src" / "a.py").write_text("one = 1\n")
    (root / "src" / "gone.py").write_text("")
    (root / ".gitignore").write_text("*.log\n")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    return root, git


def state(root, git):
    """All that a command could leave in a repository."""
    files = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
    return files, git("status", "--porcelain"), git("worktree", "list"), (root / ".git/index").read_bytes()


def test_changes_are_recorded_and_applied_to_the_commit(repository):
    root, git = repository
    (root / "src" / "a.py").write_text("one = 2\n")
    (root / "src" / "new.bin").write_bytes(bytes(range(256)))
    (root / "src" / "gone.py").unlink()
    (root / "src" / "run.log").write_text("ignored")
    (root / "notes.txt").write_text("decides nothing")
    git("add", "src/a.py")
    before = state(root, git)
    found = working_tree.changes(root)
    assert found.left_out == ""
    assert "notes.txt" not in found.patch
    with working_tree.checked_out(root, git("rev-parse", "HEAD"), found.patch) as tree:
        assert (tree / "src" / "a.py").read_text() == "one = 2\n"
        assert (tree / "src" / "new.bin").read_bytes() == bytes(range(256))
        assert {path.name for path in (tree / "src").iterdir()} == {"a.py", "new.bin"}
    assert not tree.exists()
    assert state(root, git) == before


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"password = 'correct-horse'\n", "secret"),
        (b"x" * 3000 + b"\n", "more than 2,000"),
        (b"name = '\xff'\n", "no UTF-8"),
    ],
)
def test_changes_that_must_not_be_recorded_are_left_out_with_the_reason(repository, content, reason):
    root, _ = repository
    (root / "src" / "b.py").write_bytes(content)
    found = working_tree.changes(root, limit=2000)
    assert found.patch == ""
    assert reason in found.left_out


def test_the_worktree_goes_whatever_happens(repository):
    root, git = repository
    hook = root / ".git/hooks/post-checkout"
    hook.write_text("#!/bin/sh\ntouch hooked\n")
    hook.chmod(0o755)
    before, commit = state(root, git), git("rev-parse", "HEAD")
    with suppress(KeyboardInterrupt), working_tree.checked_out(root, commit) as tree:
        assert not (tree / "hooked").exists()
        (tree / "src" / "a.py").write_text("changed")
        raise KeyboardInterrupt
    assert not tree.exists()
    assert state(root, git) == before


def test_a_commit_that_is_not_here_and_a_patch_that_does_not_fit_are_refused(repository):
    root, git = repository
    with pytest.raises(UserError, match="git fetch"), working_tree.checked_out(root, "0" * 40):
        pass
    patch = "--- a/src/a.py\n+++ b/src/a.py\n@@ -1 +1 @@\n-three = 3\n+four = 4\n"
    commit = git("rev-parse", "HEAD")
    with pytest.raises(UserError, match="do not fit"), working_tree.checked_out(root, commit, patch):
        pass
    assert "tree" not in git("worktree", "list")
