import json
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from conftest import toy_split

import lenet_study
from lenet_study.__main__ import MODULES, main
from lenet_study.cli.parameters import COMMANDS
from lenet_study.errors import StoreError, UserError
from lenet_study.training import fashion_mnist as data

CONFIG = {
    "epochs": 15,
    "batch_size": 32,
    "learning_rate": 0.001,
    "seed": 0,
    "auxiliary": "probe",
    "auxiliary_weight": 0.3,
    "precision": "float32",
}
MACHINE = {"device": "auto", "threads": 0, "data_dir": ""}
MACHINES = {**MACHINE, "workers": 0}
CHAMPION = "models:/fashion-mnist-lenet@champion"
ENTRY_POINTS = {
    "data": {"data_dir": ""},
    "train": {"variant": "v4", "spec": "", **CONFIG, **MACHINE},
    "kfold": {"variant": "v4", "spec": "", "folds": 5, **CONFIG, **MACHINES},
    "evaluate": {"model": CHAMPION, "seed": 0, **MACHINE},
    "retrain": {"variant": "v4", "spec": "", **CONFIG, **MACHINE},
    "promote": {"rollback": False},
    "search": {
        "trials": 50,
        "timeout": 0,
        "study_name": "lenet",
        "storage": "sqlite:///optuna.db",
        "objectives": "accuracy",
        "max_parameters": 500_000,
        "max_epochs": 30,
        "sampler": "TPESampler",
        "pruner": "HyperbandPruner",
        "confirm_seeds": 3,
        "seed": 0,
        "precision": "float32",
        **MACHINES,
    },
    "study": {"folds": 5, **CONFIG, **MACHINES},
}
# arguments, what the sentence names
REJECTED = [
    (["train", "--variant", "v9"], ["--variant", "v9", "baseline"]),
    (["train", "--epochs", "0"], ["--epochs", "0", "x>=1"]),
    (["train", "--epochs", "-1"], ["--epochs", "-1", "x>=1"]),
    (["train", "--epochs", "abc"], ["--epochs", "abc", "whole number"]),
    (["train", "--epochs", "1.5"], ["--epochs", "1.5", "whole number"]),
    (["train", "--epochs", ""], ["--epochs", "whole number"]),
    (["train", "--batch-size", "1"], ["--batch-size", "1", "x>=2"]),
    (["train", "--learning-rate", "nan"], ["--learning-rate", "nan", "finite"]),
    (["train", "--learning-rate", "inf"], ["--learning-rate", "inf", "finite"]),
    (["train", "--learning-rate", "0"], ["--learning-rate", "0", "x>0"]),
    (["train", "--learning-rate", "-1"], ["--learning-rate", "-1", "x>0"]),
    (["train", "--learning-rate", "abc"], ["--learning-rate", "abc", "number"]),
    (["train", "--auxiliary-weight", "nan"], ["--auxiliary-weight", "nan", "finite"]),
    (["train", "--auxiliary", "none"], ["--auxiliary", "none", "probe"]),
    (["train", "--precision", "float16"], ["--precision", "float16", "bfloat16"]),
    (["train", "--seed", "-1"], ["--seed", "-1", "0"]),
    (["train", "--seed", str(2**32)], ["--seed", str(2**32), str(2**32 - 1)]),
    (["search", "--sampler", "Annealing"], ["--sampler", "Annealing", "TPESampler"]),
    (["search", "--pruner", "none"], ["--pruner", "none", "NopPruner"]),
    (["search", "--objectives", "speed"], ["--objectives", "speed", "accuracy,parameters"]),
    (["search", "--study-name", "a/b"], ["--study-name", "a/b", "letters"]),
    (["search", "--trials", "0"], ["--trials", "0", "x>=1"]),
    (["evaluate", "--seed", str(2**32)], ["--seed", str(2**32), str(2**32 - 1)]),
    (["train", "--threads", "-1"], ["--threads", "-1", "0"]),
    (["train", "--threads", "100000000"], ["--threads", "100000000"]),
    (["train", "--device", "tpu"], ["--device", "tpu", "cuda"]),
    (["study", "--workers", "-1"], ["--workers", "-1", "0"]),
    (["kfold", "--folds", "1"], ["--folds", "1", "x>=2"]),
    (["promote", "--rollback", "maybe"], ["--rollback", "maybe", "true"]),
    (["train", "--unknown", "1"], ["--unknown", "train --help"]),
    (["promote", "--epochs", "1"], ["--epochs", "promote --help"]),
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


@pytest.fixture
def called(monkeypatch):
    """Commands that only note what they are called with."""
    calls = []
    for name in COMMANDS:
        command = types.SimpleNamespace(main=lambda name=name, **values: calls.append((name, values)))
        monkeypatch.setitem(sys.modules, MODULES[name], command)
    return calls


@pytest.fixture
def raised(monkeypatch):
    """Give the error that the command ``data`` raises."""

    def set_error(error):
        def command(**values):
            raise error

        monkeypatch.setitem(sys.modules, "lenet_study.workflows.data", types.SimpleNamespace(main=command))

    return set_error


def assert_one_sentence(errors, named):
    assert errors.startswith("Error: ")
    assert errors.count("\n") == 1
    assert errors.endswith("\n")
    for words in named:
        assert words in errors


@pytest.mark.parametrize(("arguments", "named"), REJECTED, ids=lambda value: " ".join(value))
def test_a_bad_input_is_refused_in_one_sentence(arguments, named, called, capsys, tmp_path):
    assert main(arguments) == 2
    output, errors = capsys.readouterr()
    assert_one_sentence(errors, named)
    assert output == ""
    assert called == []
    assert list(tmp_path.iterdir()) == []


def test_cuda_without_a_gpu_is_refused_before_a_store_is_made(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["train", "--device", "cuda"]) == 2
    assert_one_sentence(capsys.readouterr().err, ["device=cuda", "GPU", "device=cpu"])
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.parametrize("arguments", [["--folds", "3"], ["--folds", "6"]], ids=" ".join)
def test_more_folds_than_the_rarest_class_has_images_are_refused(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(data, "load_train", lambda folder: toy_split(20, seed=1))
    assert main(["kfold", *arguments, "--threads", "1"]) == 2
    assert_one_sentence(capsys.readouterr().err, [f"folds={arguments[1]}", "between 2 and 2"])
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.parametrize("content", [None, "no model"], ids=["missing", "text"])
def test_a_path_that_is_no_model_is_refused_before_a_store_is_made(content, capsys, tmp_path):
    path = tmp_path / "model.pth"
    if content:
        path.write_text(content)
    assert main(["evaluate", "--model", str(path), "--threads", "1"]) == 2
    assert_one_sentence(capsys.readouterr().err, [str(path), "name "])
    assert not (tmp_path / "mlflow.db").exists()


def test_many_epochs_and_large_seeds_are_fine(called):
    assert main(["train", "--epochs", "1000000000", "--seed", str(2**32 - 1)]) == 0
    ((name, values),) = called
    assert (name, values["epochs"], values["seed"]) == ("train", 10**9, 2**32 - 1)


def test_the_largest_seed_splits_the_data():
    train, validation = data.split(toy_split(50, seed=1).labels, 2**32 - 1)
    assert (len(train), len(validation)) == (40, 10)


def test_the_entry_points_and_their_parameters_are_frozen():
    """A parameter that appears, vanishes or gets another default changes what users see: say so here."""
    declared = {
        name: {parameter.name: parameter.default for parameter in parameters}
        for name, (_, parameters) in COMMANDS.items()
    }
    assert declared == ENTRY_POINTS


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_a_command_is_called_with_its_defaults(name, called):
    assert main([name]) == 0
    assert called == [(name, ENTRY_POINTS[name])]


def test_a_command_is_called_with_what_was_given(called):
    given = ["--learning-rate", "0.010", "--variant", "v2", "--device", "cpu", "--data-dir", "~/x y"]
    assert main(["train", *given]) == 0
    expected = {"learning_rate": 0.01, "variant": "v2", "device": "cpu", "data_dir": "~/x y"}
    assert called == [("train", {**ENTRY_POINTS["train"], **expected})]


@pytest.mark.parametrize("value", ["true", "True", "1"])
def test_a_switch_takes_a_value_as_mlflow_projects_pass_it(value, called):
    assert main(["promote", "--rollback", value]) == 0
    assert called == [("promote", {"rollback": True})]


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_help_names_every_option(name, called, capsys):
    assert main([name, "--help"]) == 0
    output = capsys.readouterr().out
    for parameter, default in ENTRY_POINTS[name].items():
        assert "--" + parameter.replace("_", "-") in output
        assert str(default) in output.replace("\n", "").replace(" ", "")
    assert called == []


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    output = capsys.readouterr().out
    for name in ENTRY_POINTS:
        assert f"  {name} " in output


def test_without_a_command_the_commands_are_listed(capsys):
    assert main([]) == 2
    assert "promote" in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (UserError("folds=1: choose 2"), 2, "Error: folds=1: choose 2.\n"),
        (StoreError("MLflow failed: full"), 1, "Error: MLflow failed: full.\n"),
        (OSError(28, "No space left"), 1, "Error: [Errno 28] No space left.\n"),
        (KeyboardInterrupt(), 130, "Error: Interrupted; finished runs are kept.\n"),
    ],
    ids=["user", "store", "disk", "interrupt"],
)
def test_what_a_command_raises_decides_the_exit_code(error, code, sentence, raised, capsys):
    raised(error)
    assert main(["data"]) == code
    assert sentence in capsys.readouterr().err


def test_a_bug_keeps_its_traceback(raised):
    raised(ZeroDivisionError("ours"))
    with pytest.raises(ZeroDivisionError):
        main(["data"])


def test_sigterm_ends_the_process_with_143(raised, called):
    main(["data"])  # sets the handler
    with pytest.raises(SystemExit) as caught:
        os.kill(os.getpid(), signal.SIGTERM)
    assert caught.value.code == 143


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
        from lenet_study.__main__ import MODULES, main
        from lenet_study.cli.parameters import COMMANDS
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            codes = [main(["--help"]), *(main([name, "--help"]) for name in COMMANDS)]
            codes += [main(["train", "--epochs", "0"]), main(["nosuch"])]
        heavy = {"torch", "mlflow", "numpy", "sklearn", "matplotlib", "pandas", "optuna"}
        print(json.dumps([codes, sorted(heavy & sys.modules.keys())]))
    """
    codes, imported = json.loads(process("-c", script).stdout)
    assert codes == [0] * (1 + len(ENTRY_POINTS)) + [2, 2]
    assert imported == []
