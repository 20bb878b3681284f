import re
from importlib import metadata

import pytest

from lenet_study.errors import UserError
from lenet_study.tracking import provenance as environment


def test_the_list_names_every_package_with_its_version():
    lines = environment.freeze().splitlines()
    names = [line.partition("==")[0] for line in lines]
    assert names == sorted(set(names))
    assert f"mlflow=={metadata.version('mlflow')}" in lines
    assert not any(line.startswith("lenet-study") for line in lines)


def test_tags_hold_sums_and_the_image_if_there_is_one(monkeypatch):
    monkeypatch.delenv(environment.IMAGE, raising=False)
    tags = environment.tags()
    assert re.fullmatch(r"3\.11\.\d+", tags["environment.python"])
    for name in ("environment.sha256", "environment.requirements.sha256"):
        assert re.fullmatch(r"[0-9a-f]{64}", tags[name])
    assert "environment.image" not in tags
    monkeypatch.setenv(environment.IMAGE, "sha256:1234")
    assert environment.tags()["environment.image"] == "sha256:1234"


def test_an_environment_is_checked_against_the_pins(tmp_path):
    environment.check(environment.REQUIREMENTS)
    pins = tmp_path / "requirements.txt"
    pins.write_text("mlflow==0.1\n")
    with pytest.raises(UserError, match=r"wants mlflow==0.1, but 3.* is installed"):
        environment.check(pins)
    pins.write_text("nosuch-package==1\n")
    with pytest.raises(UserError, match="but nothing is installed"):
        environment.check(pins)
