"""PyTorch Lightning with its MLFlowLogger and two loader workers, in a process of its own.

Takes the arguments of ``bench.contenders`` and answers as that does; its own start is not timed.
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from bench.contenders import Contender, PILImages
from bench.subject import BATCH, order_as_published
from bench.torchvision_import import import_torchvision

import_torchvision()
import lightning  # noqa: E402
from lightning.pytorch.loggers import MLFlowLogger  # noqa: E402

LOADER_WORKERS = 2


class Module(lightning.LightningModule):
    """One model and its step."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def step(self, batch: tuple[torch.Tensor, torch.Tensor], stage: str) -> torch.Tensor:
        """Return the loss of a batch; loss and accuracy are logged once an epoch."""
        images, labels = batch
        logits, _, _ = self.model.heads(images)
        loss = cross_entropy(logits, labels)
        accuracy = (logits.argmax(1) == labels).float().mean()
        self.log_dict({f"{stage}/loss": loss, f"{stage}/accuracy": accuracy}, on_step=False, on_epoch=True)
        return loss

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], index: int) -> torch.Tensor:
        return self.step(batch, "train")

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], index: int) -> None:
        self.step(batch, "val")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.001)


class Timer(lightning.Callback):
    """Seconds between the first step's beginning and the end."""

    seconds = 0.0

    def on_train_start(self, *arguments: object) -> None:
        self.seconds = -time.perf_counter()

    def on_train_end(self, *arguments: object) -> None:
        self.seconds += time.perf_counter()


def main(kind: str, variant: str, images: str, threads: str, folder: str) -> None:
    """Answer every line."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    contender = Contender(variant, int(images), int(threads), Path(folder))
    module, timer = Module(order_as_published(contender.model)), Timer()
    train, validation = (
        DataLoader(
            PILImages(split, contender.normalisation),
            batch_size=BATCH,
            shuffle=shuffle,
            num_workers=LOADER_WORKERS,
            persistent_workers=True,
        )
        for split, shuffle in ((contender.train, True), (contender.validation, False))
    )
    for _ in sys.stdin:
        trainer = lightning.Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=MLFlowLogger(tracking_uri=contender.store, run_id=contender.run_id),
            callbacks=[timer],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(module, train, validation)
        print(timer.seconds, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
