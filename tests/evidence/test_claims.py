"""The file of claims: what it holds, and what is refused."""

import re
from collections import Counter

import pytest

from lenet_study.errors import UserError
from lenet_study.evidence.claims import CLAIMS_FILE, load_claims, parse_claims
from lenet_study.evidence.comparison import MARGIN
from lenet_study.evidence.published import published_models
from lenet_study.evidence.verdicts import DELTA

CLAIMS = load_claims()
MODELS = published_models().set_index("training")
HEAD = 'title = "t"\nsource = "s"\ncommand = "make it"\nprotocol = { epochs = 15 }\n'
CLAIM = {
    "id": '"a-claim"',
    "title": '"A claim"',
    "quotation": '"In their words."',
    "section": '"Results"',
    "kind": '"figure"',
    "variants": '["v4"]',
    "metric": '"test_accuracy"',
    "figure": "0.925",
    "digits": "3",
}
COMPARISON = {"kind": '"comparison"', "figure": None, "digits": None, "against": '{ variants = ["v3"] }'}
STATEMENT = {
    **{"kind": '"qualitative"', "metric": None, "figure": None, "digits": None},
    **{"statement": '"hardest_class"', "classes": '["Shirt"]'},
}


def text(*claims):
    """A file of claims, each with changes to the one above; None leaves a field out."""
    tables = []
    for changes in claims:
        fields = {name: value for name, value in {**CLAIM, **changes}.items() if value is not None}
        tables.append("[[claim]]\n" + "".join(f"{name} = {value}\n" for name, value in fields.items()))
    return HEAD + "\n".join(tables)


def test_the_published_study_has_claims_of_every_kind():
    kinds = Counter(claim.kind for claim in CLAIMS.claims)
    assert sum(kinds.values()) >= 30
    assert set(kinds) == {"figure", "comparison", "about_equal", "structure", "qualitative"}


@pytest.mark.parametrize("claim", CLAIMS.claims, ids=lambda claim: claim.id)
def test_a_claim_is_named_quoted_and_has_a_command(claim):
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", claim.id)
    assert claim.quotation == claim.quotation.strip()
    assert claim.section
    assert claim.command.startswith(("mlflow run . -e ", "for seed in "))
    assert claim.tolerance > 0


@pytest.mark.parametrize(
    "claim", [c for c in CLAIMS.claims if c.kind == "figure"], ids=lambda claim: claim.id
)
def test_figures_are_those_of_the_published_table(claim):
    if claim.id == "auxiliary-agreement":
        return
    suffix = {"retrain": "-retrained", "fold": "-kfold-mean"}.get(claim.stage, "")
    suffix = "-weights" if claim.digits is None else suffix
    assert claim.figure == MODELS.loc[claim.variants[0] + suffix, claim.metric]
    assert claim.half_digit == (0 if claim.digits is None else 0.5 / 10**claim.digits)


def test_structure_is_that_of_the_published_table():
    for claim in CLAIMS.claims:
        column = {"parameter_count": "parameters", "multiply_adds": "mult_adds_millions"}.get(claim.metric)
        if column:
            assert claim.figure == MODELS.loc[claim.variants[0], column]


def test_published_differences_are_those_of_the_published_figures():
    for claim in CLAIMS.claims:
        if claim.kind in ("comparison", "about_equal") and claim.figure is not None:
            against, stages = claim.against, {"retrain": "-retrained", "fold": "-kfold-mean", "train": ""}
            other = (against.variants or claim.variants)[0] + stages[claim.other_side[0]]
            own = MODELS.loc[claim.variants[0] + stages[claim.stage], claim.metric]
            difference = own - MODELS.loc[other, against.metric or claim.metric]
            assert claim.figure == pytest.approx(difference, abs=1e-9), claim.id


def test_defaults_depend_on_the_kind():
    claims = parse_claims(text({}, {"id": '"other"', **COMPARISON}), "claims").claims
    assert [claim.tolerance for claim in claims] == [DELTA, MARGIN]
    assert claims[0].command == "make it"
    assert claims[1].other_side == ("train", "test_accuracy")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"figure": '"high"'}, "claim.a-claim.figure='high' is refused"),
        ({"figure": "nan"}, "claim.a-claim.figure"),
        ({"colour": '"red"'}, "claim.a-claim.colour='red' is refused"),
        ({"title": None}, "claim.a-claim.title is refused"),
        ({"title": '""'}, "claim.a-claim.title is empty: fill it in"),
        ({"variants": "[]"}, "claim.a-claim.variants is empty"),
        ({"variants": '["v9"]'}, "claim.a-claim.variants='v9' is unknown: write one of baseline, v1"),
        ({"kind": '"hearsay"'}, "claim.a-claim.kind='hearsay' is refused"),
        ({"stage": '"tune"'}, "claim.a-claim.stage='tune' is refused"),
        ({"metric": '"speed"'}, "claim.a-claim.metric='speed' is unknown"),
        ({"like_for_like": '"speed"'}, "claim.a-claim.metric='speed' is unknown"),
        ({"figure": None}, "claim.a-claim.figure is missing: a claim of kind figure needs it"),
        ({"margin": "0.1"}, "claim.a-claim.margin=0.1 is of no use to a claim of kind figure: remove it"),
        ({"digits": "-1"}, "claim.a-claim.digits=-1 is not between 0 and 9"),
        ({"delta": "0.0"}, "claim.a-claim.delta=0.0 is not above 0"),
        (
            {"metric": '"test_loss"'},
            "claim.a-claim.delta is missing: write the difference that matters, in nats",
        ),
        ({"metric": '"parameter_count"'}, "claim.a-claim.metric=parameter_count does not fit kind=figure"),
        ({"kind": '"structure"'}, "claim.a-claim.metric=test_accuracy does not fit kind=structure"),
        ({**COMPARISON, "against": None}, "claim.a-claim.against is missing"),
        ({"variants": '["v3", "v4"]'}, "variants=v3, v4: such a claim is about one"),
        ({**COMPARISON, "against": "{ }"}, "claim.a-claim.against is the claim's own side"),
        ({**COMPARISON, "against": '{ variants = ["v4", "v3"] }'}, "against is the claim's own side"),
        ({**COMPARISON, "stage": '"fold"'}, "stage=fold has no partners among the seeds"),
        ({**COMPARISON, "against": '{ metric = "test_loss" }'}, "test_loss is not measured in share"),
        ({**COMPARISON, "kind": '"about_equal"', "against": None}, "only folds (stage=train) are equal"),
        ({**STATEMENT, "statement": '"pretty"'}, "claim.a-claim.statement='pretty' is unknown"),
        ({**STATEMENT, "classes": '["Hat"]'}, "claim.a-claim.classes='Hat' is unknown"),
        ({**STATEMENT, "classes": "[]"}, "claim.a-claim.classes has 0 names: hardest_class takes 1"),
        (
            {**STATEMENT, "variants": '["v3", "v4"]'},
            "variants=v3, v4: such a claim is about one",
        ),
        ({**STATEMENT, "against": '{ stage = "retrain" }'}, "statement=hardest_class knows no other side"),
        ({**STATEMENT, "metric": '"test_accuracy"'}, "metric='test_accuracy' is of no use"),
    ],
)
def test_a_wrong_field_is_named_in_one_sentence(changes, sentence):
    with pytest.raises(UserError) as refusal:
        parse_claims(text(changes), "claims=x.toml")
    assert sentence in str(refusal.value)
    assert str(refusal.value).startswith("claims=x.toml: ")
    assert "\n" not in str(refusal.value)


def test_two_claims_of_one_name_are_refused():
    with pytest.raises(UserError, match="id=a-claim stands 2 times: rename all but one"):
        parse_claims(text({}, {}), "claims")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("title =", "is no TOML"),
        (HEAD, r"holds no \[\[claim\]\]"),
        ("", "is refused"),
        (HEAD + "claim = 1", "claim=1 is refused"),
        (HEAD + "claim = [1]", "claim.0=1 is refused"),
        (HEAD.replace("15", '"15"') + "claim = []", "protocol.epochs='15' is refused"),
    ],
)
def test_a_file_of_another_form_is_refused(content, sentence):
    with pytest.raises(UserError, match=sentence):
        parse_claims(content, "claims")


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"cannot be read .*: name a file of claims"):
        load_claims(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read"):
        load_claims(tmp_path / "binary.toml")
    assert load_claims(CLAIMS_FILE) == CLAIMS
