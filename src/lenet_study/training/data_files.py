"""Fashion-MNIST's four files: where they are looked for, how they are fetched and verified.

Standard library alone at import: the command line reads the declaration of ``data_dir``.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from lenet_study.errors import StoreError, UserError, one_line
from lenet_study.recipes.constraints import folder_problem

if TYPE_CHECKING:
    from lenet_study.training.dataset import Split

# SHA-256 of the uncompressed files: https://github.com/zalandoresearch/fashion-mnist
SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
ORIGIN = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"  # the authors'; sums make it safe
DEBIAN_PACKAGE = "dataset-fashion-mnist"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
ENVIRONMENT_VARIABLE = "LENET_STUDY_DATA"
DOWNLOAD_TIMEOUT = 30  # seconds without an answer
IMAGE_HEADER, LABEL_HEADER = 16, 8  # bytes before the content: https://yann.lecun.com/exdb/mnist
DataDir = Annotated[str, "Folder of the data; else the environment's LENET_STUDY_DATA, else ./data."]


def download(folder: Path, names: list[str], origin: str = ORIGIN, timeout: float = DOWNLOAD_TIMEOUT) -> None:
    """Download files, of which the origin has each as ``NAME.gz``, and unpack them into a folder."""
    import urllib.request  # noqa: PLC0415 -- 14 ms, a quarter of what help takes
    from http.client import HTTPException  # noqa: PLC0415

    for name in names:
        try:
            with urllib.request.urlopen(f"{origin}/{name}.gz", timeout=timeout) as answer:
                (folder / name).write_bytes(gzip.decompress(answer.read()))
        except HTTPException as error:  # such as a connection lost half-way, which is no OSError
            raise OSError(repr(error)) from error


def fetch_debian_package(folder: Path, names: list[str]) -> None:
    """Download Debian's package and unpack it into a folder; needs no root."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise OSError("not a Debian machine")
    with tempfile.TemporaryDirectory() as temporary:
        run = partial(subprocess.run, cwd=temporary, check=True, capture_output=True, text=True, timeout=300)
        try:
            run(("apt-get", "-qq", "download", DEBIAN_PACKAGE))
        except subprocess.CalledProcessError:  # this machine's package lists are missing or too old
            lists = Path(temporary, "lists")
            (lists / "partial").mkdir(parents=True)
            Path(temporary).chmod(0o755)  # apt fetches as its own user when it can
            folders = (f"-oDir::State::Lists={lists}", f"-oDir::Cache={temporary}")
            apt = ("apt-get", "-qq", *folders, "-oAPT::Sandbox::User=root")
            run((*apt, "update"))
            run((*apt, "download", DEBIAN_PACKAGE))
        (package,) = Path(temporary).glob("*.deb")
        run(("dpkg-deb", "-x", str(package), temporary))
        for name in names:
            archive = Path(temporary, *DEBIAN_FOLDER.parts[1:], f"{name}.gz")
            (folder / name).write_bytes(gzip.decompress(archive.read_bytes()))


Source = Callable[[Path, list[str]], None]  # puts files of these names into a folder
SOURCES: Mapping[str, Source] = {"a download": download, "apt-get": fetch_debian_package}


@dataclass(frozen=True)
class DataFiles:
    """The four files of a data set in Fashion-MNIST's format."""

    folder: Path  # where they are looked for first, and fetched to
    sha256: Mapping[str, str] = field(default_factory=lambda: SHA256)  # of each uncompressed file
    debian_folder: Path = DEBIAN_FOLDER
    sources: Mapping[str, Source] = field(default_factory=lambda: SOURCES)  # by what the user is told
    report: Callable[[str], None] = field(default=partial(print, flush=True), compare=False)  # of a fetch

    @classmethod
    def at(cls, data_dir: str = "") -> DataFiles:
        """Return Fashion-MNIST in ``data_dir``, else the environment's LENET_STUDY_DATA, else ``data``."""
        path = data_dir or os.environ.get(ENVIRONMENT_VARIABLE, "") or "data"
        name = "data_dir" if data_dir or not os.environ.get(ENVIRONMENT_VARIABLE) else ENVIRONMENT_VARIABLE
        try:
            folder = Path(path).expanduser()
        except RuntimeError as error:
            raise UserError(f"{name}={path} is in no known home folder: write it in full") from error
        if problem := folder_problem(str(folder)):
            raise UserError(f"{name}={path} is no folder ({problem}): name another")
        return cls(folder)

    def train(self) -> Split:
        """Read the 60,000 training images, verified; raise as ``verify``."""
        return self._load("train")

    def test(self) -> Split:
        """Read the 10,000 test images, verified; for evaluation alone; raise as ``verify``."""
        return self._load("t10k")

    def missing(self) -> list[str]:
        """Return the names of the files that are nowhere."""
        return [name for name in self.sha256 if self._path(name) is None]

    def ensure(self) -> str:
        """Fetch all files into the folder unless they are somewhere; return in words where they are."""
        if missing := self.missing():
            return self._fetch(", ".join(sorted(missing)))
        paths = (path for name in self.sha256 if (path := self._path(name)))
        return " and ".join(dict.fromkeys(str(path.parent) for path in paths))

    def verify(self) -> str:
        """Check the sums of all files, fetched first if need be; return in words where they are.

        Raises:
            UserError: The files can neither be found nor fetched, or are damaged.
            StoreError: The disk is full.
        """
        where = self.ensure()
        for name in self.sha256:
            self._read(name)
        return where

    def _load(self, prefix: str) -> Split:
        import numpy as np  # noqa: PLC0415 -- as torch: not needed to read the declaration
        import torch  # noqa: PLC0415

        from lenet_study.training.dataset import Split  # noqa: PLC0415

        self.ensure()
        images = np.frombuffer(self._read(f"{prefix}-images-idx3-ubyte"), np.uint8, offset=IMAGE_HEADER)
        labels = np.frombuffer(self._read(f"{prefix}-labels-idx1-ubyte"), np.uint8, offset=LABEL_HEADER)
        pixels = torch.from_numpy(images.reshape(-1, 28, 28).copy())
        return Split(pixels, torch.from_numpy(labels.astype(np.int64)))

    def _path(self, name: str) -> Path | None:
        """Return where a file is, plain or compressed; the preferred place if there are several."""
        torchvision_folder = self.folder / "FashionMNIST" / "raw"
        folders = (self.folder, torchvision_folder, self.debian_folder)
        paths = (folder / file for folder in folders for file in (name, f"{name}.gz"))
        # A broken link or a folder in a file's place counts, and is refused: none other is taken in silence.
        return next((path for path in paths if os.path.lexists(path)), None)

    def _fetch(self, missing: str) -> str:
        """Fetch all files from the first source that has them; return where they are, in words."""
        problem = f"Fashion-MNIST is missing ({missing} not in {self.folder})"
        option = f"with data_dir or {ENVIRONMENT_VARIABLE}"
        try:
            self.folder.mkdir(exist_ok=True)  # not its parents: the name is mistyped then
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            reason = f"nothing can be written there ({error.strerror})"
            raise UserError(f"{problem}, and {reason}: name another folder {option}") from error
        failures = []
        for source, fetch in self.sources.items():
            self.report(f"Fetching Fashion-MNIST (30 MB) into {self.folder} with {source}")
            try:
                self._fetch_from(fetch)
                return f"{self.folder} (fetched with {source})"
            except (OSError, EOFError, zlib.error, subprocess.SubprocessError) as error:
                if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                    cure = f"make room for Fashion-MNIST (100 MB), or name another folder {option}"
                    raise StoreError(f"The disk of {self.folder} is full: {cure}") from error
                failures.append(f"{source}: {_reason(error)}")
                self.report(f"Not fetched with {failures[-1]}")
        raise UserError(
            f"{problem} and could not be fetched ({'; '.join(failures)}): put the four files there, or name "
            f"their folder {option}, or `apt-get install {DEBIAN_PACKAGE}`"
        )

    def _fetch_from(self, source: Source) -> None:
        """Fetch all files from a source; what was cut off or tampered with never gets into the folder."""
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=".") as temporary:
            source(Path(temporary), list(self.sha256))
            for name, sha256 in self.sha256.items():
                if hashlib.sha256(Path(temporary, name).read_bytes()).hexdigest() != sha256:
                    raise OSError(f"{name} has a wrong SHA-256")
            for name in self.sha256:
                Path(temporary, name).replace(self.folder / name)

    def _read(self, name: str) -> bytes:
        path = self._path(name)
        assert path is not None, "ensure() has found every file"
        try:
            if not path.is_file():
                raise OSError("it is no file")
            content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            problem = "" if hashlib.sha256(content).hexdigest() == self.sha256[name] else "wrong SHA-256"
        except (OSError, EOFError, zlib.error) as error:
            problem = _reason(error)
        if problem:
            cure = "delete it and run the command again to fetch it anew"
            raise UserError(f"{path} is damaged or is not Fashion-MNIST's {name} ({problem}): {cure}")
        return content


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return ((error.stderr or "").strip().splitlines() or [str(error)])[-1]
    return one_line(error)
