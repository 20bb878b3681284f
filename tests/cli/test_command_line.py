"""The command line: what it refuses, what it calls, how it ends."""

import functools
import json
import os
import signal
import subprocess
import sys
from dataclasses import is_dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import lenet_study
from lenet_study.__main__ import main
from lenet_study.cli.commands import COMMANDS, ENTRY_POINTS
from lenet_study.cli.parameters import options_of
from lenet_study.errors import JobError, StoreError, UserError
from lenet_study.execution.reporter import Terminal
from lenet_study.recipes import recipe_file
from lenet_study.recipes.recipe import TrainingConfig, variant_recipes
from lenet_study.search.config import SearchConfig
from lenet_study.training.data_files import DataFiles
from lenet_study.training.hardware import Hardware
from lenet_study.workflows.evaluate import EvaluationJob
from lenet_study.workflows.train import TrainingJob

CONFIG = {
    "epochs": 15,
    "batch_size": 32,
    "learning_rate": 0.001,
    "seed": 0,
    "auxiliary": "probe",
    "auxiliary_weight": 0.3,
    "precision": "float32",
}
PLACE = {"device": "auto", "threads": 1, "data_dir": ""}
PLACES = {**PLACE, "workers": 0}
KEPT = {"checkpoint_dir": ""}
FOLDER = Path.cwd()
CHAMPION = "models:/fashion-mnist-lenet@champion"
DEFAULTS = {
    "data": {"data_dir": ""},
    "train": {"variant": "v4", "recipe": "", **CONFIG, **PLACE, **KEPT},
    "kfold": {"variant": "v4", "recipe": "", "folds": 5, "force": False, **CONFIG, **PLACES, **KEPT},
    "resume": {"run_id": "", "force": False, **KEPT},
    "reproduce": {"run_id": "", "threads": 0, "data_dir": ""},
    "compare": {"a": "", "b": ""},
    "report": {"run_id": "", "to": "", "data_dir": ""},
    "reap": {},
    "sync": {},
    "evaluate": {"model": CHAMPION, "inputs": "auto", "seed": 0, **PLACE},
    "retrain": {"variant": "v4", "recipe": "", **CONFIG, **PLACE, **KEPT},
    "predict": {"model": CHAMPION, "image": "", "output": "table"},
    "promote": {"version": 0, "rollback": False},
    "history": {},
    "verify": {"run_id": "all", "data_dir": ""},
    "search": {
        "trials": 50,
        "timeout": 0,
        "search_name": "lenet",
        "storage": "sqlite:///optuna.db",
        "objectives": "accuracy",
        "max_parameters": 500_000,
        "max_epochs": 30,
        "sampler": "TPESampler",
        "pruner": "HyperbandPruner",
        "confirm_seeds": 3,
        "seed": 0,
        "precision": "float32",
        **PLACES,
    },
    "study": {"folds": 5, "repeats": 1, "force": False, **CONFIG, **PLACES, **KEPT},
    "relocate": {},
    "backup": {"to": ""},
    "restore": {"source": None, "to": None},
    "views": {},
    "doctor": {"json": False, "data_dir": ""},
    "fetch": {"to": None, "model": CHAMPION},
}
# arguments, what the sentence names
REJECTED = [
    (["train", "--variant", "v9"], ["--variant", "v9", "baseline"]),
    (["train", "--epochs", "0"], ["--epochs", "0", "1<=x<="]),
    (["train", "--epochs", "-1"], ["--epochs", "-1", "1<=x<="]),
    (["train", "--epochs", "abc"], ["--epochs", "abc", "whole number"]),
    (["train", "--epochs", "1.5"], ["--epochs", "1.5", "whole number"]),
    (["train", "--epochs", ""], ["--epochs", "whole number"]),
    (["train", "--batch-size", "1"], ["--batch-size", "1", "2<=x<="]),
    (["train", "--learning-rate", "nan"], ["--learning-rate", "nan", "finite"]),
    (["train", "--learning-rate", "inf"], ["--learning-rate", "inf", "0<x<="]),
    (["train", "--learning-rate", "0"], ["--learning-rate", "0", "0<x<="]),
    (["train", "--learning-rate", "-1"], ["--learning-rate", "-1", "0<x<="]),
    (["train", "--learning-rate", "abc"], ["--learning-rate", "abc", "number"]),
    (["train", "--auxiliary-weight", "nan"], ["--auxiliary-weight", "nan", "finite"]),
    (["train", "--auxiliary", "none"], ["--auxiliary", "none", "probe"]),
    (["train", "--precision", "float16"], ["--precision", "float16", "bfloat16"]),
    (["train", "--seed", "-1"], ["--seed", "-1", "0"]),
    (["train", "--seed", str(2**32)], ["--seed", str(2**32), str(2**32 - 1)]),
    (["search", "--sampler", "Annealing"], ["--sampler", "Annealing", "TPESampler"]),
    (["search", "--pruner", "none"], ["--pruner", "none", "NopPruner"]),
    (["search", "--objectives", "speed"], ["--objectives", "speed", "accuracy,parameters"]),
    (["search", "--search-name", "a/b"], ["--search-name", "a/b", "letters"]),
    (["search", "--trials", "0"], ["--trials", "0", "1<=x<="]),
    (["evaluate", "--inputs", "own"], ["--inputs", "own", "auto", "unit", "normalised", "symmetric"]),
    (["evaluate", "--seed", str(2**32)], ["--seed", str(2**32), str(2**32 - 1)]),
    (["train", "--threads", "-1"], ["--threads", "-1", "0"]),
    (["train", "--threads", "100000000"], ["--threads", "100000000"]),
    (["train", "--device", "tpu"], ["--device", "tpu", "cuda"]),
    (["study", "--workers", "-1"], ["--workers", "-1", "0"]),
    (["study", "--repeats", "0"], ["--repeats", "0", "1<=x<=1000"]),
    (["kfold", "--folds", "1"], ["--folds", "1", "2<=x<="]),
    (["predict", "--output", "xml"], ["--output", "xml", "request"]),
    (["promote", "--rollback", "maybe"], ["--rollback", "maybe", "true"]),
    (["train", "--unknown", "1"], ["--unknown", "train --help"]),
    (["promote", "--epochs", "1"], ["--epochs", "promote --help"]),
    (["fetch"], ["--to", "fetch --help"]),
    (["train", "--epochs"], ["--epochs", "argument", "--help"]),
    (["train", "v2"], ["v2", "train --help"]),
    (["trian"], ["trian", "--help"]),
]


@pytest.fixture(autouse=True)
def fresh_folder(tmp_path, monkeypatch):
    """An empty working directory, MLflow's default store, and the process's own signal handlers."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def parameters(arguments):
    """Arguments by name, those in dataclasses, too."""
    values = {}
    for name, value in arguments.items():
        values |= parameters(vars(value)) if is_dataclass(value) else {name: value}
    return values


class Recorder:
    """Commands with the parameters of the real ones, which only note what they are called with."""

    def __init__(self):
        self.calls = []
        self.commands = {name: self._recording(command) for name, command in COMMANDS.items()}

    def main(self, arguments):
        return main(arguments, self.commands)

    def _recording(self, command):
        @functools.wraps(command)
        def record(**arguments):
            self.calls.append((command.__name__, parameters(arguments)))

        return record


@pytest.fixture
def recorder():
    return Recorder()


def ending(error):
    """A command line whose command ``data`` raises an error."""

    def data():
        raise error

    return {"data": data}


def assert_one_sentence(errors, named):
    assert errors.startswith("Error: ")
    assert errors.count("\n") == 1
    assert errors.endswith("\n")
    for words in named:
        assert words in errors


@pytest.mark.parametrize(("arguments", "named"), REJECTED, ids=lambda value: " ".join(value))
def test_a_bad_input_is_refused_in_one_sentence(arguments, named, recorder, capsys, tmp_path):
    assert recorder.main(arguments) == 2
    output, errors = capsys.readouterr()
    assert_one_sentence(errors, named)
    assert output == ""
    assert recorder.calls == []
    assert list(tmp_path.iterdir()) == []


def test_cuda_without_a_gpu_is_refused_before_a_store_is_made(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["train", "--device", "cuda"]) == 2
    assert_one_sentence(capsys.readouterr().err, ["device=cuda", "GPU", "device=cpu"])
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.realdata
def test_more_folds_than_the_rarest_class_has_images_are_refused(capsys, tmp_path):
    data_dir = str((FOLDER / DataFiles.at().folder).resolve())  # relative to where the tests were started
    assert main(["kfold", "--folds", "6001", "--threads", "1", "--data-dir", data_dir]) == 2
    assert_one_sentence(capsys.readouterr().err, ["folds=6001", "between 2 and 6000"])
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.parametrize("content", [None, "no model"], ids=["missing", "text"])
def test_a_path_that_is_no_model_is_refused_before_a_store_is_made(content, capsys, tmp_path):
    path = tmp_path / "model.pth"
    if content:
        path.write_text(content)
    assert main(["evaluate", "--model", str(path), "--threads", "1"]) == 2
    assert_one_sentence(capsys.readouterr().err, [str(path), "name "])
    assert not (tmp_path / "mlflow.db").exists()


def test_many_epochs_and_large_seeds_are_fine(recorder):
    assert recorder.main(["train", "--epochs", "1000000000", "--seed", str(2**32 - 1)]) == 0
    ((name, values),) = recorder.calls
    assert (name, values["epochs"], values["seed"]) == ("train", 10**9, 2**32 - 1)


def test_the_commands_and_their_parameters_are_frozen():
    """A parameter that appears, vanishes or gets another default changes what users see: say so here."""
    declared = {
        name: {
            parameter: None if option.required else option.default
            for parameter, option in options_of(command).items()
        }
        for name, command in COMMANDS.items()
    }
    assert declared == DEFAULTS
    assert ENTRY_POINTS.keys() == DEFAULTS.keys() - {"doctor", "fetch", "relocate", "restore", "views"}


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_a_command_is_called_with_its_defaults(name, recorder):
    assert recorder.main([name]) == 0
    assert recorder.calls == [(name, DEFAULTS[name])]


def test_a_command_is_called_with_the_options_values(recorder):
    options = ["--learning-rate", "0.010", "--variant", "v2", "--device", "cpu", "--data-dir", "~/x y"]
    assert recorder.main(["train", *options]) == 0
    expected = {"learning_rate": 0.01, "variant": "v2", "device": "cpu", "data_dir": "~/x y"}
    assert recorder.calls == [("train", {**DEFAULTS["train"], **expected})]


@pytest.mark.parametrize("value", ["true", "True", "1"])
def test_a_switch_takes_a_value_as_mlflow_projects_pass_it(value, recorder):
    assert recorder.main(["promote", "--rollback", value]) == 0
    assert recorder.calls == [("promote", {"version": 0, "rollback": True})]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_names_every_option(name, recorder, capsys):
    assert recorder.main([name, "--help"]) == 0
    output = capsys.readouterr().out
    for parameter, default in DEFAULTS[name].items():
        assert "--" + parameter.replace("_", "-") in output
        shown_as = "[required]" if default is None else str(default)
        assert shown_as in output.replace("\n", "").replace(" ", "")
    assert recorder.calls == []


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    output = capsys.readouterr().out
    for name in COMMANDS:
        assert f"  {name} " in output


def test_without_a_command_the_commands_are_listed(capsys):
    assert main([]) == 2
    assert "promote" in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (UserError("folds=1: choose 2"), 2, "Error: folds=1: choose 2.\n"),
        (JobError("fold 1 failed"), 1, "Error: fold 1 failed.\n"),
        (StoreError("MLflow failed: full"), 1, "Error: MLflow failed: full.\n"),
        (OSError(28, "No space left"), 1, "Error: [Errno 28] No space left.\n"),
        (KeyboardInterrupt(), 130, "Error: Interrupted; finished runs are kept.\n"),
    ],
    ids=["user", "job", "store", "disk", "interrupt"],
)
def test_the_exception_of_a_command_decides_the_exit_code(error, code, sentence, capsys):
    assert main(["data"], ending(error)) == code
    assert sentence in capsys.readouterr().err


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        main(["data"], ending(ZeroDivisionError("ours")))


def test_sigterm_ends_the_process_with_143(recorder):
    recorder.main(["data"])  # sets the handler
    with pytest.raises(SystemExit) as caught:
        os.kill(os.getpid(), signal.SIGTERM)
    assert caught.value.code == 143


# ---- what the commands call ----

IMAGES = DataFiles.at("images")
HARDWARE = Hardware(threads=2)
ON = ["--threads", "2", "--data-dir", "images"]
V2 = ["--variant", "v2", "--epochs", "3", *ON]
V2_JOB = TrainingJob(
    recipe=variant_recipes(TrainingConfig(epochs=3))["v2"], hardware=HARDWARE, data=IMAGES, folds=0
)
TERMINAL = "the terminal"
CALLED = {  # options, workflow, its arguments by position and by name
    "study": (
        ["--epochs", "3", "--folds", "2", "--repeats", "10", "--workers", "4", *ON],
        "workflows.study.study",
        [TrainingConfig(epochs=3)],
        {
            "force": False,
            "folds": 2,
            "repeats": 10,
            "workers": 4,
            "hardware": HARDWARE,
            "data": IMAGES,
            "checkpoint_dir": "",
            "reporter": TERMINAL,
        },
    ),
    "train": (V2, "workflows.train.train", [V2_JOB, TERMINAL], {}),
    "kfold": (
        [*V2, "--folds", "4", "--workers", "3"],
        "workflows.kfold.kfold_side_by_side",
        [replace(V2_JOB, folds=4, once=True), 3, TERMINAL],
        {},
    ),
    "retrain": (V2, "workflows.retrain.retrain", [V2_JOB, TERMINAL], {}),
    "evaluate": (
        ["--model", "model.pt", "--inputs", "normalised", "--seed", "4", *ON],
        "workflows.evaluate.evaluate",
        [
            EvaluationJob(model="model.pt", inputs="normalised", seed=4, hardware=HARDWARE, data=IMAGES),
            TERMINAL,
        ],
        {},
    ),
    "predict": (
        ["--image", "a.png 'b c.jpg'", "--output", "json"],
        "workflows.predict.predict",
        [CHAMPION, "a.png 'b c.jpg'", "json", TERMINAL],
        {},
    ),
    "promote": (
        ["--rollback", "true"],
        "workflows.promote.promote",
        [],
        {"version": 0, "rollback": True, "reporter": TERMINAL},
    ),
    "history": ([], "workflows.champion_history.history", [TERMINAL], {}),
    "verify": (
        ["--run-id", "abc", "--data-dir", "images"],
        "workflows.verify.verify",
        ["abc", IMAGES, TERMINAL],
        {},
    ),
    "search": (
        ["--trials", "7", "--workers", "3", *ON],
        "search.driver.search",
        [SearchConfig(trials=7), HARDWARE, 3, IMAGES, TERMINAL],
        {},
    ),
    "resume": (
        ["--run-id", "abc", "--force", "true"],
        "workflows.resume.resume",
        ["abc"],
        {"force": True, "checkpoint_dir": "", "reporter": TERMINAL},
    ),
    "reproduce": (
        ["--run-id", "abc", "--threads", "2", "--data-dir", "images"],
        "workflows.reproduce.reproduce",
        ["abc"],
        {"threads": 2, "data_dir": "images", "reporter": TERMINAL},
    ),
    "compare": (
        ["--a", "v4", "--b", "champion"],
        "workflows.compare.compare",
        ["v4", "champion", TERMINAL],
        {},
    ),
    "report": (
        ["--run-id", "abc", "--to", "a.html", "--data-dir", "images"],
        "workflows.report.report",
        ["abc"],
        {"to": "a.html", "data": IMAGES, "reporter": TERMINAL},
    ),
    "reap": ([], "workflows.orphans.reap", [TERMINAL], {}),
    "sync": ([], "workflows.sync.sync", [TERMINAL], {}),
    "relocate": ([], "workflows.relocate.relocate", [TERMINAL], {}),
    "backup": (["--to", "a.tar"], "workflows.backup.backup", [Path("a.tar"), TERMINAL], {}),
    "restore": (
        ["--source", "a.tar", "--to", "b"],
        "workflows.backup.restore",
        [Path("a.tar"), Path("b"), TERMINAL],
        {},
    ),
    "doctor": (
        ["--json", "true", "--data-dir", "images"],
        "workflows.doctor.doctor",
        ["images"],
        {"as_json": True, "reporter": TERMINAL},
    ),
    "views": ([], "workflows.page.views", [TERMINAL], {}),
    "data": (["--data-dir", "images"], "workflows.data.verify_data", [IMAGES, TERMINAL], {}),
    "fetch": (["--to", "a/b"], "workflows.fetch.fetch_model", [CHAMPION, Path("a/b"), TERMINAL], {}),
}


def call_of(name, options, workflow, monkeypatch):
    """What a command calls its workflow with, by position and by name; the workflow does nothing."""
    calls = []

    def record(*arguments, **named):
        assert all(type(value) is Terminal for key, value in named.items() if key == "reporter")
        arguments = [TERMINAL if type(value) is Terminal else value for value in arguments]
        calls.append((arguments, {k: TERMINAL if k == "reporter" else v for k, v in named.items()}))

    module, _, function = workflow.rpartition(".")
    jobs = {"TrainingJob": TrainingJob, "EvaluationJob": EvaluationJob}
    monkeypatch.setitem(sys.modules, f"lenet_study.{module}", SimpleNamespace(**{function: record}, **jobs))
    assert main([name, *options]) == 0
    (call,) = calls
    return call


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_calls_its_workflow(name, monkeypatch):
    options, workflow, arguments, named = CALLED[name]
    assert call_of(name, options, workflow, monkeypatch) == (arguments, named)


@pytest.mark.parametrize("name", ["train", "kfold", "retrain"])
def test_a_recipe_file_is_what_is_trained(name, monkeypatch, tmp_path):
    recipe = replace(V2_JOB.recipe, name="mine", config=TrainingConfig(epochs=5, batch_size=64))
    (tmp_path / "mine.json").write_text(recipe_file.dumps(recipe))
    workflow = CALLED[name][1]
    (job, *_), _ = call_of(name, ["--recipe", "mine.json", "--seed", "3"], workflow, monkeypatch)
    assert job.recipe == replace(recipe, config=replace(recipe.config, seed=3))
    assert job.recipe_file == "mine.json"


def process(*command):
    source = str(Path(lenet_study.__file__).parents[1])
    return subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_module_is_a_program(tmp_path):
    rejected = process("-m", "lenet_study", "train", "--epochs", "0")
    assert rejected.returncode == 2
    assert_one_sentence(rejected.stderr, ["--epochs", "python -m lenet_study train --help"])
    assert rejected.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_help_and_rejected_values_import_neither_torch_nor_mlflow():
    script = """if True:
        import contextlib, io, json, sys
        from lenet_study.__main__ import main
        from lenet_study.cli.commands import COMMANDS
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            codes = [main(["--help"]), *(main([name, "--help"]) for name in COMMANDS)]
            codes += [main(["train", "--epochs", "0"]), main(["nosuch"])]
        heavy = {"torch", "mlflow", "numpy", "sklearn", "matplotlib", "pandas", "optuna", "pydantic", "tqdm"}
        print(json.dumps([codes, sorted(heavy & sys.modules.keys())]))
    """
    codes, imported = json.loads(process("-c", script).stdout)
    assert codes == [0] * (1 + len(COMMANDS)) + [2, 2]
    assert imported == []
