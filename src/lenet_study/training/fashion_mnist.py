"""Fashion-MNIST as verified uint8 tensors: where the files come from, splits, folds and digests."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.model_selection import StratifiedKFold, train_test_split
from torch import Tensor

from lenet_study.errors import StoreError, UserError
from lenet_study.training.torchvision_import import import_torchvision

# SHA-256 of the uncompressed files: https://github.com/zalandoresearch/fashion-mnist
FILES = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
DEBIAN_PACKAGE = "dataset-fashion-mnist"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
ENVIRONMENT_VARIABLE = "LENET_STUDY_DATA"
VALIDATION_FRACTION = 0.2
DOWNLOAD_TIMEOUT = 30  # seconds without an answer


@dataclass(frozen=True)
class Split:
    """Images uint8 [N, 28, 28] with their classes int64 [N]."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, rows: np.ndarray) -> Split:
        """The images at the given rows, in that order."""
        index = torch.from_numpy(rows)
        return Split(self.images[index], self.labels[index])

    def to(self, device: torch.device) -> Split:
        """The same images in the memory of ``device``."""
        return Split(self.images.to(device), self.labels.to(device))

    def digest(self) -> str:
        """SHA-256 over the bytes of all images, then of all labels."""
        digest = hashlib.sha256(self.images.cpu().numpy().tobytes())
        digest.update(self.labels.cpu().numpy().tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of grey levels scaled to [0, 1]."""

    mean: float
    std: float

    @classmethod
    def of(cls, images: Tensor) -> Normalisation:
        """Over all pixels of uint8 images, from exact integer sums."""
        counts = torch.bincount(images.flatten(), minlength=256).tolist()
        total = sum(counts)
        mean = sum(level * count for level, count in enumerate(counts)) / total
        square = sum(level * level * count for level, count in enumerate(counts)) / total
        return cls(mean=mean / 255, std=(square - mean * mean) ** 0.5 / 255)

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 [N, 28, 28] to the model's input: float32 [N, 1, 28, 28]."""
        return images.unsqueeze(1).float().div_(255).sub_(self.mean).div_(self.std)


def folder_of(data_dir: str = "") -> Path:
    """The data folder: ``data_dir``, else the environment's LENET_STUDY_DATA, else ``data``."""
    return Path(data_dir or os.environ.get(ENVIRONMENT_VARIABLE, "") or "data").expanduser()


def load_train(folder: Path) -> Split:
    """The 60,000 training images, verified.

    Raises:
        UserError: The files can neither be found nor fetched, or are damaged.
    """
    return _load(folder, "train")


def load_test(folder: Path) -> Split:
    """The 10,000 test images, verified; for evaluation alone. Raises as ``load_train``."""
    return _load(folder, "t10k")


def split(labels: Tensor, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on (80 %) and rows to validate on (20 %): stratified by class, shuffled by seed."""
    train, validation = train_test_split(
        np.arange(len(labels)),
        test_size=VALIDATION_FRACTION,
        stratify=labels.numpy(),
        random_state=seed,
    )
    return train, validation


def folds(labels: Tensor, count: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each of ``count`` stratified folds: rows to train on, rows to validate on.

    Raises:
        UserError: A class has fewer images than there are folds.
    """
    rarest = int(torch.bincount(labels).min())
    if not 2 <= count <= rarest:
        raise UserError(
            f"folds={count} does not fit the {rarest} images of the rarest class: "
            f"choose folds between 2 and {rarest}"
        )
    splitter = StratifiedKFold(count, shuffle=True, random_state=seed)
    return list(splitter.split(np.zeros(len(labels)), labels.numpy()))


def ensure(folder: Path) -> str:
    """Make sure that all four files can be read; fetch them into ``folder`` if there is no other way.

    Returns:
        Where they are, in words.

    Raises:
        UserError: Every source failed.
    """
    for place in _places(folder):
        if all(_file(place, name) for name in FILES):
            return str(place)
    missing = [name for name in FILES if not _find(folder, name)]
    if not missing:
        return f"{folder} and {DEBIAN_FOLDER}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"Fashion-MNIST is missing ({', '.join(missing)} not in {folder}), and nothing can be written "
            f"there ({error.strerror}): name another folder with data_dir or {ENVIRONMENT_VARIABLE}"
        ) from error
    failures = []
    for source, fetch in (("torchvision", _fetch_torchvision), ("apt-get", _fetch_debian)):
        try:
            print(f"Fetching Fashion-MNIST (30 MB) into {folder} with {source}", flush=True)
            fetch(folder)
            return f"{folder} (fetched with {source})"
        except (OSError, RuntimeError, subprocess.SubprocessError) as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise StoreError(
                    f"The disk of {folder} is full: make room for Fashion-MNIST (100 MB), or name "
                    f"another folder with data_dir or {ENVIRONMENT_VARIABLE}"
                ) from error
            failures.append(f"{source}: {_one_line(error)}")
    raise UserError(
        f"Fashion-MNIST is missing ({', '.join(missing)} not in {folder}) and could not be fetched "
        f"({'; '.join(failures)}): put the four files there, or name their folder with data_dir or "
        f"{ENVIRONMENT_VARIABLE}, or `apt-get install {DEBIAN_PACKAGE}`"
    )


def verify(folder: Path) -> str:
    """Check all four files; fetch them first if need be. Returns and raises as ``ensure``."""
    place = ensure(folder)
    for name in FILES:
        _read(folder, name)
    return place


def _load(folder: Path, prefix: str) -> Split:
    ensure(folder)
    images = np.frombuffer(_read(folder, f"{prefix}-images-idx3-ubyte"), np.uint8, offset=16)
    labels = np.frombuffer(_read(folder, f"{prefix}-labels-idx1-ubyte"), np.uint8, offset=8)
    return Split(
        torch.from_numpy(images.reshape(-1, 28, 28).copy()),
        torch.from_numpy(labels.astype(np.int64)),
    )


def _places(folder: Path) -> tuple[Path, ...]:
    return folder, folder / "FashionMNIST" / "raw", DEBIAN_FOLDER


def _file(place: Path, name: str) -> Path | None:
    candidates = (place / name, place / f"{name}.gz")
    return next((path for path in candidates if path.is_file()), None)


def _find(folder: Path, name: str) -> Path | None:
    return next((path for place in _places(folder) if (path := _file(place, name))), None)


def _read(folder: Path, name: str) -> bytes:
    path = _find(folder, name)
    assert path is not None, "ensure() has found every file"
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        problem = "" if hashlib.sha256(content).hexdigest() == FILES[name] else "wrong SHA-256"
    except (OSError, EOFError, gzip.zlib.error) as error:  # type: ignore[attr-defined]
        problem = _one_line(error)
    if problem:
        raise UserError(
            f"{path} is damaged or is not Fashion-MNIST's {name} ({problem}): "
            "delete it and run the command again to fetch it anew"
        )
    return content


def _fetch_torchvision(folder: Path) -> None:
    datasets = import_torchvision().datasets
    with (
        tempfile.TemporaryDirectory(dir=folder, prefix=".") as temporary,
        _socket_timeout(DOWNLOAD_TIMEOUT),
        redirect_stdout(io.StringIO()),
    ):
        datasets.FashionMNIST(temporary, download=True)
        for name in FILES:  # moved whole: an interrupted download leaves nothing that looks like data
            Path(temporary, "FashionMNIST", "raw", name).replace(folder / name)


def _fetch_debian(folder: Path) -> None:
    """Download Debian's package and unpack it, with package lists of our own: no root needed."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise OSError("not a Debian machine")
    with (
        tempfile.TemporaryDirectory() as temporary,
        tempfile.TemporaryDirectory(dir=folder, prefix=".") as partial,
    ):
        lists = Path(temporary, "lists")
        (lists / "partial").mkdir(parents=True)
        Path(temporary).chmod(0o755)  # apt fetches as its own user when it can
        own_lists = (
            f"-oDir::State::Lists={lists}",
            f"-oDir::Cache={temporary}",
            "-oAPT::Sandbox::User=root",
        )
        for options in ((), own_lists):
            if options:
                _run("apt-get", "-qq", *options, "update", cwd=temporary)
            try:
                _run("apt-get", "-qq", *options, "download", DEBIAN_PACKAGE, cwd=temporary)
                break
            except subprocess.CalledProcessError:
                if options:
                    raise
        (package,) = Path(temporary).glob("*.deb")
        _run("dpkg-deb", "-x", str(package), temporary, cwd=temporary)
        for name in FILES:
            archive = Path(temporary, *DEBIAN_FOLDER.parts[1:], f"{name}.gz")
            Path(partial, name).write_bytes(gzip.decompress(archive.read_bytes()))
            Path(partial, name).replace(folder / name)


def _run(*command: str, cwd: str) -> None:
    subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True, timeout=300)


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _one_line(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return ((error.stderr or "").strip().splitlines() or [str(error)])[-1]
    return " ".join(str(error).split())
