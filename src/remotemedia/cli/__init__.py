"""The command `remotemedia`: one file per subcommand, and what they share.

It takes the extra `cli`. Modules here import at their top only what every command needs; a command
that runs pipelines imports the rest where it does.
"""

from __future__ import annotations

import sys

__all__ = ["main"]

NEEDED = ("click", "rich")


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        sys.exit(_run())
    except KeyboardInterrupt:  # before there is anything to bring to an end
        sys.exit(130)


def _run() -> int:
    try:
        import click  # noqa: F401
        import rich  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name not in NEEDED:
            raise
        sys.stderr.write(
            f"error: the command line needs {error.name}, which is not installed: run "
            f"pip install 'remotemedia[cli]'\n"
        )
        return 2
    from remotemedia.cli.app import run_app

    return run_app()
