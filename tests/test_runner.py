"""The runner's command line, as someone meets it who starts it by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from bdb import BdbQuit

import numpy as np
import pytest

from remotemedia.core.multiprocess import control
from remotemedia.core.multiprocess.control import InputBinding
from remotemedia.core.multiprocess.runner.ports import handler_of
from remotemedia.core.multiprocess.runner.tracebacks import summary
from tests.executor_nodes import Upper

RUNNER = (sys.executable, "-m", "remotemedia.core.multiprocess.runner")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*RUNNER, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=20,
    )


def test_started_by_hand_it_says_what_it_is_and_exits_with_2() -> None:
    done = run("--node-type", "upper", "--node-id", "a")
    assert done.returncode == 2
    assert "remotemedia run pipeline.yaml" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_control_descriptor_that_is_none_is_said_so() -> None:
    done = run("--node-type", "upper", "--node-id", "a", REMOTEMEDIA_CONTROL_FD="77")
    assert done.returncode == 2
    assert "REMOTEMEDIA_CONTROL_FD=77" in done.stderr


def test_a_runner_that_does_not_understand_its_executor_says_so_and_exits() -> None:
    ours, its = control.new_pair()
    with ours:
        with its:
            arguments = ("--node-type", "upper", "--node-id", "a")
            runner = subprocess.Popen(
                [*RUNNER, *arguments],
                env={**os.environ, "REMOTEMEDIA_CONTROL_FD": str(its.fileno())},
                pass_fds=[its.fileno()],
                stderr=subprocess.PIPE,
                text=True,
            )
        ours.send(b"no message")
        with runner:
            try:
                _, told = runner.communicate(timeout=20)
            finally:
                runner.kill()
    assert "a control frame is damaged" in told
    assert "Traceback" not in told


@pytest.mark.parametrize("arguments", [(), ("--node-type", "upper"), ("--what",)], ids=str)
def test_wrong_arguments_exit_with_2(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [(), ("--node-type", "upper", "--node-id")], ids=str)
def test_wrong_arguments_of_an_executor_exit_with_2(arguments: tuple[str, ...]) -> None:
    done = run(*arguments, REMOTEMEDIA_CONTROL_FD="77")
    assert done.returncode == 2
    assert "--node-id" in done.stderr


def test_what_an_executor_says_is_understood_without_a_parser() -> None:
    arguments = ("--node-type", "upper", "--node-id", "a")
    loaded = {"PYTHONPROFILEIMPORTTIME": "1"}
    assert "| argparse" not in run(*arguments, REMOTEMEDIA_CONTROL_FD="77", **loaded).stderr
    assert "| argparse" in run(*arguments, **loaded).stderr


def test_help_exits_with_0() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert "--node-type" in done.stdout


def test_a_connection_by_which_nothing_else_can_come_leads_straight_to_the_handler() -> None:
    node = Upper()
    fitting = InputBinding("a.out -> b.in", "in", is_counted=True)
    assert handler_of(node, "process", fitting) == node.process


@pytest.mark.parametrize("write", ["array[0] = 1", "array *= 2", "array.sort()"])
def test_a_write_to_an_array_that_was_received_is_told_what_to_do_instead(write: str) -> None:
    array = np.zeros(2)
    array.flags.writeable = False
    with pytest.raises(ValueError, match="read-only") as caught:
        exec(write, {"array": array})
    assert summary(caught.value).endswith("write to a copy, or to a self.loan")
    assert "self.loan" not in summary(ValueError("no number"))


@pytest.mark.parametrize("has_terminal", [False, True])
def test_a_breakpoint_without_a_terminal_is_told_where_it_stops(
    monkeypatch: pytest.MonkeyPatch, *, has_terminal: bool
) -> None:
    monkeypatch.setattr(os, "isatty", lambda _: has_terminal)
    said = summary(BdbQuit())
    assert said.startswith("bdb.BdbQuit")
    assert ("use the executor 'inline'" in said) is not has_terminal
