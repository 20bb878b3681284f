"""Results of studies made of thin air: plausible numbers for what only reads results."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from lenet_study.evidence.report.shown_claims import VERDICTS
from lenet_study.evidence.results import StudyResults
from lenet_study.recipes.variants import VARIANTS, parameter_count
from lenet_study.training.model import CLASSES

ACCURACY = {"baseline": 0.897, "v1": 0.903, "v2": 0.917, "v3": 0.918, "v4": 0.926}  # of validation
SIMILAR = {0: (6, 2, 3), 2: (4, 6), 3: (0, 4), 4: (2, 6), 5: (7, 9), 6: (0, 2, 4), 7: (9, 5), 9: (7, 5)}
DIFFICULTY = np.array([1.8, 0.15, 1.4, 0.9, 1.5, 0.25, 2.9, 0.4, 0.2, 0.5])  # of classes, relative
TRAINING_COLUMNS = ["stage", "variant", "seed", "fold", "best_epoch", "train_accuracy", "train_loss"]
TRAINING_COLUMNS += ["val_accuracy", "val_loss", "val_accuracy_augmented", "val_loss_augmented"]
TRAINING_COLUMNS += ["parameter_count"]
EVALUATION_COLUMNS = ["model_run_id", "test_accuracy", "test_loss"]
EVALUATION_COLUMNS += ["auxiliary_first", "auxiliary_second", "auxiliary_agreement"]


@dataclass(frozen=True)
class Claim:
    """A judged claim, written by hand."""

    id: str
    title: str
    quotation: str
    published: str
    ours: str
    low: float
    high: float
    published_value: float
    verdict: str
    sentence: str
    value: float = float("nan")
    run_ids: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    over: str = "seeds"


def run_id(*words: object) -> str:
    """A run's id, the same for the same words."""
    import hashlib

    return hashlib.sha256(repr(words).encode()).hexdigest()[:32]


def study_results(seeds=10, images=10_000, folds=5, epochs=15, labels=None) -> StudyResults:
    """A study of all variants with repeats; ``labels`` are the classes of the test images."""
    random = np.random.default_rng(0)
    labels = np.arange(images) % 10 if labels is None else np.asarray(labels)
    rows, histories, evaluations, predictions = {}, {}, {}, {}

    def train(stage, variant, seed, fold=0):
        identity = run_id(stage, variant, seed, fold)
        history = _history(random, ACCURACY[variant], epochs, validated=stage != "retrain")
        best = history.loc[history["val_accuracy"].idxmax() if stage != "retrain" else epochs - 1]
        rows[identity] = {
            "stage": stage,
            "variant": variant,
            "seed": seed,
            "fold": fold,
            "best_epoch": int(best["epoch"]),
            "train_accuracy": best["train_accuracy"],
            "train_loss": best["train_loss"],
            "val_accuracy": best["val_accuracy"],
            "val_loss": best["val_loss"],
            "val_loss_augmented": best["val_loss"] + 0.01 if stage == "train" else np.nan,
            "val_accuracy_augmented": best["val_accuracy"] - 0.003 if stage == "train" else np.nan,
            "parameter_count": parameter_count(VARIANTS[variant]),
        }
        histories[identity] = history
        return identity

    def evaluate(model, accuracy):
        identity = run_id("evaluate", model)
        table = _predictions(random, labels, difficulty, accuracy)
        predictions[model] = table
        evaluations[identity] = {
            "model_run_id": model,
            "test_accuracy": (table["true"] == table["predicted"]).mean(),
            "test_loss": -np.log(table["true_probability"]).mean(),
            "auxiliary_first": (table["true"] == table["auxiliary_first"]).mean(),
            "auxiliary_second": (table["true"] == table["auxiliary_second"]).mean(),
            "auxiliary_agreement": (table["auxiliary_first"] == table["auxiliary_second"]).mean(),
        }

    difficulty = random.gamma(0.25, 1, len(labels)) * DIFFICULTY[labels]
    for seed in range(seeds):
        trained = {variant: train("train", variant, seed) for variant in VARIANTS}
        evaluate(trained["v4"], 0.924)
        evaluate(train("retrain", "v4", seed), 0.928)
    for fold in range(1, folds + 1):
        train("fold", "v4", 0, fold)
    return StudyResults(
        run_id=run_id("study"),
        selected="v4" if seeds else "",
        trainings=_frame(rows, TRAINING_COLUMNS),
        evaluations=_frame(evaluations, EVALUATION_COLUMNS),
        histories=histories,
        predictions=predictions,
        facts={
            "commit": "3f9c2d7e5a1b4c6d8e0f9a8b7c6d5e4f3a2b1c0d",
            "data": "fashion-mnist, test sum 0402a96d92fd2663",
            "processor": "x86-64, AVX-512",
        },
    )


def claims(results: StudyResults) -> list[Claim]:
    """One claim of each verdict and a few more, on the runs of a study."""
    trainings = results.trainings
    runs = {
        variant: tuple(trainings.index[(trainings["variant"] == variant) & (trainings["stage"] == "train")])
        for variant in VARIANTS
    }
    tested = tuple(results.evaluations.index[::2])
    words = list(VERDICTS)
    made = []
    published = {"baseline": 0.896, "v1": 0.903, "v2": 0.916, "v3": 0.919, "v4": 0.926}
    for position, (variant, figure) in enumerate(published.items()):
        values = trainings.loc[list(runs[variant]), "val_accuracy_augmented"]
        low, high = values.mean() - 0.004, values.mean() + 0.004
        made.append(
            Claim(
                id=f"{variant}-validation",
                title=f"Validation accuracy of {variant}",
                quotation=f"validation accuracy of {100 * figure:.1f}%",
                published=f"{100 * figure:.1f} %",
                ours=f"{100 * values.mean():.2f} % ({100 * low:.2f} to {100 * high:.2f})",
                low=low,
                high=high,
                published_value=figure,
                value=values.mean(),
                verdict=words[4] if position else words[3],
                sentence="The published figure lies where one more seed would fall with 95 % probability.",
                run_ids=runs[variant],
            )
        )
    made.append(
        Claim(
            id="v3-over-v2",
            title="v3 and v2 are close",
            quotation="the performance of this model is similar to the performance of the previous variant",
            published="about equal",
            ours="+0.1 points (-0.3 to +0.5)",
            low=-0.003,
            high=0.005,
            published_value=0.0,
            value=0.001,
            verdict=words[1],
            sentence="The interval of the difference is wider than 0.2 points: 18 seeds would settle it.",
            run_ids=runs["v2"] + runs["v3"],
        )
    )
    made.append(
        Claim(
            id="auxiliary-agreement",
            title="The auxiliary heads agree on 14 %",
            quotation="the percentage of matching highest scores is only about 14%",
            published="14 %",
            ours="81.2 % (80.1 to 82.3)",
            low=0.801,
            high=0.823,
            published_value=0.14,
            value=0.812,
            verdict=words[0],
            sentence="Trained heads agree on most images; the published ones were never trained.",
            run_ids=tested,
            over="seeds × images",
        )
    )
    made.append(
        Claim(
            id="folds-agree",
            title="The folds agree",
            quotation="each fold has similar results without any deviations",
            published="no deviations",
            ours="",
            low=float("nan"),
            high=float("nan"),
            published_value=float("nan"),
            verdict=words[2],
            sentence="There is no fold of this study.",
            missing=("v4, fold 1",),
            commands=("mlflow run . -e kfold -P variant=v4 --env-manager local",),
            over="",
        )
    )
    return made


def _frame(rows, columns):
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("run_id")


def _history(random, accuracy, epochs, validated):
    """Curves that rise and level off, the same shape for all."""
    epoch = np.arange(1, epochs + 1)
    rise = np.exp(-epoch / 2.6)
    offset = random.normal(0, 0.0012)
    val = accuracy + offset - 0.11 * rise + random.normal(0, 0.0022, epochs) * (1 - epoch / (2 * epochs))
    return pd.DataFrame(
        {
            "epoch": epoch,
            "train_loss": 0.15 + 0.45 * rise + 2 * (0.93 - accuracy) + random.normal(0, 0.002, epochs),
            "train_accuracy": accuracy + 0.024 - 0.16 * rise + random.normal(0, 0.0008, epochs),
            "val_loss": (0.215 + 0.33 * rise + 2 * (0.93 - accuracy)) if validated else np.nan,
            "val_accuracy": val if validated else np.nan,
            "learning_rate": 0.001 * 0.5 ** ((epoch - 1) // 5),
        }
    )


def _predictions(random, labels, difficulty, accuracy):
    """Predictions of a model that errs where images are difficult, and takes a class for a similar one."""
    count = len(labels)
    hardness = difficulty + random.gamma(0.5, 0.12, count)
    wrong = np.zeros(count, bool)
    wrong[np.argsort(-hardness)[: round((1 - accuracy) * count)]] = True
    mistakes = np.array([random.choice(SIMILAR.get(label, (8, 3))) for label in labels])
    predicted = np.where(wrong, mistakes, labels)
    probability = np.clip(1 - 0.45 * hardness / hardness[wrong].mean() * random.random(count), 0.28, 0.9999)
    true_probability = np.where(wrong, (1 - probability) * random.uniform(0.2, 0.9, count), probability)
    names = np.array(CLASSES)

    def head(share):
        other = random.integers(0, 10, count)
        return np.where(random.random(count) < share, labels, other)

    return pd.DataFrame(
        {
            "image": np.arange(count),
            "true": names[labels],
            "predicted": names[predicted],
            "probability": probability.astype(np.float32),
            "true_probability": true_probability.astype(np.float32),
            "auxiliary_first": names[head(0.83)],
            "auxiliary_second": names[head(0.88)],
        }
    )
