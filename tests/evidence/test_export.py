"""The exported files: they compute what the eager model computes, and a difference does not pass."""

import hashlib
import json
import pickle
import warnings
import zipfile
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from lenet_study.errors import UserError
from lenet_study.evidence import export
from lenet_study.recipes.variants import VARIANTS
from lenet_study.training.dataset import Normalisation
from lenet_study.training.hardware import Hardware
from lenet_study.training.model import LeNet

NORMALISATION = Normalisation(mean=0.286, std=0.353)
DESCRIPTION = {"name": "v4 fold 3/5", "seed": 7, "val_accuracy": 0.1 + 0.2, "model": None, "ünïcode": "×"}
every_variant = pytest.mark.parametrize("name", VARIANTS)
with_and_without_norm = pytest.mark.parametrize("name", ["baseline", "v4"])


def trained(name, seed=3):
    """A model as after a training: nothing in it is zero, one or shared between channels."""
    model = LeNet(VARIANTS[name], seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, nn.Linear | nn.Conv2d):
                part.bias.uniform_(-0.2, 0.2, generator=generator)
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                part.weight.uniform_(0.5, 1.5, generator=generator)
                part.bias.uniform_(-0.2, 0.2, generator=generator)
                part.running_mean.uniform_(-0.5, 0.5, generator=generator)
                part.running_var.uniform_(0.5, 2, generator=generator)
                part.num_batches_tracked.fill_(1500)
    return model.eval()


def grey(count, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 28, 28), generator=generator, dtype=torch.uint8)


def exportable(model):
    return export.exportable(model, NORMALISATION, DESCRIPTION)


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """For each variant the eager model and its two files; writing and reading them warns of nothing."""
    folder = tmp_path_factory.mktemp("exported models")  # a name with a space
    written = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in VARIANTS:
            exported = exportable(model := trained(name))
            script, program = folder / f"{name}.pt", folder / f"{name}.pt2"
            export.save_torchscript(exported, script)
            export.save_program(exported, program)
            written[name] = model, script, program
            export.load_torchscript(script)
            export.load_program(program)
    return written


# ---- what the files compute ----


@every_variant
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_torchscript_equals_the_eager_model(files, name, layout):
    model, script, _ = files[name]
    model = deepcopy(model).to(memory_format=layout)
    loaded = export.load_torchscript(script)
    for count in (37, 37, 1):  # a scripted model is optimised in its second call
        images = grey(count)
        parity = export.parity(model, NORMALISATION, loaded, images)
        assert parity.passed
        assert parity.class_agreement == 1
        assert parity.images == count
        inputs = NORMALISATION(images)
        with torch.no_grad():
            close(loaded(export.as_input(images)), model(inputs))
            close(loaded.features(export.as_input(images)), model.features(inputs))
            outputs = loaded.auxiliary(export.as_input(images))
            for output, expected in zip(outputs, model.auxiliary(inputs), strict=True):
                close(output, expected)
    assert not loaded.training


@every_variant
def test_program_equals_the_eager_model(files, name):
    model, _, program = files[name]
    loaded = export.load_program(program)
    for count in (1, 2, 37):
        images = grey(count)
        assert export.parity(model, NORMALISATION, loaded, images).passed
        with torch.no_grad():
            logits = loaded(export.as_input(images))
            assert logits.shape == (count, 10)
            close(logits, model(NORMALISATION(images)))


@with_and_without_norm
def test_input_is_grey_levels_from_0_to_1(files, name):
    model, script, program = files[name]
    images = grey(5)
    inputs = export.as_input(images)
    assert inputs.dtype == torch.float32
    assert inputs.shape == (5, 1, 28, 28)
    assert torch.equal((inputs * 255).round().to(torch.uint8)[:, 0], images)
    assert torch.equal(images, grey(5))
    ends = export.as_input(torch.tensor([[[0, 255]]], dtype=torch.uint8))
    assert ends.flatten().tolist() == [0, 1]
    with torch.no_grad():
        expected = model((images[:, None].float() / 255 - NORMALISATION.mean) / NORMALISATION.std)
        for loaded in (export.load_torchscript(script), export.load_program(program)):
            before = inputs.clone()
            close(loaded(inputs), expected)
            assert torch.equal(inputs, before)  # a caller's images stay as they are


def test_description_comes_back(files):
    for _, script, _ in files.values():
        assert export.description_of(export.load_torchscript(script)) == DESCRIPTION
    json.dumps(export.description_of(export.load_torchscript(script)))


def test_exporting_leaves_the_model_as_it_was(tmp_path):
    model = trained("v4").to(memory_format=torch.channels_last).train()
    before = {entry: (value.clone(), value.stride()) for entry, value in model.state_dict().items()}
    exported = exportable(model)
    export.save_torchscript(exported, tmp_path / "model.pt")
    export.save_program(exported, tmp_path / "model.pt2")
    with torch.no_grad():
        for value in exported.state_dict().values():
            value.zero_()  # the copy shares no memory with the model
    after = model.state_dict()
    assert after.keys() == before.keys()
    for entry, (value, stride) in before.items():
        assert torch.equal(after[entry], value), entry
        assert after[entry].stride() == stride, entry
    assert all(part.training for part in model.modules())
    assert {value.device.type for value in after.values()} == {"cpu"}
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not exported.training


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@every_variant
def test_a_model_on_the_gpu_is_exported_from_there(name, tmp_path):
    device = Hardware(device="cuda").prepare()
    model = trained(name).to(device).to(memory_format=torch.channels_last)
    digest = export.weights_digest(model)
    export.save_torchscript(exportable(model), tmp_path / "model.pt")
    export.save_program(exportable(model), tmp_path / "model.pt2")
    assert {value.device.type for value in model.state_dict().values()} == {"cuda"}
    loaded = export.load_torchscript(tmp_path / "model.pt")
    assert {value.device.type for value in loaded.state_dict().values()} == {"cpu"}
    assert export.weights_digest(loaded.model) == digest == export.weights_digest(trained(name))
    for twin in (loaded, export.load_program(tmp_path / "model.pt2")):
        assert export.parity(model, NORMALISATION, twin, grey(200)).passed


# ---- parity fails ----


@with_and_without_norm
def test_parity_fails_when_a_weight_or_a_running_statistic_differs(name):
    model = trained(name)
    exported, images = exportable(model), grey(5)
    for entry, value in model.state_dict().items():
        if "aux_output" in entry or "num_batches" in entry:  # no part of the logits
            continue
        before = value.clone()
        value.mul_(1.01)
        assert not export.parity(model, NORMALISATION, exported, images).passed, entry
        value.copy_(before)
    assert export.parity(model, NORMALISATION, exported, images).passed


@with_and_without_norm
@pytest.mark.parametrize("change", [{"mean": 0.287}, {"std": 0.354}])
def test_parity_fails_when_the_normalisation_differs(files, name, change):
    model, script, program = files[name]
    other = replace(NORMALISATION, **change)
    for loaded in (export.load_torchscript(script), export.load_program(program)):
        assert export.parity(model, NORMALISATION, loaded, grey(37)).passed
        assert not export.parity(model, other, loaded, grey(37)).passed


class Logits(nn.Module):
    """Answers with given logits, whatever the images."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, images):
        return self.logits.expand(len(images), 10)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", [0, 9, slice(None)])
def test_parity_fails_on_logits_that_are_no_numbers(bad, where):
    good = torch.arange(10.0)
    spoilt = good.clone()
    spoilt[where] = bad
    good, spoilt = Logits(good), Logits(spoilt)
    images = grey(3)
    assert export.parity(good, NORMALISATION, good, images).passed is True
    for model, exported in ((good, spoilt), (spoilt, good), (spoilt, spoilt)):
        assert export.parity(model, NORMALISATION, exported, images).passed is False


def test_parity_fails_on_one_bad_image_among_many():
    class LastIsSpoilt(Logits):
        def forward(self, images):
            logits = super().forward(images).clone()
            logits[-1, 0] = float("nan")
            return logits

    logits = torch.arange(10.0)
    assert not export.parity(Logits(logits), NORMALISATION, LastIsSpoilt(logits), grey(1000)).passed


def test_parity_measures_the_largest_difference_and_the_agreement():
    class FirstDiffers(Logits):
        def forward(self, images):
            logits = super().forward(images).clone()
            logits[0, 2] += 20
            return logits

    logits = torch.arange(10.0)
    parity = export.parity(Logits(logits), NORMALISATION, FirstDiffers(logits), grey(4))
    assert parity == export.Parity(max_abs_difference=20, class_agreement=0.75, images=4)
    assert not parity.passed


@pytest.mark.parametrize(
    ("difference", "agreement", "passed"),
    [
        (0.0, 1.0, True),
        (export.PARITY_TOLERANCE, 1.0, True),
        (1.01 * export.PARITY_TOLERANCE, 1.0, False),
        (0.0, 0.999, False),
        (float("nan"), 1.0, False),
        (0.0, float("nan"), False),
    ],
)
def test_parity_passes_within_rounding(difference, agreement, passed):
    parity = export.Parity(max_abs_difference=difference, class_agreement=agreement, images=1000)
    assert parity.passed is passed


@with_and_without_norm
def test_parity_compares_in_evaluation_mode(files, name):
    model, script, _ = files[name]
    model = deepcopy(model).train()
    before = export.weights_digest(model)
    assert export.parity(model, NORMALISATION, export.load_torchscript(script), grey(37)).passed
    assert export.weights_digest(model) == before  # running statistics did not move


# ---- digests ----


@every_variant
def test_weights_digest_is_the_same_before_and_after_export(files, name):
    model, script, _ = files[name]
    digest = export.weights_digest(model)
    assert len(digest) == 64
    assert export.weights_digest(exportable(model).model) == digest
    assert export.weights_digest(export.load_torchscript(script).model) == digest
    assert export.weights_digest(trained(name)) == digest
    assert export.weights_digest(trained(name, seed=4)) != digest


@with_and_without_norm
def test_weights_digest_changes_with_every_parameter_and_buffer(name):
    model = trained(name)
    digests = [export.weights_digest(model)]
    for value in model.state_dict().values():
        value.view(-1)[-1] += 1
        digests.append(export.weights_digest(model))
        value.view(-1)[-1] -= 1
    assert len(set(digests)) == len(digests) == len(model.state_dict()) + 1


@with_and_without_norm
def test_weights_digest_does_not_depend_on_layout_or_mode(name):
    model = trained(name)
    digest = export.weights_digest(model)
    other = deepcopy(model).to(memory_format=torch.channels_last).train()
    assert other.second_wave[0].weight.stride() != model.second_wave[0].weight.stride()
    assert export.weights_digest(other) == digest
    assert export.weights_digest(exportable(other).model) == digest


def test_weights_digest_is_over_sorted_names_and_bytes():
    model = trained("v4")
    digest = hashlib.sha256()
    for name in sorted(model.state_dict()):
        digest.update(name.encode() + model.state_dict()[name].numpy().tobytes())
    assert export.weights_digest(model) == digest.hexdigest()


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_file_digest(tmp_path, size):
    content = bytes(range(256)) * (size // 256 + 1)
    path = tmp_path / "file"
    path.write_bytes(content[:size])
    assert export.file_digest(path) == hashlib.sha256(content[:size]).hexdigest()


# ---- files that are no exported model ----


class Doubling(nn.Module):
    def forward(self, images):
        return 2 * images


def write_other_model(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Doubling()), str(path))


BAD_FILES = {
    "text": lambda path: path.write_text("not a model\n" * 100),
    "empty": lambda path: path.touch(),
    "directory": lambda path: path.mkdir(),
    "missing": lambda path: None,
    "state_dict": lambda path: torch.save(trained("baseline").state_dict(), path),
    "pickled model": lambda path: torch.save(trained("baseline"), path),
    "other TorchScript model": write_other_model,
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_file_that_is_no_exported_model(tmp_path, kind):
    path = tmp_path / "model.pt"
    BAD_FILES[kind](path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserError) as caught:
            export.load_torchscript(path)
    assert_one_sentence_naming(path, caught.value)


def test_a_program_is_no_torchscript_file(files):
    program = files["baseline"][2]
    with pytest.raises(UserError) as caught:
        export.load_torchscript(program)
    assert_one_sentence_naming(program, caught.value)


def test_a_file_that_was_cut_short(files, tmp_path):
    content = files["baseline"][1].read_bytes()
    path = tmp_path / "model.pt"
    for size in (1, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(UserError) as caught:
            export.load_torchscript(path)
        assert_one_sentence_naming(path, caught.value)


class Evil:
    """Makes a file when Python unpickles it."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def archive_with(source, member, content, target):
    """Copy an archive with other content, and a sum that holds, of one member."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, content if name.endswith(f"/{member}") else old.read(name))


@pytest.mark.parametrize("zipped", [True, False], ids=["today's", "before 1.6"])
def test_a_pickle_is_refused_unread(tmp_path, zipped):
    marker, path = tmp_path / "marker", tmp_path / "model.pt"
    torch.save({"weights": Evil(marker)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError) as caught:
        export.read_torchscript(path)
    assert "is a pickle of torch.save, which could run anything when it is read" in str(caught.value)
    assert_one_sentence_naming(path, caught.value)
    assert not marker.exists()


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("member", ["data.pkl", "constants.pkl"])
def test_python_s_pickles_within_an_archive_do_not_run(files, tmp_path, member, protocol):
    marker, path = tmp_path / "marker", tmp_path / "model.pt"
    archive_with(files["baseline"][1], member, pickle.dumps(Evil(marker), protocol), path)
    with pytest.raises(UserError) as caught:
        export.read_torchscript(path)
    assert_one_sentence_naming(path, caught.value)
    assert not marker.exists()


def test_a_file_that_is_too_large_is_refused_unread(tmp_path):
    path = tmp_path / "model.pt"
    with path.open("wb") as file:
        file.truncate(export.MAX_BYTES + 1)
    with pytest.raises(UserError, match="has more than 1,073,741,824 bytes"):
        export.read_torchscript(path)


def test_a_file_that_unpacks_to_too_much_is_refused(files, tmp_path):
    path, content = tmp_path / "model.pt", bytearray(files["baseline"][1].read_bytes())
    entry = content.index(b"PK\x01\x02")  # the directory's first entry: its size is 24 bytes further on
    content[entry + 24 : entry + 28] = (2**32 - 2).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(UserError, match="unpacks to more than 1,073,741,824 bytes"):
        export.read_torchscript(path)


def test_a_flipped_bit_is_found(files, tmp_path):
    path, content = tmp_path / "model.pt", bytearray(files["baseline"][1].read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="a checksum within it does not hold"):
        export.read_torchscript(path)


def test_a_foreign_file_is_read_and_told_from_our_own(files, tmp_path):
    ours = export.read_torchscript(files["baseline"][1])
    assert export.is_exported(ours)
    export.require_exported(ours, tmp_path)
    write_other_model(tmp_path / "model.pt")
    theirs = export.read_torchscript(tmp_path / "model.pt")
    assert theirs(torch.ones(1)).item() == 2
    assert not export.is_exported(theirs)
    with pytest.raises(UserError, match="lacks model, features, auxiliary, description"):
        export.require_exported(theirs, tmp_path / "model.pt")


def test_names_alone_make_no_exported_file(tmp_path):
    class Namesake(Doubling):
        def __init__(self):
            super().__init__()
            self.model, self.features, self.auxiliary = (torch.nn.Identity() for _ in range(3))
            self.description = "a network"

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Namesake()), str(tmp_path / "model.pt"))
    assert not export.is_exported(export.read_torchscript(tmp_path / "model.pt"))
    with pytest.raises(UserError, match="lacks a description in JSON"):
        export.load_torchscript(tmp_path / "model.pt")


def assert_one_sentence_naming(path, error):
    message = str(error)
    assert str(path) in message
    assert "\n" not in message
    assert ". " not in message
    assert "train" in message  # the cure
