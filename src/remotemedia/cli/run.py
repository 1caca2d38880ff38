"""`remotemedia run`: one pipeline, from an input to its outputs."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from remotemedia.cli import ending_at_once
from remotemedia.cli.failure import FAILED, INVALID, Failure, explained
from remotemedia.cli.installed import not_installed
from remotemedia.cli.loading import load, settings_option
from remotemedia.cli.wording import json_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from remotemedia.cli.job import Feed, Job
    from remotemedia.cli.screen import Screen
    from remotemedia.cli.sinks import Sink
    from remotemedia.cli.sources import Source
    from remotemedia.core.validation import ValidatedPipeline

__all__ = ["run"]


@click.command(short_help="Run a pipeline, from an input to its outputs.")
@click.argument("file")
@click.option(
    "-i",
    "--input",
    "input_",
    metavar="INPUT",
    help="A sound file (WAV, FLAC, OGG, MP3), a .txt, .md or .jsonl file, whose lines are sent one "
    "by one, a .json file, - for the lines of standard input, or mic.",
)
@click.option("--text", help="Send this text, instead of --input.")
@click.option("--to", metavar="NODE[.PORT]", help="The input it goes to, where several take it.")
@click.option(
    "-o",
    "--output",
    "outputs",
    multiple=True,
    metavar="OUTPUT",
    help="A sound file for sound, a .txt, .md or .jsonl file, - for standard output, or speaker. "
    "May be given several times. [default: -]",
)
@click.option("--realtime", is_flag=True, help="Send sound no faster than it would be recorded.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Send no more than this much sound. [default: all]",
)
@settings_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines, the summary among them.")
@click.option("-q", "--quiet", is_flag=True, help="Show nothing but what went wrong.")
@click.option("--traceback", is_flag=True, help="Show the whole traceback of a node that failed.")
@click.option(
    "--start-timeout",
    "start_seconds",
    type=click.FloatRange(0.001, 86_400),
    default=120.0,
    show_default=True,
    metavar="SECONDS",
    help="How long the nodes may take to get ready.",
)
def run(
    file: str,
    input_: str | None,
    text: str | None,
    to: str | None,
    outputs: tuple[str, ...],
    realtime: bool,
    seconds: float | None,
    settings: tuple[str, ...],
    as_json: bool,
    quiet: bool,
    traceback: bool,
    start_seconds: float,
) -> None:
    """Run the pipeline FILE: send it an input, and write what comes out.

    What comes out goes to standard output or files; how it goes is shown on standard error, live
    on a terminal. Ctrl-C ends the input and waits for what is under way; a second one ends all.

    \b
    Exit codes:
      0    it ran to its end
      1    the pipeline failed, or what it needs is not installed
      2    the command line or the pipeline file is wrong; nothing was started
      3    an input could not be read, or an output not be written
      130  it was interrupted by Ctrl-C (143: by SIGTERM)
      141  who read its standard output has gone
    """  # noqa: D301 - a mark of click's
    with ending_at_once(), _told_as_json(as_json):
        if input_ is not None and text is not None:
            raise Failure("--input and --text cannot both be given", INVALID)
        pipeline = load(file, settings)
        _require_installed(pipeline)
        # Nothing above needs these, and `--help` should not wait for them.
        from remotemedia.cli.job import Feed, Job
        from remotemedia.cli.screen import open_screen
        from remotemedia.cli.sinks import open_sinks
        from remotemedia.cli.sources import open_source, pick_input

        source = open_source(input_, text)
        if source is None and pipeline.inputs:
            takes = "; ".join(f"{o} takes {' or '.join(o.port.kinds)}" for o in pipeline.inputs)
            raise Failure(
                f"it needs an input: {takes}; give --input (- reads standard input) or --text",
                INVALID,
            )
        feed = None
        if source is not None:
            port, kind = pick_input(pipeline, source, to)
            feed = Feed(source, port, kind, realtime, seconds)
        if feed is None or feed.kind != "Audio":
            _require_no_pace(feed, realtime=realtime, seconds=seconds)
        is_typed = input_ == "-" and sys.stdin.isatty()
        screen = open_screen(is_quiet=quiet, may_be_live=not is_typed)
        path = Path(input_) if input_ not in (None, "-", "mic") else None
        sinks = open_sinks(outputs or ("-",), pipeline, screen.write, as_json=as_json, source=path)
        job = Job(pipeline, feed, sinks, screen, start_seconds=start_seconds)
    code = _run(job, screen, source, sinks, as_json=as_json, with_traceback=traceback)
    click.get_current_context().exit(code)


def _require_installed(pipeline: ValidatedPipeline) -> None:
    """Say all that is lacking at once, and not one by one as nodes fail to start."""
    lacking = [str(finding) for finding in not_installed(pipeline)]
    if lacking:
        raise Failure("\n  ".join(("nothing was started:", *lacking)), FAILED)


def _require_no_pace(feed: Feed | None, *, realtime: bool, seconds: float | None) -> None:
    """Only sound has a time of its own."""
    given = [*(["--realtime"] if realtime else []), *(["--seconds"] if seconds else [])]
    if given:
        sent = "nothing is sent" if feed is None else f"{feed.source.name} is sent as {feed.kind}"
        raise Failure(f"{' and '.join(given)} can be given for sound only, and {sent}", INVALID)


@contextmanager
def _told_as_json(as_json: bool) -> Iterator[None]:
    """Say on standard output as well why nothing is started."""
    try:
        yield
    except Failure as error:
        if as_json:
            click.echo(_error_line(error))
        raise


def _error_line(failure: Failure) -> str:
    about = {"type": "error", "error": failure.message, "exit_code": failure.exit_code}
    return json_text(about)


def _run(
    job: Job,
    screen: Screen,
    source: Source | None,
    sinks: Sequence[Sink],
    *,
    as_json: bool,
    with_traceback: bool,
) -> int:
    import asyncio

    from remotemedia.cli.screen import NodeLog
    from remotemedia.errors import RemoteMediaError

    failure: Failure | None = None
    try:
        with screen, NodeLog(screen):
            if source is not None and source.warning:
                screen.note(f"warning: {source.warning}", "yellow")
            asyncio.run(job.run())
    except Failure as error:
        failure = error
    except RemoteMediaError as error:
        failure = Failure(explained(error, with_traceback=with_traceback), FAILED)
    finally:
        if source is not None:
            source.close()
        ends, late = _close(sinks)
    failure = failure or late
    try:
        _report(job, screen, ends, failure, as_json=as_json)
    except BrokenPipeError:
        if failure is None:
            raise
        return failure.exit_code
    if failure is not None:
        raise failure
    return 0 if job.ended_by is None else 128 + job.ended_by


def _close(sinks: Sequence[Sink]) -> tuple[list[str], Failure | None]:
    """Finish all outputs; return what became of them, and the last that failed."""
    ends, failure = [], None
    for sink in sinks:
        try:
            ends.append(sink.close())
        except Failure as error:
            failure = error
    return ends, failure


def _report(
    job: Job, screen: Screen, ends: Sequence[str], failure: Failure | None, *, as_json: bool
) -> None:
    from remotemedia.cli.tables import as_data

    if job.watch.ready_at is not None:
        screen.show_summary(job.watch)
        for end in filter(None, ends):
            screen.note(end)
        for kind, count in job.unclaimed.items():
            screen.note(
                f"{count:,} {kind} came out that no --output takes; -o - shows it", "yellow"
            )
        if failure is None and not job.watch.received and job.watch.pipeline.outputs:
            screen.note("nothing came out", "yellow")
    if as_json:
        if failure is not None:
            screen.write(_error_line(failure))
        screen.write(json_text(as_data(job.watch)))
