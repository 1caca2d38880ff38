"""Where `run` shows how it goes: a live view on a terminal, else lines; always standard error."""

from __future__ import annotations

import errno
import logging
import sys
import time
from typing import TYPE_CHECKING, Protocol, TypeVar

from rich.console import Console
from rich.live import Live
from rich.text import Text

from remotemedia.cli.failure import UNREADABLE, Failure
from remotemedia.cli.streams import give_up
from remotemedia.cli.tables import live_view, summary
from remotemedia.cli.wording import duration_text, plural, progress_text
from remotemedia.core.multiprocess import events

if TYPE_CHECKING:
    from types import TracebackType

    from remotemedia.cli.watch import Watch

__all__ = ["LineScreen", "LiveScreen", "NodeLog", "QuietScreen", "Screen", "open_screen"]

LINE_EVERY_SECONDS = 10.0
PROGRESS_STEP = 0.1
MIN_WIDTH = 100
BURST_SECONDS = 0.05
NODE_LOGGER = "remotemedia.node."
MAX_LINE_ROWS = 3
"""Of a terminal, for a line that a node has printed: it may be thousands of characters."""

Self = TypeVar("Self", bound="QuietScreen")


class Screen(Protocol):
    """Shows how a session goes, and prints what comes out of it."""

    def __enter__(self) -> Screen:
        """Begin."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Show nothing more; messages may still be written."""

    def hear(self, watch: Watch, event: events.Event) -> None:
        """Something happened, and `watch` knows."""

    def refresh(self, watch: Watch) -> None:
        """Show the present; called a few times a second."""

    def note(self, text: str, style: str = "") -> None:
        """Tell the user something."""

    def node_line(self, node_id: str, text: str) -> None:
        """Show a line that a node has printed."""

    def write(self, line: str) -> None:
        """Print a line on standard output.

        Raises:
            BrokenPipeError: who reads it has gone.
            Failure: it cannot be written.
        """

    def show_summary(self, watch: Watch) -> None:
        """Show the summary of a session that has ended."""


def open_screen(*, is_quiet: bool, may_be_live: bool) -> Screen:
    """Choose the screen that fits where standard error leads.

    Args:
        is_quiet: show nothing but warnings.
        may_be_live: whether nobody else writes to the terminal, as one who types does.
    """
    if is_quiet:
        return QuietScreen()
    lines = LineScreen()
    # A dumb terminal cannot move its cursor: nothing can be shown in place.
    is_live = may_be_live and sys.stderr.isatty() and not lines.console.is_dumb_terminal
    return LiveScreen() if is_live else lines


class _Console(Console):
    """A console that says when its reader has gone, where rich's ends the program."""

    def on_broken_pipe(self) -> None:
        """See rich's."""
        raise BrokenPipeError(errno.EPIPE, "who reads standard error has gone")


class QuietScreen:
    """Shows only what went wrong."""

    def __init__(self) -> None:
        self.console: Console = _Console(stderr=True, highlight=False, soft_wrap=True)

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return

    def hear(self, watch: Watch, event: events.Event) -> None:  # noqa: ARG002 (others show it)
        """See `Screen.hear`."""
        match event:
            case events.NodeError():
                what = f"skipped a message of input {event.correlation_id}: {event.error}"
                self.note(f"{event.node_id}: {what}", "yellow")
            case events.NodeRestarting():
                pause = duration_text(event.delay_seconds)
                self.note(f"{event.cause}; it is restarted after {pause}", "yellow")

    def refresh(self, watch: Watch) -> None:
        """See `Screen.refresh`."""

    def note(self, text: str, style: str = "") -> None:
        """See `Screen.note`; only warnings have a style."""
        if style:
            self.console.print(Text(text, style=style))

    def node_line(self, node_id: str, text: str) -> None:
        """See `Screen.node_line`."""

    def write(self, line: str) -> None:
        """See `Screen.write`."""
        try:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
        except OSError as error:
            give_up(sys.stdout)
            if isinstance(error, BrokenPipeError):
                raise
            problem = f"standard output cannot be written: {error.strerror}"
            raise Failure(problem, UNREADABLE) from error

    def show_summary(self, watch: Watch) -> None:
        """See `Screen.show_summary`."""


class LineScreen(QuietScreen):
    """Shows a line for what happens, and one every ten seconds while nothing does."""

    def __init__(self) -> None:
        super().__init__()
        self._shown: dict[str, tuple[str, float]] = {}
        self._next_line = LINE_EVERY_SECONDS

    def hear(self, watch: Watch, event: events.Event) -> None:
        """See `Screen.hear`."""
        match event:
            case events.NodeProgress():
                phase, fraction = self._shown.get(event.node_id, ("", 0.0))
                is_news = event.phase != phase or event.fraction - fraction >= PROGRESS_STEP
                if is_news and (event.fraction or event.message):
                    self._shown[event.node_id] = event.phase, event.fraction
                    text = progress_text(event.phase, event.fraction, event.message)
                    self.note(f"{event.node_id}: {text}")
            case events.SessionReady():
                count = plural(len(watch.nodes), "node")
                self.note(f"{watch.pipeline.name}: {count} ready in {duration_text(event.seconds)}")
            case _:
                super().hear(watch, event)

    def refresh(self, watch: Watch) -> None:
        """See `Screen.refresh`."""
        running = time.monotonic() - watch.started_at
        if running < self._next_line:
            return
        self._next_line = running + LINE_EVERY_SECONDS
        if watch.ready_at is None:
            late = [one for one in watch.nodes.values() if one.ready_seconds is None]
            state = "starting: " + ", ".join(f"{one.node_id} is {one.phase}" for one in late)
        else:
            connections = watch.connections()
            queued = sum(one.queued for one in connections)
            dropped = sum(sum(one.dropped.values()) for one in connections)
            state = f"in {watch.sent:,}, out {watch.received:,}, queued {queued:,}"
            state += f", dropped {dropped:,}"
        self.note(f"{watch.pipeline.name}: {duration_text(running)}, {state}")

    def note(self, text: str, style: str = "") -> None:
        """See `Screen.note`."""
        self.console.print(Text(text, style=style))

    def node_line(self, node_id: str, text: str) -> None:
        """See `Screen.node_line`."""
        self.console.print(self._node_text(node_id, text))

    def _node_text(self, node_id: str, text: str) -> Text:
        head, mark = f"{node_id} | ", ""
        room = MAX_LINE_ROWS * self.console.width - len(head)
        if self.console.is_terminal and len(text) > room:
            kept = max(0, room - len(_cut_mark(len(text))))
            text, mark = text[:kept], _cut_mark(len(text) - kept)
        return Text.assemble((head, "dim"), text, (mark, "dim"))

    def show_summary(self, watch: Watch) -> None:
        """See `Screen.show_summary`."""
        if not self.console.is_terminal:
            self.console.width = max(MIN_WIDTH, self.console.width)
        self.console.print(summary(watch), soft_wrap=False)


def _cut_mark(count: int) -> str:
    return f" [{count:,} more characters]"


class LiveScreen(LineScreen):
    """Shows nodes and connections in place, and what is printed above them."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: list[Text] = []
        self._printed_at = 0.0
        self._live = Live(
            console=self.console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> LiveScreen:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._print_waiting()
        # It draws all of the view once more, also what is higher than the screen, where what has
        # scrolled out cannot be erased: so of nothing.
        self._live.update(Text())
        self._live.stop()

    def hear(self, watch: Watch, event: events.Event) -> None:
        """See `Screen.hear`."""
        if isinstance(event, events.NodeError | events.NodeRestarting):
            super().hear(watch, event)

    def refresh(self, watch: Watch) -> None:
        """See `Screen.refresh`."""
        self._print_waiting()
        self._live.update(live_view(watch, self.console.size), refresh=True)

    def note(self, text: str, style: str = "") -> None:
        """See `Screen.note`."""
        self._print(Text(text, style=style))

    def node_line(self, node_id: str, text: str) -> None:
        """See `Screen.node_line`."""
        self._print(self._node_text(node_id, text))

    def write(self, line: str) -> None:
        """See `Screen.write`."""
        if sys.stdout.isatty():
            self._print(Text(line))  # else it would be written into the middle of the view
        else:
            super().write(line)

    def _print(self, text: Text) -> None:
        """Print above the view: at once, or with the next refresh where much comes in a row.

        The whole view is drawn again for it, which takes milliseconds.
        """
        self._waiting.append(text)
        if time.monotonic() - self._printed_at > BURST_SECONDS:
            self._print_waiting()

    def _print_waiting(self) -> None:
        if self._waiting:
            self.console.print(Text("\n").join(self._waiting))
            self._waiting.clear()
            self._printed_at = time.monotonic()


class NodeLog(logging.Handler):
    """Sends what nodes print, and what the library logs, to a screen.

    As a context manager it is in place for the length of a block.
    """

    def __init__(self, screen: Screen) -> None:
        super().__init__()
        self._screen = screen
        self._logger = logging.getLogger("remotemedia")

    def emit(self, record: logging.LogRecord) -> None:
        """Show a record."""
        if record.name.startswith(NODE_LOGGER):
            self._screen.node_line(record.name.removeprefix(NODE_LOGGER), record.getMessage())
        # That a file takes longer to work off than to read is what the view shows anyway.
        elif record.levelno >= logging.WARNING and not hasattr(record, "is_slow_drain"):
            self._screen.note(record.getMessage(), "yellow")

    def __enter__(self) -> NodeLog:
        self._before = self._logger.level, self._logger.propagate
        self._logger.setLevel(logging.INFO)
        self._logger.propagate = False
        self._logger.addHandler(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._logger.removeHandler(self)
        level, self._logger.propagate = self._before
        self._logger.setLevel(level)
