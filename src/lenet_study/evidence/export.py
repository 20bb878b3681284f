"""Export of a model, with the proof that the files compute what was validated."""

from __future__ import annotations

import copy
import hashlib
import json
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lenet_study.errors import UserError
from lenet_study.training.dataset import Normalisation
from lenet_study.training.model import SIDE, LeNet

PARITY_TOLERANCE = 1e-4  # largest difference of two logits that rounding alone explains
MAX_BYTES = 2**30  # of a TorchScript file, also unpacked; the study's largest has 2 MB
PICKLE = b"\x80\x02"  # begins what torch.save wrote before version 1.6
_CURE = "name one that `train` exported or torch.jit.save wrote"
_NO_TORCHSCRIPT = f"is not a TorchScript file: {_CURE}"
_A_PICKLE = (
    "is a pickle of torch.save, which could run anything when it is read: name one that `train` exported, or "
    "save torch.jit.script(model) with torch.jit.save"
)
_ORIGINAL = "bring the original back, or train the model again"
_EXPORTED = ("model", "features", "auxiliary", "description")  # together only in files of this project
DEPRECATION = r"`torch\.jit\.\w+` is deprecated.*"  # TorchScript is what the study publishes


class ExportedLeNet(nn.Module):
    """A model that describes itself and normalises its input: float32 images [N, 1, 28, 28] in [0, 1]."""

    def __init__(self, model: LeNet, normalisation: Normalisation, description: dict[str, object]) -> None:
        super().__init__()
        self.model = model
        self.mean, self.std = normalisation.mean, normalisation.std
        self.description = json.dumps(description)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [N, 10]."""
        return self.model((images - self.mean) / self.std)

    @torch.jit.export
    def features(self, images: Tensor) -> Tensor:
        """Return the penultimate layer's output [N, hidden units]."""
        return self.model.features((images - self.mean) / self.std)

    @torch.jit.export
    def auxiliary(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [N, 10] of both auxiliary heads."""
        return self.model.auxiliary((images - self.mean) / self.std)


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Comparison of an exported file with the eager model on the same images."""

    max_abs_difference: float  # over all logits
    class_agreement: float  # fraction of images with the same predicted class
    images: int

    @property
    def passed(self) -> bool:
        """Whether all classes are the same and the logits equal but for rounding."""
        return self.class_agreement == 1 and self.max_abs_difference <= PARITY_TOLERANCE


def exportable(model: LeNet, normalisation: Normalisation, description: dict[str, object]) -> ExportedLeNet:
    """Return a copy of ``model`` on the CPU, ready to be exported."""
    trained = copy.deepcopy(model).cpu()
    trained.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return ExportedLeNet(trained, normalisation, description).eval()


def save_torchscript(exported: ExportedLeNet, path: Path) -> None:
    """Write the TorchScript file."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=DEPRECATION)
        torch.jit.save(torch.jit.script(exported), str(path))


def save_program(exported: ExportedLeNet, path: Path) -> None:
    """Write the ``torch.export`` twin: the logits alone, for any number of images."""
    example = torch.zeros(2, 1, SIDE, SIDE)
    batch = {0: torch.export.Dim("batch", min=1)}
    program = torch.export.export(exported, (example,), dynamic_shapes={"images": batch})
    torch.export.save(program, str(path))


def load_torchscript(path: Path) -> torch.jit.ScriptModule:
    """Read an exported file back; raise as ``read_torchscript`` and ``require_exported`` do."""
    loaded = read_torchscript(path)
    require_exported(loaded, path)
    return loaded


def read_torchscript(path: Path) -> torch.jit.ScriptModule:
    """Read any TorchScript file.

    torch reads the archive's pickles in C++, by a reader that knows TorchScript's types alone. Python's
    ``pickle``, which runs what a file names, is never asked.

    Raises:
        UserError: It is a pickle, damaged, too large, or something else; the message tells the cure.
    """
    if problem := _archive_problem(path):
        raise UserError(f"{path} {problem}")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=DEPRECATION)
            return torch.jit.load(str(path), map_location="cpu").eval()
    except (RuntimeError, OSError, ValueError) as error:
        raise UserError(f"{path} {_NO_TORCHSCRIPT}") from error


def is_exported(loaded: torch.jit.ScriptModule) -> bool:
    """Whether a TorchScript file is one of this project's."""
    try:
        described = all(hasattr(loaded, name) for name in _EXPORTED)
        return described and isinstance(json.loads(loaded.description), dict)
    except (TypeError, ValueError):  # a description that is no JSON
        return False


def require_exported(loaded: torch.jit.ScriptModule, path: Path) -> None:
    """Refuse a TorchScript file of another project."""
    if not is_exported(loaded):
        missing = [name for name in _EXPORTED if not hasattr(loaded, name)] or ["a description in JSON"]
        raise UserError(f"{path} lacks {', '.join(missing)}: name a TorchScript file that `train` exported")


def _archive_problem(path: Path) -> str:
    """Return why a file is no whole archive of TorchScript, and the cure; empty if it may be one."""
    try:
        if path.stat().st_size > MAX_BYTES:
            return f"has more than {MAX_BYTES:,} bytes: {_CURE}"
        with path.open("rb") as file:
            start = file.read(2)
        if not zipfile.is_zipfile(path):
            kinds = {b"PK": f"was cut short: {_ORIGINAL}", PICKLE: _A_PICKLE}
            return kinds.get(start, _NO_TORCHSCRIPT)
    except OSError:
        return _NO_TORCHSCRIPT
    return _content_problem(path)


def _content_problem(archive: Path) -> str:
    """Return what is wrong with a zip archive's members; torch itself looks at none of their sums."""
    try:
        with zipfile.ZipFile(archive) as content:
            names = content.namelist()
            if sum(member.file_size for member in content.infolist()) > MAX_BYTES:
                return f"unpacks to more than {MAX_BYTES:,} bytes: {_CURE}"
            damaged = content.testzip() is not None
    except Exception:  # of many kinds: whatever the damaged bytes make of the format
        damaged, names = True, []
    if damaged:
        return f"is damaged (a checksum within it does not hold): {_ORIGINAL}"
    of_torch = any(name.endswith("/data.pkl") for name in names)
    return _A_PICKLE if of_torch and not any(name.endswith("/constants.pkl") for name in names) else ""


def load_program(path: Path) -> nn.Module:
    """Read a ``torch.export`` file back as a callable module."""
    return torch.export.load(str(path)).module()


def description_of(loaded: torch.jit.ScriptModule) -> dict[str, object]:
    """Return the description that ``exportable`` put into the file."""
    return dict(json.loads(loaded.description))


@torch.no_grad()
def parity(model: LeNet, normalisation: Normalisation, exported: nn.Module, images: Tensor) -> Parity:
    """Compare a model, set to evaluation mode, with its export on uint8 images [N, 28, 28]."""
    device = next(model.parameters()).device
    expected = model.eval()(normalisation(images.to(device))).cpu()
    actual = exported(as_input(images))
    return Parity(
        max_abs_difference=(expected - actual).abs().max().item(),
        class_agreement=(expected.argmax(1) == actual.argmax(1)).float().mean().item(),
        images=len(images),
    )


def as_input(images: Tensor) -> Tensor:
    """Turn uint8 images [N, 28, 28] into an exported model's input: float32 [N, 1, 28, 28] in [0, 1]."""
    return images.unsqueeze(1).float().div_(255)


def weights_digest(module: nn.Module) -> str:
    """Return the SHA-256 sum over names and bytes of all parameters and buffers, ordered by name."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def folder_digest(folder: Path) -> str:
    """Return the SHA-256 sum over names and sums of all files in a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{file_digest(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 sum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
