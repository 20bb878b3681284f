"""Signals end a process in order, wherever they fall."""

import subprocess
import sys

import pytest

SCRIPT = """
import os, signal, sys, weakref
from lenet_study.execution import signals
signals.stop_on_signals()
def send(number=signal.{name}):
    os.kill(os.getpid(), number)
class Thing: pass
try:
    {body}
    print("went on")
except SystemExit as error:
    print("stopped", error.code)
    raise
"""


def run(body: str, name: str = "SIGTERM"):
    script = SCRIPT.format(name=name, body=body.replace("\n", "\n    "))
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    return result.returncode, result.stdout.split("\n")[:-1], result.stderr


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
def test_a_signal_ends_the_process_with_the_shells_code(name, code):
    returned, said, _ = run("send()", name)
    assert (returned, said) == (code, [f"stopped {code}"])


DROPPED = """
thing = Thing()
reference = weakref.ref(thing, lambda reference: {send})
del thing
print("dropped")
"""


def test_a_signal_that_python_drops_in_a_weakref_callback_is_raised_at_the_next_step():
    returned, said, _ = run(DROPPED.format(send="send()") + "signals.check()")
    assert (returned, said) == (143, ["dropped", "stopped 143"])


def test_a_signal_that_python_drops_is_raised_again_without_a_step():
    returned, said, error = run(DROPPED.format(send="send()") + "import time; time.sleep(5)")
    assert (returned, said, error) == (143, ["dropped", "stopped 143"], "")


def test_no_alarm_strikes_after_a_step_has_raised():
    body = (
        DROPPED.format(send="send()")
        + """
import time
try:
    signals.check()
except SystemExit:
    time.sleep(0.2)
    print("closed")
    raise"""
    )
    returned, said, error = run(body)
    assert (returned, said, error) == (143, ["dropped", "closed", "stopped 143"], "")


def test_another_exception_that_python_drops_is_printed():
    returned, said, error = run(DROPPED.format(send="1 / 0"))
    assert (returned, said) == (0, ["dropped", "went on"])
    assert "ZeroDivisionError" in error


def test_a_step_is_finished_first():
    body = """
with signals.deferred():
    with signals.deferred():
        send()
    print("finished")"""
    assert run(body)[:2] == (143, ["finished", "stopped 143"])


def test_a_second_ctrl_c_leaves_at_once_and_a_second_sigterm_is_ignored():
    assert run("with signals.deferred():\n    send(); send()\n    print('never')", "SIGINT")[:2] == (130, [])
    body = "with signals.deferred():\n    send(); send()\n    print('finished')"
    assert run(body)[:2] == (143, ["finished", "stopped 143"])


def test_without_a_signal_nothing_happens():
    assert run("with signals.deferred(): pass\nsignals.check()")[:2] == (0, ["went on"])
