"""Claims judged on made-up results, and the scorecard of all."""

import math
from dataclasses import replace

import pandas as pd
import pytest
from made_up_results import PROTOCOL, empty_results, made_up_results

from lenet_study.evidence.claim_rules import ClaimVerdict
from lenet_study.evidence.claims import Against, load_claims
from lenet_study.evidence.judgement import judge_claim
from lenet_study.evidence.measures import sample
from lenet_study.evidence.scorecard import scorecard
from lenet_study.evidence.statistics import corrected_paired_t_test

CLAIMS = load_claims()
BY_ID = {claim.id: claim for claim in CLAIMS.claims}
FAILED, UNDECIDED = ClaimVerdict.FAILED, ClaimVerdict.UNDECIDED
CAVEAT, REPRODUCED, UNMEASURED = ClaimVerdict.CAVEAT, ClaimVerdict.REPRODUCED, ClaimVerdict.UNMEASURED

every_claim = pytest.mark.parametrize("claim", CLAIMS.claims, ids=lambda claim: claim.id)


@pytest.fixture(scope="module")
def results():
    """Ten seeds of the published figures, with little noise."""
    return made_up_results(images=500)


@pytest.fixture(scope="module")
def one_seed():
    return made_up_results(seeds=1, images=100)


@pytest.fixture(scope="module")
def card(results):
    return scorecard(results)


def judge(name, results, **changes):
    return judge_claim(replace(BY_ID[name], **changes), results)


def changed(results, stage, variant, **columns):
    """The results with something added to the figures of some trainings."""
    trainings = results.trainings.copy()
    rows = (trainings["stage"] == stage) & (trainings["variant"] == variant)
    for name, addition in columns.items():
        trainings.loc[rows, name] = trainings.loc[rows, name] + addition
    return replace(results, trainings=trainings)


@every_claim
def test_every_claim_can_be_judged(claim, results):
    judged = judge_claim(claim, results)
    assert judged.verdict is not UNMEASURED
    assert judged.sentence.endswith(".")
    assert judged.published
    assert judged.ours
    assert judged.over
    assert judged.run_ids
    assert judged.missing == judged.commands == ()
    assert (judged.id, judged.title, judged.quotation) == (claim.id, claim.title, claim.quotation)
    if claim.kind != "structure" and claim.kind != "qualitative":
        assert judged.low <= judged.high
        assert not math.isnan(judged.value)


@every_claim
def test_every_claim_says_which_command_makes_its_runs(claim):
    judged = judge_claim(claim, empty_results())
    if claim.kind == "structure":
        assert (judged.verdict, judged.run_ids) == (REPRODUCED, ())
        return
    assert judged.verdict is UNMEASURED
    assert judged.missing
    assert judged.commands == (claim.command,)
    assert judged.sentence.startswith("There is no run of it yet: ")


@every_claim
def test_every_claim_can_be_judged_on_one_seed(claim, one_seed):
    judged = judge_claim(claim, one_seed)
    if claim.kind in ("figure", "comparison") and claim.stage != "fold":
        assert judged.verdict is UNDECIDED
        assert "a single seed shows no spread, and 10 are planned" in judged.sentence
    if claim.kind == "qualitative":
        assert judged.verdict is not REPRODUCED


def test_a_published_accuracy_is_compared_with_the_one_measured_alike(results):
    judged = judge("v2-val-accuracy", results)
    assert (judged.verdict, judged.published, judged.published_value) == (REPRODUCED, "91.6 %", 0.916)
    assert judged.value == pytest.approx(0.916, abs=0.001)  # clean images have 0.8 points more
    lower = judge("v2-val-accuracy", changed(results, "train", "v2", val_accuracy_augmented=-0.004))
    assert lower.verdict is CAVEAT
    assert "points away, less than what matters" in lower.sentence
    assert "augmented images" in lower.sentence  # what explains it
    far = judge("v2-val-accuracy", changed(results, "train", "v2", val_accuracy_augmented=-0.02))
    assert far.verdict is FAILED


def test_figures_of_the_published_weights_are_exact(results):
    judged = judge("v1-weights-test-accuracy", results)
    assert (judged.published, judged.claim.half_digit) == ("90.66 %", 0.0)
    assert judge("baseline-weights-test-accuracy", results).verdict is CAVEAT  # of the last epoch


def test_a_comparison_names_pair_seeds_and_p_values(results):
    judged = judge("decay-helps", results)
    assert judged.verdict is REPRODUCED
    assert judged.sentence.startswith("Difference of v1 and baseline: +0.")
    assert "as claimed in 10 of 10 seeds, Holm's p" in judged.sentence
    assert judged.over == "10 seeds in pairs"
    assert judge("retraining-helps", results).over.endswith("on the same test images")
    against = BY_ID["filters-help"].against
    assert judge("decay-helps", results, variants=("baseline",), against=against).verdict is FAILED


@pytest.mark.parametrize(("other", "name", "size"), [("v3", "batch-norm-helps", 4), ("v2", "to-v2", 10)])
def test_holm_counts_four_steps_and_ten_pairs_elsewhere(results, other, name, size):
    """The planned family is the steps from parent to child; what is not measured counts as p = 1."""
    alone = replace(results, trainings=results.trainings[results.trainings["variant"].isin(["v4", other])])
    claim = replace(BY_ID["batch-norm-helps"], id=name, against=Against(variants=(other,)))
    sides = (sample(alone, variant, "train", "val_accuracy_augmented").values for variant in ("v4", other))
    differences = next(sides) - next(sides)
    p_value = corrected_paired_t_test(differences.tolist(), 0.25).p_value
    assert f"Holm's p {size * p_value:.2g}," in judge_claim(claim, alone).sentence


def test_a_claim_about_all_holds_if_every_pair_does(results):
    judged = judge("batch-norm-is-best", results)
    assert judged.verdict is REPRODUCED
    assert "the least certain of 4 pairs" in judged.sentence
    overtaken = judge("batch-norm-is-best", changed(results, "train", "v1", val_accuracy_augmented=0.05))
    assert overtaken.verdict is FAILED
    assert overtaken.sentence.startswith("Difference of v4 and v1: -")
    missing = replace(results, trainings=results.trainings.query("variant != 'v2'"))
    assert judge("batch-norm-is-best", missing).verdict is UNMEASURED


def test_a_big_increase_must_exceed_its_margin(results):
    assert judge("filters-help-much", results).verdict is REPRODUCED
    smaller = changed(results, "train", "v2", train_accuracy=-0.022)  # 0.6 points more than v1
    judged = judge("filters-help-much", smaller)
    assert judged.verdict is FAILED
    assert "more than +1.00 points is claimed" in judged.sentence


def test_lower_is_better_for_losses(results):
    judged = judge("decay-converges", results)
    assert judged.verdict is CAVEAT
    assert judged.value < 0
    assert judged.low <= judged.value <= judged.high


def test_about_equal_is_never_a_lack_of_significance(results):
    noisy = made_up_results(noise=0.02, images=100)
    assert judge("hidden-units-close", noisy).verdict is UNDECIDED
    apart = changed(results, "train", "v3", val_accuracy_augmented=0.02)
    assert judge("hidden-units-close", apart).verdict is FAILED
    assert judge("fixed-split-is-representative", results).over == "5 folds and 10 seeds"


def test_the_agreement_of_untrained_heads_is_chance_and_its_interpretation_fails(results):
    agreement = judge("auxiliary-agreement", results)
    assert agreement.verdict is CAVEAT
    assert judge("auxiliary-interpretation", results).verdict is FAILED
    assert "their agreement is chance" in agreement.sentence
    assert agreement.run_ids[0].startswith("untrained")
    without = replace(results, trainings=results.trainings.query("stage != 'untrained'"))
    judged = judge("auxiliary-agreement", without)
    assert judged.verdict is UNMEASURED
    assert "auxiliary=untrained" in judged.commands[0]


def test_structure_needs_no_run_but_runs_must_agree(results):
    assert judge("v4-parameters", results).verdict is REPRODUCED
    other = judge("v4-parameters", changed(results, "train", "v4", parameter_count=1))
    assert other.verdict is FAILED
    assert other.sentence == "run train-v4-0 has 481,459, published 481,458."


def test_missing_evaluations_have_a_command_each(results):
    without = replace(results, evaluations=results.evaluations.drop(["on-test-train-v4-3"]))
    judged = judge("v4-test-accuracy", without)
    assert judged.verdict is REPRODUCED  # of nine seeds
    assert judged.missing == ("evaluation of v4, trained, seed 3",)
    assert judged.commands == ("mlflow run . -e evaluate -P model=train-v4-3 --env-manager local",)
    unread = {name: table for name, table in results.predictions.items() if name != "train-v4-3"}
    judged = judge("upper-body-overlaps", replace(results, predictions=unread))
    assert judged.missing == ("predictions of run train-v4-3",)
    assert "train-v4-3" not in judged.run_ids


# ---- the scorecard ----


def test_the_scorecard_begins_with_what_did_not_come_out(card):
    verdicts = [judged.verdict for judged in card.judged]
    assert verdicts == sorted(verdicts, key=list(ClaimVerdict).index)
    assert verdicts[0] is FAILED
    assert sum(card.counts.values()) == len(CLAIMS.claims)
    reproduced = card.counts[REPRODUCED]
    assert card.summary.startswith(f"{reproduced} of {len(CLAIMS.claims)} claims reproduced, ")
    assert card.summary.endswith("; 10 seeds")


def test_false_alarms_are_a_twentieth_of_the_figures(card):
    figures = [judged for judged in card.judged if judged.claim.kind == "figure"]
    assert card.false_alarms == pytest.approx(0.05 * len(figures))
    assert f"{card.false_alarms:.1f} would by chance lie outside" in card.alarm_sentence
    assert scorecard(empty_results()).false_alarms == 0


def test_the_table_has_a_row_for_each_claim(card, results):
    table = card.table()
    assert table["id"].is_unique
    assert len(table) == len(CLAIMS.claims)
    assert set(table["verdict"]) <= {verdict.value for verdict in ClaimVerdict}
    again = scorecard(results).table()
    pd.testing.assert_frame_equal(table, again)


def test_markdown_names_every_claim_and_the_commands_of_missing_runs(card):
    text = card.markdown()
    assert text.startswith("**")
    for claim in CLAIMS.claims:
        assert claim.title in text
    assert "```" not in text
    empty = scorecard(empty_results()).markdown()
    assert empty.count("mlflow run . -e study -P repeats=10 --env-manager local") == 1


def test_the_brief_form_fits_a_note_of_mlflow(card):
    assert len(card.brief()) < 8000
    short = card.brief(limit=1500)
    assert len(short) < 1500
    assert "… and " in short
    assert card.judged[0].title in short
    assert card.judged[-1].title not in short
    assert len(card.brief(limit=200)) < 200


def test_a_cell_stays_one_cell(results):
    hostile = replace(BY_ID["v4-test-accuracy"], title="a | b\nc <script>")
    card = scorecard(results, replace(CLAIMS, claims=(hostile,)))
    (row,) = (line for line in card.markdown().splitlines() if "a \\| b" in line)
    assert "&lt;script>" in row
    assert row.replace("\\|", "").count("|") == 7


def test_another_protocol_is_a_caveat_of_every_measured_claim(results):
    card = scorecard(replace(results, facts={**PROTOCOL, "epochs": "1", "learning_rate": "0.0010"}))
    assert card.caveats == ("epochs is 1, published 15",)
    by_kind = {judged.claim.kind for judged in card.judged if judged.verdict is REPRODUCED}
    assert by_kind == {"structure"}
    assert "epochs is 1, published 15" in card.brief()
