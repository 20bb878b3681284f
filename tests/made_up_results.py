"""Results of studies that never ran, as claims are judged on."""

import numpy as np
import pandas as pd

from lenet_study.evidence.published import published_epochs, published_models, published_predictions
from lenet_study.evidence.results import StudyResults
from lenet_study.recipes.variants import VARIANTS, parameter_count
from lenet_study.training.model import CLASSES

MODELS = published_models().set_index("training")
COLUMNS = ["stage", "variant", "seed", "fold", "best_epoch", "train_accuracy", "train_loss", "val_accuracy"]
COLUMNS += ["val_loss", "val_accuracy_augmented", "val_loss_augmented", "parameter_count"]
SCORES = ["model_run_id", "test_accuracy", "test_loss", "auxiliary_first", "auxiliary_second"]
SCORES += ["auxiliary_agreement"]
PROTOCOL = {"epochs": "15", "batch_size": "32", "learning_rate": "0.001", "auxiliary": "probe"}


def empty_results(**changes):
    """A study that has nothing yet."""
    values = {
        "run_id": "study",
        "selected": "v4",
        "trainings": pd.DataFrame(columns=COLUMNS),
        "evaluations": pd.DataFrame(columns=SCORES),
        "facts": PROTOCOL,
    }
    return StudyResults(**{**values, **changes})


def made_up_results(seeds=10, noise=0.001, images=1000, evaluate_all=True, untrained=True):
    """The published figures over so many seeds, with so much noise; the store of an ideal repetition."""
    random = np.random.default_rng(0)
    trainings, evaluations, histories, predictions = {}, {}, {}, {}

    def add(stage, variant, seed, row, fold=0):
        run_id = f"{stage}-{variant}-{seed}" + (f"-{fold}" if fold else "")
        accuracy, loss = random.normal(0, noise, 2)
        trainings[run_id] = {
            "stage": stage,
            "variant": variant,
            "seed": seed,
            "fold": fold,
            "best_epoch": row["best_epoch"] + seed % 2,
            "train_accuracy": row["train_accuracy"] + accuracy,
            "train_loss": row["train_loss"] + loss,
            "val_accuracy": row["val_accuracy"] + 0.008 + accuracy,
            "val_loss": row["val_loss"] - 0.02 + loss,
            "val_loss_augmented": row["val_loss"] + loss,
            "val_accuracy_augmented": row["val_accuracy"] + accuracy,
            "parameter_count": parameter_count(VARIANTS[variant]),
        }
        return run_id

    def evaluate(run_id, variant, row, agreement=0.93):
        table = published_predictions().iloc[:: 10_000 // images]
        predicted = table[variant].to_numpy().copy()
        changed = random.random(len(table)) < 0.01
        predicted[changed] = random.integers(0, 10, changed.sum())
        if run_id.startswith("retrain"):  # half of the shirts that were taken for T-shirts are seen
            mended = (table["label"] == 6) & (predicted == 0) & (random.random(len(table)) < 0.5)
            predicted[mended] = 6
        names = np.array(CLASSES)
        agree = random.random(len(table)) < agreement
        second = np.where(agree, predicted, (predicted + 1) % 10)
        predictions[run_id] = pd.DataFrame(
            {
                "image": table["image"],
                "true": names[table["label"]],
                "predicted": names[predicted],
                "probability": 0.9,
                "true_probability": 0.9,
                "auxiliary_first": names[predicted],
                "auxiliary_second": names[second],
            }
        )
        evaluations[f"on-test-{run_id}"] = {
            "model_run_id": run_id,
            "test_accuracy": row["test_accuracy"] + random.normal(0, noise),
            "test_loss": row["test_loss"] + random.normal(0, noise),
            "auxiliary_first": 0.9,
            "auxiliary_second": 0.91,
            "auxiliary_agreement": agree.mean(),
        }

    for seed in range(seeds):
        for variant in VARIANTS:
            run_id = add("train", variant, seed, MODELS.loc[variant])
            histories[run_id] = published_epochs().query("training == @variant").assign(learning_rate=0.001)
            if evaluate_all or variant == "v4":
                evaluate(run_id, variant, MODELS.loc[f"{variant}-weights"])
        evaluate(add("retrain", "v4", seed, MODELS.loc["v4-retrained"]), "v4", MODELS.loc["v4-retrained"])
        if untrained:
            row = MODELS.loc["v4-weights"]
            evaluate(add("untrained", "v4", seed, MODELS.loc["v4"]), "v4", row, random.uniform(0, 0.28))
    for fold in range(1, 6):
        add("fold", "v4", 0, MODELS.loc["v4-kfold-mean"], fold)
    return empty_results(
        trainings=pd.DataFrame.from_dict(trainings, orient="index").reindex(columns=COLUMNS),
        evaluations=pd.DataFrame.from_dict(evaluations, orient="index"),
        histories=histories,
        predictions=predictions,
    )
