"""Where the files come from and how they are verified; splits, folds, digests, normalisation."""

import errno
import gzip
import hashlib
import os
import socket
import struct
import subprocess
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch

from lenet_study.errors import StoreError, UserError
from lenet_study.training import fashion_mnist as data

FETCH_TORCHVISION, FETCH_DEBIAN = data._fetch_torchvision, data._fetch_debian


def idx_files(prefix: str, count: int, seed: int) -> dict[str, bytes]:
    """IDX files: https://yann.lecun.com/exdb/mnist (magic number, sizes, bytes)."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 28, 28), np.uint8)
    labels = rng.integers(0, 10, count, np.uint8)
    return {
        f"{prefix}-images-idx3-ubyte": struct.pack(">4I", 2051, count, 28, 28) + images.tobytes(),
        f"{prefix}-labels-idx1-ubyte": struct.pack(">2I", 2049, count) + labels.tobytes(),
    }


RAW = idx_files("train", 20, seed=1) | idx_files("t10k", 10, seed=2)
NAMES = list(RAW)


def no_network(folder: Path) -> None:
    raise OSError("no network")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty data folder, small files as the expected content, no other source."""
    monkeypatch.setattr(
        data, "FILES", {name: hashlib.sha256(content).hexdigest() for name, content in RAW.items()}
    )
    monkeypatch.setattr(data, "DEBIAN_FOLDER", tmp_path / "debian")
    monkeypatch.setattr(data, "_fetch_torchvision", no_network)
    monkeypatch.setattr(data, "_fetch_debian", no_network)
    monkeypatch.delenv(data.ENVIRONMENT_VARIABLE, raising=False)
    return tmp_path / "data"


def write(place: Path, content: dict[str, bytes] = RAW, zipped: bool = False) -> None:
    place.mkdir(parents=True, exist_ok=True)
    for name, raw in content.items():
        if zipped:
            (place / f"{name}.gz").write_bytes(gzip.compress(raw))
        else:
            (place / name).write_bytes(raw)


def places(folder: Path) -> dict[str, tuple[Path, bool]]:
    """Where files may lie, the preferred place first: folder, zipped."""
    return {
        "plain": (folder, False),
        "gz": (folder, True),
        "torchvision": (folder / "FashionMNIST" / "raw", False),
        "torchvision gz": (folder / "FashionMNIST" / "raw", True),
        "debian gz": (data.DEBIAN_FOLDER, True),
    }


PLACES = list(places(Path()))


def assert_loads(folder: Path) -> None:
    for load, prefix in ((data.load_train, "train"), (data.load_test, "t10k")):
        split = load(folder)
        assert split.images.dtype == torch.uint8
        assert split.labels.dtype == torch.int64
        assert split.images.shape == (len(split), 28, 28)
        assert split.images.numpy().tobytes() == RAW[f"{prefix}-images-idx3-ubyte"][16:]
        assert bytes(split.labels.tolist()) == RAW[f"{prefix}-labels-idx1-ubyte"][8:]


def assert_one_sentence(error: pytest.ExceptionInfo, *parts: object) -> None:
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("layout", PLACES)
def test_reads_every_layout(folder, layout):
    place, zipped = places(folder)[layout]
    write(place, zipped=zipped)
    assert_loads(folder)


@pytest.mark.parametrize(("preferred", "other"), list(pairwise(PLACES)))
def test_the_preferred_place_wins(folder, preferred, other):
    """Both hold all files, the preferred one the right ones."""
    for layout, content in ((other, dict.fromkeys(RAW, b"wrong")), (preferred, RAW)):
        place, zipped = places(folder)[layout]
        write(place, content, zipped)
    assert_loads(folder)


def test_places_complete_each_other(folder):
    write(folder, {name: RAW[name] for name in NAMES[:1]})
    write(data.DEBIAN_FOLDER, {name: RAW[name] for name in NAMES[1:]}, zipped=True)
    assert_loads(folder)


def test_data_dir_comes_before_the_environment(monkeypatch):
    monkeypatch.delenv(data.ENVIRONMENT_VARIABLE, raising=False)
    assert data.folder_of() == Path("data")
    monkeypatch.setenv("LENET_STUDY_DATA", "/elsewhere")
    assert data.folder_of() == Path("/elsewhere")
    assert data.folder_of("here") == Path("here")
    monkeypatch.setenv("LENET_STUDY_DATA", "")
    assert data.folder_of() == Path("data")


def test_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert data.folder_of("~/images") == Path("/home/someone/images")


def one_wrong_byte(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    "damaged",
    [
        pytest.param(one_wrong_byte, id="one wrong byte"),
        pytest.param(truncated, id="truncated"),
        pytest.param(lambda content: b"", id="empty"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_damaged_file_is_refused(folder, name, damaged):
    write(folder)
    (folder / name).write_bytes(damaged(RAW[name]))
    load = data.load_train if name.startswith("train") else data.load_test
    with pytest.raises(UserError) as error:
        load(folder)
    assert_one_sentence(error, folder / name, "wrong SHA-256", "delete it")


@pytest.mark.parametrize(
    "archive",
    [
        pytest.param(gzip.compress(one_wrong_byte(RAW[NAMES[0]])), id="one wrong byte inside"),
        pytest.param(one_wrong_byte(gzip.compress(RAW[NAMES[0]])), id="one wrong byte"),
        pytest.param(truncated(gzip.compress(RAW[NAMES[0]])), id="truncated"),
        pytest.param(gzip.compress(RAW[NAMES[0]])[:10] + b"\xff" * 50, id="wrong deflate stream"),
        pytest.param(b"<html>404</html>", id="not gzip"),
        pytest.param(b"", id="empty"),
    ],
)
def test_damaged_gz_is_refused(folder, archive):
    write(folder, zipped=True)
    path = folder / f"{NAMES[0]}.gz"
    path.write_bytes(archive)
    with pytest.raises(UserError) as error:
        data.load_train(folder)
    assert_one_sentence(error, path, "delete it")


def test_verify_checks_all_four_files(folder):
    write(folder)
    assert data.verify(folder) == str(folder)
    for name in NAMES:
        (folder / name).write_bytes(one_wrong_byte(RAW[name]))
        with pytest.raises(UserError, match=name):
            data.verify(folder)
        (folder / name).write_bytes(RAW[name])


def test_missing_files_are_named_with_the_cures(folder):
    with pytest.raises(UserError) as error:
        data.load_train(folder)
    assert_one_sentence(error, folder, *NAMES, "torchvision: no network", "apt-get: no network")
    assert_one_sentence(error, "data_dir", "LENET_STUDY_DATA", "apt-get install dataset-fashion")
    assert not files_in(folder)


def test_only_missing_files_are_named(folder):
    write(folder, {name: RAW[name] for name in NAMES[1:]})
    with pytest.raises(UserError) as error:
        data.load_train(folder)
    assert NAMES[0] in str(error.value)
    assert not any(name in str(error.value) for name in NAMES[1:])


def test_folder_that_cannot_be_made(folder):
    folder.write_text("a file")
    with pytest.raises(UserError) as error:
        data.load_train(folder)
    assert_one_sentence(error, folder, "data_dir", "nothing can be written there")


def test_files_at_hand_are_not_fetched(folder, monkeypatch):
    fetched = []
    monkeypatch.setattr(data, "_fetch_torchvision", fetched.append)
    monkeypatch.setattr(data, "_fetch_debian", fetched.append)
    write(data.DEBIAN_FOLDER, zipped=True)
    data.load_train(folder)
    assert not fetched
    assert not folder.exists()


def test_torchvision_is_asked_first(folder, monkeypatch):
    monkeypatch.setattr(data, "_fetch_torchvision", write)
    monkeypatch.setattr(data, "_fetch_debian", lambda folder: pytest.fail("asked for nothing"))
    assert "torchvision" in data.ensure(folder)
    assert_loads(folder)


@pytest.mark.parametrize(
    "failure",
    [
        URLError("unreachable"),
        RuntimeError("Error downloading"),
        TimeoutError("timed out"),
        subprocess.TimeoutExpired("apt-get", 300),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_a_failing_source_falls_through_to_the_next(folder, monkeypatch, failure):
    def fail(folder):
        raise failure

    monkeypatch.setattr(data, "_fetch_torchvision", fail)
    monkeypatch.setattr(data, "_fetch_debian", write)
    assert "apt-get" in data.ensure(folder)
    assert_loads(folder)


def torchvision_that(write_files):
    """A torchvision whose FashionMNIST calls ``write_files`` with its raw folder."""

    def fashion_mnist(root, download):
        print("a progress bar")
        write_files(Path(root, "FashionMNIST", "raw"))

    return lambda: SimpleNamespace(datasets=SimpleNamespace(FashionMNIST=fashion_mnist))


def test_torchvision_downloads_quietly(folder, monkeypatch, capsys):
    def download(raw):
        assert socket.getdefaulttimeout() == data.DOWNLOAD_TIMEOUT
        write(raw)

    before = socket.getdefaulttimeout()
    monkeypatch.setattr(data, "_fetch_torchvision", FETCH_TORCHVISION)
    monkeypatch.setattr(data, "import_torchvision", torchvision_that(download))
    assert_loads(folder)
    assert "progress bar" not in capsys.readouterr().out
    assert socket.getdefaulttimeout() == before


def test_the_next_run_cures_an_interrupted_download(folder, monkeypatch):
    def lose_connection(raw):
        write(raw, {name: RAW[name] for name in NAMES[:3]})
        (raw / f"{NAMES[3]}.gz").write_bytes(truncated(gzip.compress(RAW[NAMES[3]])))
        raise URLError("connection lost")

    monkeypatch.setattr(data, "_fetch_torchvision", FETCH_TORCHVISION)
    monkeypatch.setattr(data, "import_torchvision", torchvision_that(lose_connection))
    with pytest.raises(UserError, match="connection lost"):
        data.load_train(folder)
    monkeypatch.setattr(data, "import_torchvision", torchvision_that(write))
    assert_loads(folder)


@pytest.fixture
def debian(folder, tmp_path, monkeypatch):
    """An apt-get that knows the package only after an update, and a dpkg-deb that unpacks it."""
    package = tmp_path / "package"
    write(package, zipped=True)
    programs = {
        "apt-get": f"""
            case "$*" in
                *update*) touch {tmp_path}/updated;;
                *download\\ dataset-fashion-mnist)
                    test -e {tmp_path}/updated && touch dataset-fashion-mnist_1_all.deb && exit
                    echo "W: something" >&2; echo "E: Unable to locate package" >&2; exit 100;;
            esac
        """,
        "dpkg-deb": f"""
            mkdir -p "$3{data.DEBIAN_FOLDER}" && cp {package}/* "$3{data.DEBIAN_FOLDER}"
        """,
    }
    for name, script in programs.items():
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setattr(data, "_fetch_debian", FETCH_DEBIAN)
    return tmp_path / "bin"


def test_a_full_disk_is_named_and_nothing_is_left_there(folder, debian, monkeypatch):
    write_bytes = Path.write_bytes

    def fill(path, content):
        write_bytes(path, content[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(StoreError) as error:
        data.load_train(folder)
    assert_one_sentence(error, folder, "is full: make room", "data_dir")
    assert not files_in(folder)


def test_debian_package_is_unpacked(folder, debian):
    assert "apt-get" in data.ensure(folder)
    assert sorted(path.name for path in files_in(folder)) == sorted(NAMES)
    assert_loads(folder)


def test_apt_gets_last_line_is_the_reason(folder, debian):
    (debian / "apt-get").write_text("#!/bin/sh\necho W: w >&2; echo E: no package >&2; exit 100")
    with pytest.raises(UserError) as error:
        data.ensure(folder)
    assert_one_sentence(error, "apt-get: E: no package)")
    assert not files_in(folder)


LABELS = torch.arange(10).repeat_interleave(torch.arange(10, 110, 10))  # class 0: 10, … 9: 100


def class_counts(rows):
    return torch.bincount(LABELS[rows], minlength=10)


def assert_partition(train, validation):
    assert sorted([*train, *validation]) == list(range(len(LABELS)))


def test_split_is_stratified_80_to_20():
    train, validation = data.split(LABELS, seed=0)
    assert_partition(train, validation)
    assert torch.equal(class_counts(validation), torch.arange(2, 22, 2))
    assert torch.equal(class_counts(train), torch.arange(8, 88, 8))


def test_split_depends_on_the_seed_alone():
    np.random.seed(1)
    once = data.split(LABELS, seed=0)
    np.random.seed(2)
    again, other = data.split(LABELS, seed=0), data.split(LABELS, seed=1)
    assert np.array_equal(once[0], again[0])
    assert np.array_equal(once[1], again[1])
    assert set(once[1]) != set(other[1])


def test_folds_are_stratified():
    folds = data.folds(LABELS, 5, seed=0)
    assert len(folds) == 5
    for train, validation in folds:
        assert_partition(train, validation)
        assert torch.equal(class_counts(validation), torch.arange(2, 22, 2))
    assert_partition([], np.concatenate([validation for _, validation in folds]))


def test_folds_depend_on_the_seed_alone():
    def validations(seed):
        return [set(validation) for _, validation in data.folds(LABELS, 5, seed)]

    assert validations(0) == validations(0)
    assert validations(0) != validations(1)


def test_as_many_folds_as_the_rarest_class_has_images():
    assert len(data.folds(LABELS, 10, seed=0)) == 10


@pytest.mark.parametrize("count", [11, 1, 0, -1])
def test_impossible_folds_are_refused(count):
    with pytest.raises(UserError) as error:
        data.folds(LABELS, count, seed=0)
    assert_one_sentence(error, f"folds={count}", "between 2 and 10")


@pytest.fixture
def small() -> data.Split:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (6, 28, 28), generator=generator, dtype=torch.uint8)
    return data.Split(images, torch.tensor([3, 1, 4, 1, 5, 9]))


def test_subset_keeps_the_rows_order(small):
    subset = small.subset(np.array([4, 0]))
    assert len(subset) == 2
    assert subset.labels.tolist() == [5, 3]
    assert torch.equal(subset.images, torch.stack([small.images[4], small.images[0]]))


def test_digest_is_sha256_of_images_then_labels(small):
    expected = hashlib.sha256(small.images.numpy().tobytes() + small.labels.numpy().tobytes())
    assert small.digest() == expected.hexdigest()


def test_digest_sees_one_pixel_one_label_and_the_order(small):
    pixel, label = small.images.clone(), small.labels.clone()
    pixel[5, 27, 27] ^= 1
    label[5] = 8
    others = [
        data.Split(pixel, small.labels),
        data.Split(small.images, label),
        small.subset(np.array([1, 0, 2, 3, 4, 5])),
    ]
    assert len({small.digest(), *(other.digest() for other in others)}) == 4


def test_digest_ignores_the_memory_layout(small):
    transposed = small.images.transpose(1, 2).contiguous().transpose(1, 2)
    assert not transposed.is_contiguous()
    assert data.Split(transposed, small.labels).digest() == small.digest()


def test_normalisation_is_numpys_mean_and_deviation(small):
    scaled = small.images.numpy().astype(np.float64) / 255
    normalisation = data.Normalisation.of(small.images)
    assert normalisation.mean == pytest.approx(scaled.mean(), rel=1e-12)
    assert normalisation.std == pytest.approx(scaled.std(), rel=1e-12)


def test_normalised_images(small):
    before = small.images.clone()
    result = data.Normalisation(mean=0.25, std=0.5)(small.images)
    expected = (before.numpy()[:, None].astype(np.float64) / 255 - 0.25) / 0.5
    assert result.dtype == torch.float32
    assert result.shape == (6, 1, 28, 28)
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-6)
    assert torch.equal(small.images, before)


@pytest.fixture(scope="module")
def real() -> data.Split:
    return data.load_train(data.folder_of())


@pytest.mark.realdata
def test_real_training_images(real):
    assert real.images.shape == (60_000, 28, 28)
    assert torch.bincount(real.labels).tolist() == [6_000] * 10
    normalisation = data.Normalisation.of(real.images)
    assert round(normalisation.mean, 4) == 0.2860
    assert round(normalisation.std, 4) == 0.3530


@pytest.mark.realdata
def test_real_test_images():
    test = data.load_test(data.folder_of())
    assert test.images.shape == (10_000, 28, 28)
    assert torch.bincount(test.labels).tolist() == [1_000] * 10


@pytest.mark.realdata
def test_real_split(real):
    train, validation = data.split(real.labels, seed=0)
    assert torch.bincount(real.labels[train]).tolist() == [4_800] * 10
    assert torch.bincount(real.labels[validation]).tolist() == [1_200] * 10
