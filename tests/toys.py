"""Toy images, and processes of the project that train on them."""

import hashlib
import multiprocessing
import os
import sys
from pathlib import Path

import psutil
import torch

from lenet_study.training.data_files import (
    ENVIRONMENT_VARIABLE,
    IMAGE_HEADER,
    LABEL_HEADER,
    SHA256,
    DataFiles,
)
from lenet_study.training.dataset import Split


def toy_split(count: int, seed: int, level: int = 160) -> Split:
    """Class k is a bright band at row 4 + 2k on dark noise: augmentation does not hide it."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 10
    images = torch.randint(0, 10, (count, 28, 28), generator=generator, dtype=torch.uint8)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[4 + 2 * label : 6 + 2 * label, 4:24] += level
    return Split(images, labels)


def write_data_files(folder: Path, train: Split, test: Split) -> DataFiles:
    """Images as files of Fashion-MNIST's format, with their sums and no other source."""
    folder.mkdir(parents=True, exist_ok=True)
    sums = {}
    for prefix, split in (("train", train), ("t10k", test)):
        content = {
            f"{prefix}-images-idx3-ubyte": bytes(IMAGE_HEADER) + split.images.numpy().tobytes(),
            f"{prefix}-labels-idx1-ubyte": bytes(LABEL_HEADER) + bytes(split.labels.tolist()),
        }
        for name, raw in content.items():
            (folder / name).write_bytes(raw)
            sums[name] = hashlib.sha256(raw).hexdigest()
    return DataFiles(folder, sums, debian_folder=folder / "debian", sources={})


def process_context():
    """What starts processes in which torch and MLflow are imported already, as those of jobs are."""
    from lenet_study.workflows.local_executor import PRELOADED

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context


def start_process(target, *arguments, folder=None, environment=None):
    """Start a function in a process with this one's environment and folder: the fork server's are older."""
    surroundings = folder or Path.cwd(), dict(environment or os.environ)
    process = process_context().Process(target=_call, args=(*surroundings, target, arguments))
    process.start()
    return process


def _call(folder, environment, target, arguments):
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    target(*arguments)


class Command:
    """The command line in a process of its own, which takes the toy images for Fashion-MNIST.

    Args:
        arguments: The command and its options.
        files: The toy images.
        log: File of what it writes to the terminal.
        folder: Where it works; None is this process's folder.
        environment: Its variables; None takes this process's.
    """

    def __init__(self, arguments, files, log, folder=None, environment=None):
        self.log = log
        log.touch()
        environment = {**(environment or os.environ), ENVIRONMENT_VARIABLE: str(files.folder)}
        self.process = start_process(
            run_command,
            [*arguments],
            dict(files.sha256),
            log,
            folder=folder,
            environment=environment,
        )
        self.pid = self.process.pid

    def workers(self):
        """The processes that train: children of the fork server, which is a child of the command."""
        try:
            servers = psutil.Process(self.pid).children()
        except psutil.NoSuchProcess:
            return []
        return [child for server in servers for child in server.children()]

    def poll(self):
        return self.process.exitcode

    def wait(self, timeout=None):
        self.process.join(timeout)
        return self.process.exitcode


def run_command(arguments, sums, log):
    from lenet_study.__main__ import main

    with log.open("a") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    SHA256.update(sums)
    sys.exit(main(arguments))
