"""One epoch of training and validation, done in several ways; each logs to a SQLite store of its own.

``python -m bench.contenders KIND VARIANT IMAGES THREADS FOLDER`` trains an epoch for every line on standard
input and answers with its seconds.
"""

from __future__ import annotations

import logging
import sys
import time
from functools import partial
from pathlib import Path

import mlflow
import torch
from PIL import Image
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from bench.memory import keep_freed_memory
from bench.subject import BATCH, images_of, order_as_published
from bench.torchvision_import import import_torchvision
from lenet_study.recipes.recipe import TrainingConfig, variant_recipes
from lenet_study.tracking.schema import Metric
from lenet_study.training import loop
from lenet_study.training.dataset import Normalisation, Split
from lenet_study.training.hardware import Hardware, cores
from lenet_study.training.model import LeNet
from lenet_study.training.optimizer_step import make_optimizer, make_step

logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
logging.getLogger("alembic").setLevel(logging.WARNING)


class Contender:
    """Trains one model; ``epoch`` may be called as often as wanted.

    Args:
        variant: Which model.
        images: How many to train on; a quarter as many validate.
        threads: Processor threads; 0: all cores.
        folder: For its store.
    """

    def __init__(self, variant: str, images: int, threads: int, folder: Path) -> None:
        torch.set_num_threads(threads or cores())
        self.recipe = variant_recipes(TrainingConfig(epochs=1))[variant]
        self.model = LeNet(self.recipe.variant, seed=0)
        self.train, self.validation = images_of(images)
        self.normalisation = Normalisation.of(self.train.images)
        self.store = f"sqlite:///{folder}/mlflow.db"
        self.client = mlflow.MlflowClient(self.store)
        self.run_id = self.client.create_run("0").info.run_id
        self.epochs = 0

    def epoch(self) -> float:
        """Train an epoch and return its seconds."""
        start = time.perf_counter()
        self.run()
        return time.perf_counter() - start

    def run(self) -> None:
        """Train an epoch."""
        raise NotImplementedError

    def log(self, train_loss: float, train_accuracy: float, val_loss: float, val_accuracy: float) -> None:
        """Log one epoch's metrics at once."""
        self.epochs += 1
        now = int(time.time() * 1000)
        metrics = {
            Metric.TRAIN_LOSS: train_loss,
            Metric.TRAIN_ACCURACY: train_accuracy,
            Metric.VAL_LOSS: val_loss,
            Metric.VAL_ACCURACY: val_accuracy,
        }
        logged = [
            mlflow.entities.Metric(str(name), value, now, self.epochs) for name, value in metrics.items()
        ]
        self.client.log_batch(self.run_id, metrics=logged)


class Ours(Contender):
    """This project's training."""

    def __init__(self, variant: str, images: int, threads: int, folder: Path) -> None:
        super().__init__(variant, images, threads, folder)
        self.device = Hardware(device="cpu", threads=threads).prepare()

    def run(self) -> None:
        best = loop.fit(self.model, self.train, self.validation, self.recipe, device=self.device).best
        assert best.val_loss is not None
        assert best.val_accuracy is not None
        self.log(best.train_loss, best.train_accuracy, best.val_loss, best.val_accuracy)


class Limit(Contender):
    """The compute limit: the same steps over tensors that are ready, and nothing else."""

    def __init__(self, variant: str, images: int, threads: int, folder: Path) -> None:
        keep_freed_memory()
        super().__init__(variant, images, threads, folder)
        Hardware(device="cpu", threads=threads).prepare()
        self.batches = list(loop.training_batches(self.train, self.normalisation, self.recipe, 1))
        self.model.to(memory_format=torch.channels_last)
        optimizer = make_optimizer(self.model, "adam", self.recipe.config.learning_rate, weight_decay=0.0)
        loss_fn = partial(loop.training_loss, self.model, self.recipe)
        self.step = make_step(loss_fn, self.model, optimizer)

    def run(self) -> None:
        self.model.train()
        for images, labels in self.batches:
            self.step(images, labels)


class PILImages(Dataset[tuple[torch.Tensor, int]]):
    """Images as torchvision's FashionMNIST gives them: PIL images through the report's transforms."""

    def __init__(self, split: Split, normalisation: Normalisation) -> None:
        import_torchvision()
        from torchvision import transforms

        self.images = split.images
        self.labels = split.labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomHorizontalFlip(0.25),
                transforms.ColorJitter(brightness=0.2, contrast=0.2),
                transforms.RandomAutocontrast(0.2),
                transforms.RandomSolarize(15, 0.2),
                transforms.ToTensor(),
                transforms.Normalize(normalisation.mean, normalisation.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[row].numpy())), self.labels[row]


class Report(Contender):
    """The report's pipeline, as a user would write it."""

    def __init__(self, variant: str, images: int, threads: int, folder: Path) -> None:
        super().__init__(variant, images, threads, folder)
        order_as_published(self.model)
        self.loaders = [
            DataLoader(PILImages(split, self.normalisation), batch_size=BATCH, shuffle=shuffle)
            for split, shuffle in ((self.train, True), (self.validation, False))
        ]
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=self.recipe.config.learning_rate)

    def run(self) -> None:
        trained = self.over(self.loaders[0], learn=True)
        self.log(*trained, *self.over(self.loaders[1], learn=False))

    def over(self, loader: DataLoader[tuple[torch.Tensor, int]], *, learn: bool) -> tuple[float, float]:
        """Return the mean loss of the batches, and the accuracy."""
        self.model.train(learn)
        total, correct, seen = 0.0, 0, 0
        with torch.set_grad_enabled(learn):
            for images, labels in loader:
                logits, _, _ = self.model.heads(images)  # it computes them, though no loss reaches them
                loss = cross_entropy(logits, labels)
                if learn:
                    self.optimizer.zero_grad()
                    loss.backward()
                    self.optimizer.step()
                total += loss.item()
                correct += (logits.argmax(1) == labels).sum().item()
                seen += len(labels)
        return total / len(loader), correct / seen


KINDS: dict[str, type[Contender]] = {"ours": Ours, "report": Report, "limit": Limit}


def main(kind: str, variant: str, images: str, threads: str, folder: str) -> None:
    """Train an epoch for every line on standard input and answer with its seconds."""
    contender = KINDS[kind](variant, int(images), int(threads), Path(folder))
    for _ in sys.stdin:
        print(contender.epoch(), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
