import hashlib
import re
import subprocess
from importlib import metadata

import pytest

from lenet_study.errors import UserError
from lenet_study.tracking import provenance, working_tree


def test_the_list_names_every_package_with_its_version():
    lines = provenance.freeze().splitlines()
    names = [line.partition("==")[0] for line in lines]
    assert names == sorted(set(names))
    assert f"mlflow=={metadata.version('mlflow')}" in lines
    assert not any(line.startswith("lenet-study") for line in lines)


def test_tags_hold_sums_and_the_image_if_there_is_one(monkeypatch):
    monkeypatch.delenv(provenance.IMAGE, raising=False)
    tags = provenance.environment_tags()
    assert re.fullmatch(r"3\.11\.\d+", tags["environment.python"])
    for name in ("environment.sha256", "environment.requirements.sha256"):
        assert re.fullmatch(r"[0-9a-f]{64}", tags[name])
    assert "environment.image" not in tags
    monkeypatch.setenv(provenance.IMAGE, "sha256:1234")
    assert provenance.environment_tags()["environment.image"] == "sha256:1234"


def test_an_environment_is_checked_against_the_pins(tmp_path):
    provenance.check_packages(provenance.ROOT / "requirements.txt")
    pins = tmp_path / "requirements.txt"
    pins.write_text("mlflow==0.1\n")
    with pytest.raises(UserError, match=r"wants mlflow==0.1, but 3.* is installed"):
        provenance.check_packages(pins)
    pins.write_text("nosuch-package==1\n")
    with pytest.raises(UserError, match="but nothing is installed"):
        provenance.check_packages(pins)


def test_requirements_are_those_of_the_checkout(tmp_path):
    assert "environment.requirements.sha256" not in provenance.environment_tags(tmp_path)
    (tmp_path / "requirements.txt").write_text("mlflow==0.1\n")
    expected = hashlib.sha256(b"mlflow==0.1\n").hexdigest()
    assert provenance.environment_tags(tmp_path)["environment.requirements.sha256"] == expected


def test_git_tags_tell_the_commit_and_whether_files_differ_from_it(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ("-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false")
        command = ["git", *identity, *arguments]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    monkeypatch.delenv(provenance.COMMIT, raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.git_tags(tmp_path) == {}
    git("init", "-q")
    assert provenance.git_tags(tmp_path) == {}  # no commit yet
    git("commit", "-q", "--allow-empty", "-m", "first")
    commit = git("rev-parse", "HEAD").strip()
    assert provenance.git_tags(tmp_path) == {"git.commit": commit, "git.dirty": "false"}
    (tmp_path / "new.py").touch()
    assert provenance.git_tags(tmp_path) == {"git.commit": commit, "git.dirty": "true"}
    monkeypatch.setenv("PATH", "")
    assert provenance.git_tags(tmp_path) == {}


@pytest.mark.parametrize(
    ("commit", "tags"),
    [
        ("0123abc", {"git.commit": "0123abc", "git.dirty": "false"}),
        ("0123abc-dirty", {"git.commit": "0123abc", "git.dirty": "true"}),
        ("unknown", {}),
    ],
)
def test_an_image_tells_the_commit_that_it_was_built_from(monkeypatch, tmp_path, commit, tags):
    monkeypatch.setenv(provenance.COMMIT, commit)
    assert provenance.git_tags(tmp_path) == tags
    recorded = provenance.provenance_tags(tmp_path)
    assert tags.items() <= recorded.items()
    assert ("git.changes" in recorded) == (tags.get("git.dirty") == "true")


def test_changes_go_into_a_file_of_the_run_or_their_absence_into_a_tag(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ("-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    monkeypatch.delenv(provenance.COMMIT, raising=False)
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "first")
    (tmp_path / "src").mkdir()
    clean = provenance.provenance_tags(tmp_path)
    assert provenance.provenance_files(clean, tmp_path).keys() == {"environment.txt", "provenance.json"}
    (tmp_path / "src" / "a.py").write_text("one = 1\n")
    dirty = provenance.provenance_tags(tmp_path)
    assert "git.changes" not in dirty
    assert "+one = 1" in provenance.provenance_files(dirty, tmp_path)["changes.patch"]
    (tmp_path / "src" / "a.py").write_text("password = 'correct-horse'\n")
    working_tree.changes.cache_clear()
    dirty = provenance.provenance_tags(tmp_path)
    assert "secret" in dirty["git.changes"]
    assert "changes.patch" not in provenance.provenance_files(dirty, tmp_path)
