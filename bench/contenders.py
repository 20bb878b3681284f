"""One epoch of training and validation, done in several ways; each logs to a SQLite store of its own."""

from __future__ import annotations

import logging
import subprocess
import time
from pathlib import Path

import mlflow
import torch
from PIL import Image
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from lenet_study.recipes.variants import VARIANTS
from lenet_study.training import loop as training
from lenet_study.training.dataset import Normalisation, Split
from lenet_study.training.loop import TrainingConfig
from lenet_study.training.model import LeNet
from lenet_study.training.torchvision_import import import_torchvision

logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
logging.getLogger("alembic").setLevel(logging.WARNING)
BATCH = 32
LIGHTNING_PYTHON = ".venv-bench/bin/python"
CPU = torch.device("cpu")


class Contender:
    """Trains one model; call ``epoch`` as often as you like.

    Args:
        variant: Which of the five.
        train: Images to train on.
        validation: Images to validate on.
        folder: For its store.
    """

    def __init__(self, variant: str, train: Split, validation: Split, folder: Path) -> None:
        self.spec = VARIANTS[variant]
        self.model = LeNet(self.spec, seed=0)
        self.train, self.validation = train, validation
        self.normalise = Normalisation.of(train.images)
        self.store = f"sqlite:///{folder}/{type(self).__name__}-{variant}.db"
        self.client = mlflow.MlflowClient(self.store)
        self.run_id = self.client.create_run("0").info.run_id
        self.epochs = 0

    def epoch(self) -> float:
        """Seconds of one epoch."""
        start = time.perf_counter()
        self.run()
        return time.perf_counter() - start

    def close(self) -> None:
        """Nothing to end."""

    def run(self) -> None:
        """The epoch itself."""
        raise NotImplementedError

    def log(self, metrics: dict[str, float]) -> None:
        """Log one epoch's metrics at once."""
        self.epochs += 1
        now = int(time.time() * 1000)
        logged = [mlflow.entities.Metric(name, value, now, self.epochs) for name, value in metrics.items()]
        self.client.log_batch(self.run_id, metrics=logged)


class Ours(Contender):
    """This project's training."""

    def run(self) -> None:
        config = TrainingConfig(epochs=1, seed=self.epochs)
        best = training.fit(self.model, self.train, self.validation, self.spec, config, device=CPU)
        assert best.val_loss is not None
        assert best.val_accuracy is not None
        self.log(
            {
                "train/loss": best.train_loss,
                "train/accuracy": best.train_accuracy,
                "val/loss": best.val_loss,
                "val/accuracy": best.val_accuracy,
            }
        )


class Limit(Contender):
    """The compute limit: the same steps over tensors that are ready, and nothing else."""

    def __init__(self, variant: str, train: Split, validation: Split, folder: Path) -> None:
        super().__init__(variant, train, validation, folder)
        self.config = TrainingConfig()
        self.batches = list(training.training_batches(train, self.normalise, self.config, 1))
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.001, fused=True)

    def run(self) -> None:
        self.model.train()
        for images, labels in self.batches:
            loss, _ = training.training_loss(self.model, self.config, images, labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()


def as_published(model: LeNet) -> LeNet:
    """The report's order of layers: max-pooling after ReLU."""
    for wave in (model.first_wave, model.second_wave):
        wave[-2], wave[-1] = wave[-1], wave[-2]
    return model


class PILImages(Dataset[tuple[torch.Tensor, int]]):
    """Images as torchvision's FashionMNIST gives them: PIL images through the report's transforms."""

    def __init__(self, split: Split, normalise: Normalisation) -> None:
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
                transforms.Normalize(normalise.mean, normalise.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[row].numpy())), self.labels[row]


class Report(Contender):
    """The report's pipeline, as a user would write it."""

    def __init__(self, variant: str, train: Split, validation: Split, folder: Path) -> None:
        super().__init__(variant, train, validation, folder)
        as_published(self.model)
        self.loaders = [
            DataLoader(PILImages(split, self.normalise), batch_size=BATCH, shuffle=shuffle)
            for split, shuffle in ((train, True), (validation, False))
        ]
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.001)

    def run(self) -> None:
        train_loss, train_accuracy = self.over(self.loaders[0], learn=True)
        val_loss, val_accuracy = self.over(self.loaders[1], learn=False)
        self.log(
            {
                "train/loss": train_loss,
                "train/accuracy": train_accuracy,
                "val/loss": val_loss,
                "val/accuracy": val_accuracy,
            }
        )

    def over(self, loader: DataLoader[tuple[torch.Tensor, int]], *, learn: bool) -> tuple[float, float]:
        """Mean loss of the batches, and accuracy."""
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


class Lightning:
    """What a user would pick today; in an environment of its own, because MLflow imports it where it can.

    Takes what the other contenders take.
    """

    def __init__(self, variant: str, train: Split, validation: Split, folder: Path) -> None:
        command = [LIGHTNING_PYTHON, "-m", "bench.lightning", variant, str(len(train)), str(folder)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def epoch(self) -> float:
        """Seconds of one epoch, without Lightning's own start."""
        assert self.process.stdin
        assert self.process.stdout
        print(file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()
