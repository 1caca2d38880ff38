"""Entry point of a node's process; see the contract of `MultiprocessExecutor`.

Run by the executor as `python -m remotemedia.core.multiprocess.runner --node-type T --node-id ID`,
with the control connection as the descriptor that `REMOTEMEDIA_CONTROL_FD` names.
"""

from __future__ import annotations

import atexit
import faulthandler
import io
import os
import socket
import sys
from contextlib import suppress
from typing import NoReturn

CONTROL_VARIABLE = "REMOTEMEDIA_CONTROL_FD"
_BY_HAND = """\
This is the process of one node of a remotemedia pipeline. An executor starts it and tells it by a
control connection what to do; there is none here. To run a pipeline, use one of

    remotemedia run pipeline.yaml
    python your_program.py          (with remotemedia.Runtime in it)
"""


def main() -> NoReturn:
    """Run the node that the executor names, and exit."""
    number = os.environ.pop(CONTROL_VARIABLE, "")
    is_started = number.isdecimal()
    if not is_started or sys.argv[1::2] != ["--node-type", "--node-id"] or len(sys.argv) != 5:
        _parse_arguments(may_be_more=not is_started)
    if not is_started:
        sys.stderr.write(_BY_HAND)
        leave(2)
    faulthandler.enable()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # what a node prints is heard when it does
    try:
        end = socket.socket(fileno=int(number))
    except (OSError, OverflowError, ValueError) as error:  # too large for one, or for a number
        sys.stderr.write(f"{CONTROL_VARIABLE}={number[:20]} is no socket: {error}\n\n{_BY_HAND}")
        leave(2)
    # Imported here: by hand, or with wrong arguments, the answer comes at once.
    try:
        import remotemedia.core.multiprocess.transport.membarrier  # noqa: F401 (before numpy: see there)
        from remotemedia.core.multiprocess.runner.startup import NodeRun
        from remotemedia.core.multiprocess.runner.tracebacks import exit_of
    except ModuleNotFoundError as error:  # another interpreter than the executor's
        needed = f"the module {error.name!r}, which remotemedia needs"
        sys.stderr.write(f"{sys.executable} lacks {needed}: install remotemedia there\n")
        leave(1)
    run = NodeRun(end)
    try:
        code = run.run()
    except SystemExit as error:  # the node's
        code, words = exit_of(error)
        if words is not None:
            with suppress(Exception):  # the node may have closed or replaced it
                sys.stderr.write(f"{words}\n")
    except BaseException:  # the node's too, and no way around `leave`
        import traceback  # here: it is seldom needed, and a start is short

        with suppress(Exception):  # as above
            traceback.print_exc()
        code = 1
    leave(code)  # while `run` is there: what it leaves open stays as it is


def _parse_arguments(may_be_more: bool) -> None:
    """Exit if they ask for help, or an option is missing or unknown.

    Nothing is done with their values: they tell people who list processes which node this is.
    """
    import argparse  # here: with what it imports it takes 5 ms of every start

    parser = argparse.ArgumentParser(
        prog="python -m remotemedia.core.multiprocess.runner",
        description="The process of one node of a remotemedia pipeline, started by an executor.",
    )
    parser.add_argument("--node-type", required=True, help="name of the node type")
    parser.add_argument("--node-id", required=True, help="id of the node in its pipeline")
    if may_be_more:
        parser.parse_known_args()
    else:
        parser.parse_args()


def leave(code: int) -> NoReturn:
    """Exit without taking the interpreter apart, which takes longer than all that came before.

    What must be done has been: the node has cleaned up, its channels are closed. Exit handlers of
    libraries run; threads that a node left behind end here.
    """
    with suppress(BaseException):  # it has been printed, and who exits is exiting
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(BaseException):  # the node may have closed or replaced it
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
