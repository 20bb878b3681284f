"""Verdicts on repetitions, on made-up results."""

import subprocess
import sys
import zipfile
from dataclasses import replace

import pytest
import torch

from lenet_study.evidence import verdicts
from lenet_study.evidence.verdicts import Outcome, judge
from lenet_study.training.history import Epoch

LABELS = torch.arange(2000) % 10
THREADS = ["threads: 1, now 2"]


def epoch(number, **figures):
    values = {"train_loss": 0.5, "train_accuracy": 0.8, "val_loss": 0.4, "val_accuracy": 0.9, "seconds": 1.0}
    return Epoch(epoch=number, learning_rate=0.001, **{**values, **figures})


def outcome(wrong=100, **changes):
    """A result that has so many images wrong, the first ones."""
    logits = torch.nn.functional.one_hot(LABELS, 10).float()
    logits[:wrong] = logits[:wrong].roll(1, dims=1)
    values = {
        "history": (epoch(1), epoch(2)),
        "weights_sha256": "a",
        "torchscript_digest": "b",
        "logits": logits,
    }
    return Outcome(**{**values, **changes})


def test_equal_results_are_identical_whatever_has_changed_and_however_long_they_took():
    slower = outcome(history=(epoch(1, seconds=9.0), epoch(2)))
    for causes in ([], THREADS):
        verdict = judge(outcome(), slower, LABELS, causes)
        assert (verdict.kind, list(verdict.unequal), verdict.first_epoch) == ("identical", [], "")


def test_other_bits_with_a_cause_are_equivalent_as_long_as_the_accuracies_are_near():
    other = outcome(wrong=110, history=(epoch(1), epoch(2, val_loss=0.41)), weights_sha256="c")
    verdict = judge(outcome(), other, LABELS, THREADS)
    assert verdict.kind == "equivalent"
    assert verdict.unequal == ["weights", "metrics", "predictions"]
    assert verdict.first_epoch == "epoch 2: val_loss 0.4, now 0.41"
    assert verdict.figures["difference"] == pytest.approx(-0.005)  # the limit itself
    assert "accuracy 95.00%, now 94.50%" in verdict.sentence
    apart = judge(outcome(), replace(other, logits=outcome(wrong=111).logits), LABELS, THREADS)
    assert apart.kind == "differs"
    assert "more than 0.5 points apart" in apart.sentence


@pytest.mark.parametrize(
    "change",
    [
        {"weights_sha256": "c"},
        {"history": (epoch(1), epoch(2, train_loss=0.5000000000000001))},
        {"history": (epoch(1),)},
        {"torchscript_digest": "c"},
        {"logits": outcome().logits + 1e-7},
    ],
    ids=lambda change: next(iter(change)),
)
def test_anything_else_without_a_cause_differs(change):
    verdict = judge(outcome(), outcome(**change), LABELS, [])
    assert verdict.kind == "differs"
    assert "nothing that decides bits is known to have changed" in verdict.sentence


def test_another_commit_explains_another_file_but_no_other_weights():
    commit = ["commit: a, now b"]
    file, weights = outcome(torchscript_digest="c"), outcome(torchscript_digest="c", weights_sha256="c")
    assert judge(outcome(), file, LABELS, [], commit).kind == "equivalent"
    assert judge(outcome(), weights, LABELS, [], commit).kind == "differs"


def test_a_retraining_has_no_validation_figures():
    last = epoch(1, val_loss=None, val_accuracy=None)
    results = (outcome(history=(last,)), outcome(history=(replace(last, train_loss=0.6),)))
    assert judge(*results, LABELS, []).first_epoch == "epoch 1: train_loss 0.5, now 0.6"


EXPORT = """
import sys
from pathlib import Path
from lenet_study.evidence import export
from lenet_study.recipes.variants import VARIANTS
from lenet_study.training.dataset import Normalisation
from lenet_study.training.model import LeNet
for name in sys.argv[2:]:
    exported = export.exportable(LeNet(VARIANTS[name], 0), Normalisation(0.3, 0.3), {"name": name})
    export.save_torchscript(exported, Path(sys.argv[1]))
"""


def test_an_exported_file_has_one_digest_in_all_processes(tmp_path, monkeypatch):
    """Python's hashes differ from process to process, and so does what has been exported before."""
    paths = []
    for seed, models in (("1", ["v4"]), ("2", ["v2", "v3", "v4"])):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        (tmp_path / seed).mkdir()
        paths.append(tmp_path / seed / "model.pth")
        subprocess.run([sys.executable, "-c", EXPORT, paths[-1], *models], check=True)
    assert paths[0].read_bytes() != paths[1].read_bytes()
    first, second = map(verdicts.torchscript_digest, paths)
    assert first == second
    changed = tmp_path / "changed.pth"
    with zipfile.ZipFile(paths[0]) as source, zipfile.ZipFile(changed, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            target.writestr(name, content[:-1] + b"\1" if name == "model/data/0" else content)
    assert verdicts.torchscript_digest(changed) != first
