"""All commands under one name."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress

import click

from remotemedia.cli import INTERRUPTED
from remotemedia.cli.doctor import doctor
from remotemedia.cli.failure import INVALID, READER_GONE, UNREADABLE
from remotemedia.cli.graph import graph
from remotemedia.cli.installed import version_of
from remotemedia.cli.new import new
from remotemedia.cli.nodes import nodes
from remotemedia.cli.run import run
from remotemedia.cli.streams import give_up
from remotemedia.cli.validate import validate

__all__ = ["app", "run_app"]

UNKNOWN = "of unknown version: found by PYTHONPATH, not installed"


class _App(click.Group):
    """Ends by one exit code when who reads its output has gone, where click ends with 1."""

    def invoke(self, ctx: click.Context) -> object:
        """See click's."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            give_up(sys.stdout)
            return READER_GONE


@click.group(cls=_App, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version_of("remotemedia") or UNKNOWN, message="%(prog)s %(version)s")
def app() -> None:
    """Pipelines of real-time media and AI nodes, each node a process of its own."""


for command in (run, validate, graph, nodes, doctor, new):
    app.add_command(command)


def run_app() -> int:
    """Run the command that the arguments name, and return the exit code."""
    try:
        code = app.main(prog_name="remotemedia", standalone_mode=False)
    except click.ClickException as error:
        with suppress(BrokenPipeError):  # nobody sees it, and the exit code says it
            error.show()
        return error.exit_code
    except OSError as error:
        if _is_nowhere():
            click.echo("error: the working folder no longer exists; go to another", err=True)
            return INVALID
        if error.errno not in (errno.ENOSPC, errno.EBADF):  # a full disk, a closed output
            raise
        give_up(sys.stdout)
        click.echo(f"error: the output cannot be written: {error.strerror}", err=True)
        return UNREADABLE
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    return code if isinstance(code, int) else 0


def _is_nowhere() -> bool:
    """Whether the working folder was removed: relative paths lead nowhere then."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False
