"""Notes in Markdown, and their links."""

from lenet_study.tracking import notes

PAGE = "#/experiments/7/runs/{}?workflowType=machine_learning"


def test_neighbours_are_the_runs_that_tags_name_but_not_the_run_itself():
    tags = {"study": "s1 s2", "mlflow.parentRunId": "p", "model.run_id": "m", "variant": "v4"}
    assert notes.neighbours("7", tags, run_id="s2") == [
        f"[study]({PAGE.format('s1')})",
        f"[parent run]({PAGE.format('p')})",
        f"[training of the model]({PAGE.format('m')})",
    ]


def test_a_tag_without_a_run_gives_no_link():
    assert notes.neighbours("7", {"model.run_id": ""}) == []


def test_a_user_s_words_stay_when_links_change():
    first = notes.with_links("**v4**", ["[study](#/1)"])
    edited = first.replace("**v4**", "My best one.\n\nTruly.")
    again = notes.with_links(edited, ["[study](#/1)", "[on test](#/2)"])
    assert again == "My best one.\n\nTruly.\n\n---\n\n[study](#/1) · [on test](#/2)"
    assert notes.without_links(again) == "My best one.\n\nTruly."


def test_a_long_note_is_cut_before_its_links():
    note = notes.with_links("x" * 9000, ["[study](#/1)"])
    assert len(note) == notes.LIMIT
    assert note.endswith("[study](#/1)")
    assert len(notes.with_links("x" * 9000, [])) == notes.LIMIT


def test_a_table():
    assert notes.table([("a", "b"), ("1", "2")]) == "| a | b |\n|---|---|\n| 1 | 2 |"


def test_a_note_with_hundreds_of_links_keeps_its_words():
    note = notes.with_links("Mine.", [f"[on test](#/{'x' * 90}{number})" for number in range(500)])
    assert note.startswith("Mine.\n\n---\n\n[on test]")
    assert len(note) <= notes.LIMIT
