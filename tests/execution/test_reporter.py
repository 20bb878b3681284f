import os
import pty
import sys
import termios
import threading
import time
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import pyte

from lenet_study.execution.reporter import Progress, Terminal
from lenet_study.training.history import Epoch, EpochProgress


def epoch(number, seconds, **validation):
    return Epoch(
        epoch=number,
        learning_rate=0.001,
        train_loss=0.5,
        train_accuracy=0.7512,
        val_loss=validation.get("loss"),
        val_accuracy=validation.get("accuracy"),
        seconds=seconds,
    )


@contextmanager
def terminal():
    """A pseudo-terminal as stderr; calling it gives what was shown there.

    No fixture: pytest sets stderr anew between a test's setup and its call.
    """
    reader, writer = pty.openpty()
    termios.tcsetwinsize(writer, (24, 160))  # a new one has no columns at all
    with os.fdopen(writer, "w") as screen, redirect_stderr(screen):

        def shown():
            screen.write("<end>")
            screen.flush()
            text = b""
            while not text.endswith(b"<end>"):
                text += os.read(reader, 4096)
            return text.decode().removesuffix("<end>")

        yield shown
    os.close(reader)


def test_without_a_terminal_every_epoch_is_a_line(capsys):
    progress = Progress("v4 fold 3/5", 4)
    progress.show(epoch(1, 2.0, loss=0.25, accuracy=0.8765))
    progress.show(epoch(2, 4.0, loss=0.25, accuracy=0.9))
    output, errors = capsys.readouterr()
    first, second = output.splitlines()
    for expected in ("v4 fold 3/5", "epoch 1/4", "0.500", "75.12%", "0.250", "87.65%", "2.0 s, 6 s left"):
        assert expected in first
    assert "epoch 2/4" in second
    assert "90.00%" in second
    assert "4.0 s, 6 s left" in second  # two epochs of the mean, 3 s
    assert errors == ""


def test_nothing_is_left_after_the_last_epoch(capsys):
    Progress("v4", 1).show(epoch(1, 2.0, loss=0.25, accuracy=0.9))
    assert ", 0 s left" in capsys.readouterr().out


def test_without_validation_only_training_is_shown(capsys):
    Progress("v4 retrained", 3).show(epoch(1, 2.0))
    output = capsys.readouterr().out
    assert "75.12%" in output
    assert "val" not in output
    assert "None" not in output


def test_a_terminal_shows_a_bar(capsys):
    with terminal() as shown:
        progress = Progress("v4", 2)
        progress.show(epoch(1, 2.0, loss=0.25, accuracy=0.8765))
        progress.show(epoch(2, 2.0, loss=0.25, accuracy=0.9))
        screen = shown()
    for expected in ("v4", "0/2", "2/2", "100%", "train loss 0.500", "90.00%", "\r"):
        assert expected in screen
    assert screen.endswith("\r")  # gone: what is printed next starts at the beginning of a line
    assert capsys.readouterr().out == ""


def test_a_bar_works_without_validation():
    with terminal() as shown:
        Progress("v4 retrained", 1).show(epoch(1, 2.0))
        screen = shown()
    assert "75.12%" in screen
    assert "val" not in screen


def test_trainings_side_by_side_have_a_bar_each_and_lines_stand_above(capsys):
    with terminal() as shown:
        reporter = Terminal()
        for name in ("v3", "v4"):
            reporter.on_run_start(name, f"run of {name}", 2)
        reporter.on_epoch_end("v4", epoch(1, 2.0, loss=0.25, accuracy=0.8765))
        reporter.message("v3 waits")
        for number in (1, 2):
            reporter.on_epoch_end("v3", epoch(number, 2.0, loss=0.25, accuracy=0.9))
        reporter.on_epoch_end("v4", epoch(2, 2.0, loss=0.25, accuracy=0.9))
        screen = shown()
    for name in ("v3", "v4"):
        assert f"{name}:   0%" in screen
        assert f"{name}: 100%" in screen
    assert capsys.readouterr().out == "v3 waits\n"


def test_what_has_ended_leaves_nothing_on_the_screen():
    with terminal() as shown, redirect_stdout(sys.stderr):
        reporter = Terminal()
        for name in ("v2", "v3", "v4"):
            reporter.on_run_start(name, f"run of {name}", 2)
        for number in (1, 2):
            reporter.on_epoch_end("v3", epoch(number, 2.0, loss=0.25, accuracy=0.9))
        reporter.message("v3: best epoch 1")
        reporter.on_epoch_end("v2", epoch(1, 2.0, loss=0.25, accuracy=0.9))
        reporter.on_run_end("v2")
        reporter.message("v2 pruned")
        reporter.on_epoch_end("v4", epoch(1, 2.0, loss=0.25, accuracy=0.9))
        seen = pyte.Screen(160, 24)
        pyte.Stream(seen).feed(shown())
    lines = [line.rstrip() for line in seen.display if line.strip()]
    assert [line[:16] for line in lines] == ["v3: best epoch 1", "v2 pruned", "v4:  50%|█████  "]


def test_an_evaluation_that_ends_early_has_no_bar_to_close():
    reporter = Terminal()
    reporter.on_run_start("v4 on test", "run of v4", 0)
    reporter.on_run_end("v4 on test")


def test_an_evaluation_has_no_bar(capsys):
    with terminal() as shown:
        reporter = Terminal()
        reporter.on_run_start("v4 on test", "its run", 0)
        reporter.message("accuracy 92 %")
        assert "v4" not in shown()
    assert capsys.readouterr().out == "accuracy 92 %\n"


def within(number, images, seconds):
    return EpochProgress(epoch=number, images=images, images_per_epoch=48_000, loss=0.4321, seconds=seconds)


def test_a_bar_moves_within_an_epoch_and_tells_the_time_left():
    with terminal() as shown:
        reporter = Terminal()
        reporter.on_run_start("v4", "its run", 4)
        reporter.on_progress("v4", within(1, 12_000, 3.0))
        reporter.on_epoch_end("v4", epoch(1, 10.0, loss=0.25, accuracy=0.8765))
        reporter.on_progress("v4", within(2, 24_000, 6.0))
        seen = pyte.Screen(160, 24)
        screen = shown()
        pyte.Stream(seen).feed(screen)
    # A quarter of the first epoch took 3 s: 12 s for one, of which 3.75 are left.
    assert "v4:   6%|" in screen
    assert "0.25/4 epochs, epoch 1/4, 12,000 of 48,000 images, loss 0.432, 45 s left" in screen
    # The first epoch took 10 s, and 2.5 are left.
    assert "1.5/4 epochs, epoch 2/4, 24,000 of 48,000 images, loss 0.432, 25 s left; before: val" in screen
    assert [line[:8] for line in seen.display if line.strip()] == ["v4:  38%"]


def test_without_a_terminal_open_work_is_never_silent_for_long(capsys):
    reporter = Terminal(quiet_seconds=0.3)
    reporter.on_run_start("v4", "its run", 2)
    reporter.on_run_start("v3 on test", "its run", 0)
    reporter.on_progress("v4", within(1, 12_000, 3.0))
    time.sleep(1.0)
    reporter.on_run_end("v3 on test")
    reporter.on_run_end("v4")
    reporter.close()
    lines = capsys.readouterr().out.splitlines()
    assert 2 <= lines.count("v4  epoch 1/2, 12,000 of 48,000 images, loss 0.432, 21 s left") <= 3
    assert 2 <= sum(line.startswith("v3 on test  at work for ") for line in lines) <= 3
    assert len(lines) <= 6
    time.sleep(0.5)
    assert capsys.readouterr().out == ""


def test_open_work_is_not_interrupted_by_lines_while_it_reports(capsys):
    reporter = Terminal(quiet_seconds=1000)
    reporter.on_run_start("v4", "its run", 2)
    for images in range(0, 48_000, 480):
        reporter.on_progress("v4", within(1, images + 1, 3.0))
    assert capsys.readouterr().out == ""


def test_a_larger_work_tells_the_time_left_for_all_of_it(capsys):
    reporter = Terminal()
    reporter.on_plan("study", {"v3": 1.0, "v4": 2.0, "the selected": 1.0, "done before": 5.0})
    reporter.on_run_end("done before")
    for name in ("v3", "v4"):
        reporter.on_run_start(name, "its run", 2)
    time.sleep(0.5)
    reporter.on_epoch_end("v3", epoch(1, 0.5))  # an eighth of it, in half a second
    reporter.on_run_end("v3")  # a quarter
    reporter.on_plan("study", {"v3": 1.0, "v4": 2.0, "v4 retrained": 1.0})
    reporter.on_epoch_end("v4", epoch(1, 0.5))  # half of it
    reporter.on_epoch_end("v4", epoch(2, 0.5))  # three quarters
    lines = capsys.readouterr().out.splitlines()
    left = [int(line.rpartition("about ")[2].removesuffix(" s left for the study")) for line in lines]
    assert left[0] in (3, 4, 5)
    assert left[1:] in ([0, 0], [1, 0], [1, 1])


def test_a_larger_work_has_a_bar_of_its_own():
    with terminal() as shown:
        reporter = Terminal()
        reporter.on_plan("study", {"v3": 1.0, "v4": 3.0})
        reporter.on_run_start("v4", "its run", 2)
        reporter.on_epoch_end("v4", epoch(1, 0.5))
        seen = pyte.Screen(160, 24)
        screen = shown()
        pyte.Stream(seen).feed(screen)
        lines = [line[:11] for line in seen.display if line.strip()]
        reporter.on_run_end("v4")
        reporter.close()
        pyte.Stream(seen).feed(shown())
    assert lines == ["study:  38%", "v4:  50%|██"]
    assert "left for the study" in screen
    assert not any(line.strip() for line in seen.display)


def test_addresses_stand_once_at_the_end(capsys):
    reporter = Terminal()
    for name in ("v4", "v4 on test"):
        reporter.on_address("In MLflow's UI:", name, f"http://ui/{name[-4:]}")
    reporter.message("v4: done")
    reporter.close()
    assert capsys.readouterr().out == (
        "v4: done\nIn MLflow's UI:\n  v4: http://ui/v4\n  v4 on test: http://ui/test\n"
    )


def test_several_threads_may_report(capsys):
    reporter = Terminal()
    reporter.on_plan("study", {f"v{number}": 1.0 for number in range(8)})

    def train(name):
        reporter.on_run_start(name, "its run", 50)
        for number in range(1, 51):
            reporter.on_progress(name, within(number, 480, 0.1))
            reporter.on_epoch_end(name, epoch(number, 0.1))
        reporter.on_run_end(name)

    threads = [threading.Thread(target=train, args=[f"v{number}"]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 400
    assert all("left for the study" in line for line in lines)
