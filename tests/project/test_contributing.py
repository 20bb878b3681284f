"""CONTRIBUTING.md, followed line by line in a copy of the sources: what it promises comes true."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lenet_study.recipes.variants import VARIANTS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
STEP = re.compile(
    r"(?:In\s`(?P<file>\S+)`,\safter\sthe\sline\sthat\sbegins\s`(?P<start>.+?)`"
    r"|At\sthe\send\sof\s`(?P<end>\S+)`):\n\n```python\n(?P<code>.*?)```",
    re.DOTALL,
)


class Project:
    """A copy of the sources in which the steps of one section have been done."""

    def __init__(self, section, folder, store):
        self.folder = folder
        for name in ("src", "docker", "MLproject", "pyproject.toml"):
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, folder / name)
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
        source = str(folder / "src")
        self._environment = {**inherited, "PYTHONPATH": source, "MLFLOW_TRACKING_URI": store}
        (text,) = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE)
        self.steps = list(STEP.finditer(text))
        assert text.count("```python") == len(self.steps), "every block says where it belongs"
        for step in self.steps:
            self._follow(step)

    def _follow(self, step):
        path = self.folder / (step["file"] or step["end"])
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        if step["end"]:
            lines += ["\n\n", step["code"]]
        else:
            (number,) = [i for i, line in enumerate(lines) if line.strip().startswith(step["start"])]
            lines.insert(number + 1, step["code"])
        path.write_text("".join(lines), encoding="utf-8")

    def python(self, *arguments, code=0):
        """What Python prints to stdout, or to stderr if it is to fail."""
        command = [sys.executable, *arguments]
        result = subprocess.run(
            command, cwd=self.folder, env=self._environment, capture_output=True, text=True, timeout=300
        )
        assert result.returncode == code, result.stderr
        return result.stderr if code else result.stdout

    def command(self, *arguments, code=0):
        return self.python("-m", "lenet_study", *arguments, code=code)

    def script(self, code, *arguments):
        """The JSON that a script of this file prints in its last line."""
        return json.loads(self.python("-c", code, *arguments).splitlines()[-1])

    def entry_points(self):
        """Those of both MLproject files, which are made anew."""
        self.python("-m", "lenet_study.cli.mlproject", ".")
        files = (self.folder / "MLproject", self.folder / "docker" / "MLproject")
        return [yaml.safe_load(path.read_text())["entry_points"] for path in files]


@pytest.fixture
def project(tmp_path, initialised_database):
    """Follow a section; the store is empty."""
    (tmp_path / "copy").mkdir()
    shutil.copy(initialised_database, tmp_path / "copy" / "mlflow.db")
    store = f"sqlite:///{tmp_path / 'copy' / 'mlflow.db'}"
    return lambda section: Project(section, tmp_path / "copy", store)


def squeezed(text):
    """A help text without its line breaks."""
    return " ".join(text.split())


def test_it_is_short():
    assert len(TEXT.split()) < 500


@pytest.mark.parametrize("section", ["A training parameter", "A variant", "An entry point"])
def test_the_code_blocks_pass_the_lint(section, project):
    copy = project(section)
    assert copy.steps
    for check in (["check"], ["format", "--check"]):
        copy.python("-m", "ruff", *check, "--no-cache", "src")


FIELD = """
import json
import sys
from dataclasses import replace
import torch
import lenet_study
from lenet_study.errors import UserError
from lenet_study.recipes import recipe_file
from lenet_study.recipes.recipe import TrainingConfig, variant_recipes
from lenet_study.training.loop import training_loss
from lenet_study.training.model import LeNet
from lenet_study.workflows.train import TrainingJob

recipe = variant_recipes(TrainingConfig(z_loss=0.25))["baseline"]
text = recipe_file.dumps(recipe)
content = {name: value for name, value in json.loads(text).items() if name != "sha256"}
with open("recipe.json", "w") as file:
    file.write(text)
default = content | {"config": {k: v for k, v in content["config"].items() if k != "z_loss"}}
wrong = content | {"config": content["config"] | {"z_loss": -1}}
try:
    recipe_file.loads(json.dumps(wrong), "recipe.json")
    refused = ""
except UserError as error:
    refused = str(error)
plain = replace(recipe, config=TrainingConfig())
model, images, labels = LeNet(recipe.variant, 0), torch.rand(8, 1, 28, 28), torch.arange(8)
losses = [training_loss(model, one, images, labels)[0].item() for one in (plain, recipe)]
penalty = model(images).logsumexp(1).square().mean().item()
print(json.dumps({
    "module": lenet_study.__file__,
    "written": content["config"]["z_loss"],
    "read": recipe_file.read("recipe.json", TrainingConfig()).config.z_loss,
    "left out": recipe_file.loads(json.dumps(default), "recipe.json").config.z_loss,
    "refused": refused,
    "params": TrainingJob(recipe=recipe).params()["z_loss"],
    "params of a file": TrainingJob(recipe=recipe, recipe_file="recipe.json").params()["recipe.z_loss"],
    "effect": (losses[1] - losses[0]) / penalty,
}))
"""


def test_a_training_parameter_is_one_field_and_its_use(project):
    copy = project("A training parameter")
    assert [len(step["code"].splitlines()) for step in copy.steps] == [1, 1]
    for name in ("study", "train", "kfold", "retrain"):
        options = squeezed(copy.command(name, "--help"))
        assert "--z-loss NUMBER Weight of the squared log-normaliser of the classes. [default: 0.0" in options
    assert "--z-loss" not in copy.command("evaluate", "--help")
    for value in ("-1", "nan", "much"):
        assert "Invalid value for '--z-loss'" in copy.command("train", "--z-loss", value, code=2)
    for declared in copy.entry_points():
        for name in ("main", "study", "train", "kfold", "retrain"):
            assert declared[name]["parameters"]["z_loss"] == {"type": "float", "default": 0.0}
            assert "--z-loss {z_loss}" in declared[name]["command"]
        assert "z_loss" not in declared["evaluate"]["parameters"]
    result = copy.script(FIELD)
    assert Path(result["module"]).is_relative_to(copy.folder)
    assert result["written"] == result["read"] == 0.25
    assert result["left out"] == 0.0
    assert "config.z_loss=-1 is refused" in result["refused"]
    assert result["params"] == result["params of a file"] == 0.25
    assert result["effect"] == pytest.approx(0.25, rel=1e-3)


SIXTH = """
import json
import sys
from pathlib import Path
import mlflow
import torch
import lenet_study
from lenet_study.evidence.figures import architecture, style, training_curves
from lenet_study.recipes.recipe import TrainingConfig, variant_recipes
from lenet_study.recipes.variants import VARIANTS
from lenet_study.tracking.registry import load_model
from lenet_study.training.data_files import DataFiles
from lenet_study.training.hardware import Hardware
from lenet_study.workflows.study import StudyResult, comparison, select
from lenet_study.workflows.train import TrainingJob, train

data = DataFiles(Path(sys.argv[1]), json.loads(sys.argv[2]), sources={})
recipe = variant_recipes(TrainingConfig(epochs=1, batch_size=20))["v2-dropout"]
result = train(TrainingJob(recipe=recipe, hardware=Hardware(device="cpu"), data=data))
client = mlflow.MlflowClient()
run = client.get_run(result.run_id)
model = load_model(result.run_id)
trained = {"v2-dropout": {0: result}}
table = comparison(StudyResult(trained, select(trained), {}, {}, {}))
curves = training_curves.curves({"v2-dropout": result.history}, {"v2-dropout": 1})
picture = architecture.draw("v2-dropout", VARIANTS["v2-dropout"])
artifact = client.download_artifacts(result.run_id, "model_summary.txt", ".")
print(json.dumps({
    "module": lenet_study.__file__,
    "colours": style.COLOURS,
    "tags": run.data.tags,
    "version": result.model.version,
    "artifacts": [file.path for file in client.list_artifacts(result.run_id)],
    "summary": Path(artifact).read_text(),
    "logits": list(model.module(torch.rand(3, 1, 28, 28)).shape),
    "compared": table[["training", "best_epoch", "val_accuracy"]].to_dict("records"),
    "val_accuracy": result.best.val_accuracy,
    "line": [line.get_color() for line in curves.axes[0].lines],
    "texts": [text.get_text() for text in picture.axes[0].texts],
}))
"""


def test_a_variant_is_one_entry(project, toy_files):
    copy = project("A variant")
    assert [len(step["code"].splitlines()) for step in copy.steps] == [1]
    assert "|v2-dropout" in copy.command("train", "--help")
    result = copy.script(SIXTH, str(toy_files.folder), json.dumps(toy_files.sha256))
    assert Path(result["module"]).is_relative_to(copy.folder)

    colour = result["colours"].pop("v2-dropout")
    assert colour not in result["colours"].values()
    assert result["tags"]["mlflow.runColor"] == colour
    assert set(result["line"]) == {colour}

    change = "half of the classifier's inputs are dropped"
    what, _ = result["tags"]["mlflow.note.content"].split("\n\n---\n\n")  # and links
    assert what == f"**v2-dropout**: v2, but {change}."
    assert f"v2-dropout = v2, but {change}" in result["texts"]
    assert "333,970 parameters (v2: 333,970)" in result["texts"]
    assert any("Orange: changed from v2" in text for text in result["texts"])
    assert result["texts"].count("ReLU, drop 0.5") == 2

    assert "Dropout" in result["summary"]
    assert {"architecture.png", "curves.png", "recipe.json"} <= set(result["artifacts"])
    assert result["tags"]["parity"] == "passed"
    assert int(result["version"]) == 1
    assert result["logits"] == [3, 10]
    (row,) = result["compared"]
    assert row == {"training": "v2-dropout", "best_epoch": 1, "val_accuracy": result["val_accuracy"]}


def test_an_entry_point_is_one_function(project):
    copy = project("An entry point")
    assert "count      Print the number of weights of one model." in copy.command("--help")
    assert f"--variant [{'|'.join(VARIANTS)}] Which variant." in squeezed(copy.command("count", "--help"))
    assert copy.command("count", "--variant", "v2") == "333970\n"
    assert "Invalid value for '--variant'" in copy.command("count", "--variant", "v9", code=2)
    for declared, prefix in zip(
        copy.entry_points(), ("PYTHONPATH=src python -m lenet_study ", ""), strict=True
    ):
        assert declared["count"]["parameters"] == {
            name: value for name, value in declared["train"]["parameters"].items() if name in COUNTED
        }
        assert declared["count"]["command"].startswith(f"{prefix}count --variant {{variant}} ")
        assert declared["main"] == declared["study"]


COUNTED = (
    *("variant", "recipe", "epochs", "batch_size", "learning_rate", "seed", "auxiliary"),
    *("auxiliary_weight", "precision"),
)
