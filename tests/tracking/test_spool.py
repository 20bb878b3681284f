"""A run's operations on disk: in order, whole or not there, bounded, one process at a time."""

import os
from pathlib import Path

import pytest

from lenet_study.errors import StoreError
from lenet_study.tracking.spool import Spool, about, left_behind

ABOUT = {"run_id": "r1", "name": "toy", "store": "http://nowhere"}


def add(spool, number, **files):
    with spool.add({"kind": "batch", "number": number}) as folder:
        for name, text in files.items():
            (folder / name).write_text(text)


def test_operations_come_back_in_order_with_their_files(tmp_path):
    spool = Spool(tmp_path / "all" / "r1", ABOUT)
    for number in range(12):
        add(spool, number, picture=f"picture {number}")
    for number in range(12):
        (operation,) = spool.leading()
        assert operation.content == {"kind": "batch", "number": number}
        assert (operation.folder / "picture").read_text() == f"picture {number}"
        assert len(spool) == 12 - number
        spool.remove(operation)
    assert not spool.leading()
    spool.close()
    assert not (tmp_path / "all").exists()


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ("batch artifact batch model batch", 3),
        ("model batch", 1),
        ("batch end", 1),
        ("artifact artifact batch", 1),  # of the same name: the later one counts
        ("batch batch batch batch batch", 4),
    ],
)
def test_only_operations_whose_order_does_not_matter_go_together(tmp_path, kinds, expected):
    spool = Spool(tmp_path / "r1", ABOUT)
    for kind in kinds.split():
        with spool.add({"kind": kind} | ({"name": "curves.png"} if kind == "artifact" else {})):
            pass
    operations = spool.leading(together=("batch", "artifact"), limit=4)
    assert [operation.content["kind"] for operation in operations] == kinds.split()[:expected]


def test_what_is_left_behind_is_found_and_goes_on_with_its_numbers(tmp_path):
    spool = Spool(tmp_path / "r1", ABOUT)
    add(spool, 1)
    spool.close()
    (folder,) = left_behind(tmp_path)
    assert about(folder) == ABOUT
    again = Spool.reopen(folder)
    add(again, 2)
    again.remove(*again.leading())
    assert [operation.content["number"] for operation in again.leading()] == [2]
    again.close()


def test_an_operation_that_was_cut_off_is_none(tmp_path):
    spool = Spool(tmp_path / "r1", ABOUT)

    def interrupted():
        with spool.add({"kind": "batch"}) as folder:
            (folder / "half").write_text("ha")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(spool) == 0
    (tmp_path / "r1" / "partial-killed").mkdir()  # as SIGKILL leaves it
    assert not spool.leading()


def test_an_operation_is_on_disk_before_it_has_its_number(tmp_path):
    events = []

    def fsync(descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        events.append((path.name, (tmp_path / "r1" / "00000001").exists()))
        os.fsync(descriptor)

    spool = Spool(tmp_path / "r1", ABOUT, fsync=fsync)
    add(spool, 1, picture="p")
    before = {name for name, numbered in events if not numbered}
    assert {"operation.json", "picture"} < before
    assert any(name.startswith("partial-") for name in before)
    assert events[-1] == ("r1", True)


def test_a_full_spool_refuses_all_but_the_run_s_end(tmp_path):
    spool = Spool(tmp_path / "r1", ABOUT, limit=1000)
    add(spool, 1, picture="p" * 500)
    with pytest.raises(StoreError, match=r"has reached its limit .*`resume`"):
        add(spool, 2, picture="p" * 500)
    with spool.add({"kind": "end"}):
        pass
    assert len(spool) == 2
    spool.remove(*spool.leading())
    add(spool, 3, picture="p" * 500)


def test_room_for_the_run_s_end_is_occupied_until_then(tmp_path):
    spool = Spool(tmp_path / "r1", ABOUT, reserve=5000)
    occupied = {path.name: path.stat().st_size for path in spool.folder.iterdir()}
    assert occupied["reserve"] == 5000
    spool.free_reserve()
    assert {path.name for path in spool.folder.iterdir()} == occupied.keys() - {"reserve"}


def test_one_process_at_a_time(tmp_path):
    spool = Spool(tmp_path / "r1", ABOUT)
    add(spool, 1)
    with pytest.raises(StoreError, match="Another process"):
        Spool.reopen(tmp_path / "r1")
    spool.close()
    Spool.reopen(tmp_path / "r1").close()
