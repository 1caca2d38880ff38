"""What nodes print: never lost by reading late, never in a node's way, never a danger to a log."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

import remotemedia as rm
from remotemedia.core.multiprocess.process_manager import ProcessManager
from remotemedia.core.multiprocess.stdio import (
    LOG_BURST_BYTES,
    MAX_LINE_BYTES,
    TAIL_BYTES,
    TAIL_LINES,
    LineSplitter,
    PipeReader,
    render,
)
from tests.executor_helpers import running, texts, wait_until
from tests.process_helpers import Reports, python

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

pytestmark = pytest.mark.anyio

LOGGER = logging.getLogger("remotemedia.node.node")


class Prints(rm.Node):
    def process(self, text: rm.Text) -> rm.Text:
        print("printed", text.text)  # noqa: T201
        return text


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Records(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def lines(self) -> list[str]:
        return [record.getMessage() for record in self.records]


@pytest.fixture
def log() -> Iterator[Records]:
    handler = Records()
    level = LOGGER.level
    LOGGER.setLevel(logging.INFO)
    LOGGER.addHandler(handler)
    yield handler
    LOGGER.removeHandler(handler)
    LOGGER.setLevel(level)


@pytest.fixture
async def manager() -> AsyncIterator[ProcessManager]:
    async with ProcessManager() as made:
        yield made


def split(*chunks: bytes) -> list[bytes]:
    splitter = LineSplitter()
    return [line for chunk in chunks for line in splitter.feed(chunk)] + splitter.flush()


# Lines.


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"plain\ttext", "plain\ttext"),
        ("gr\u00fc\u00df \U0001f600".encode(), "gr\u00fc\u00df \U0001f600"),
        (b"\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        (b"\x1b]0;title\x07", r"\x1b]0;title\x07"),
        (b"caf\xe9 \xff", r"caf\xe9 \xff"),
        (b"\x00\x08\x7f", r"\x00\x08\x7f"),
        ("\u009b1m \u202edesrever \u2028".encode(), r"\x9b1m \u202edesrever \u2028"),
        (b"x" * (MAX_LINE_BYTES + 1), "x" * MAX_LINE_BYTES + " [truncated]"),
    ],
)
def test_a_line_cannot_command_a_terminal_or_forge_another_line(line: bytes, text: str) -> None:
    assert render(line) == text


def test_lines_end_with_newlines_or_carriage_returns_and_empty_ones_are_left_out() -> None:
    assert split(b"one\r\ntwo\n\n 10%\r 20%\rend") == [b"one", b"two", b" 10%", b" 20%", b"end"]


@given(st.lists(st.binary(max_size=20)))
def test_lines_do_not_depend_on_how_their_bytes_arrive(chunks: list[bytes]) -> None:
    assert split(*chunks) == split(b"".join(chunks))


def test_a_line_without_an_end_is_given_out_once_and_its_rest_skipped() -> None:
    splitter = LineSplitter()
    assert splitter.feed(b"x" * MAX_LINE_BYTES) == []
    assert len(splitter.feed(b"y")) == 1
    assert splitter.feed(b"z" * 10_000_000) == []
    assert splitter.feed(b"still it\nnext\n") == [b"next"]
    assert splitter.flush() == []


# Pipes.


async def test_a_flood_is_counted_and_left_out_of_the_log_but_its_tail_is_kept(
    log: Records,
) -> None:
    reader, writer = os.pipe()
    pipe = PipeReader(reader, LOGGER, logging.INFO)
    lines = [b"%06d" % number + b"." * 93 for number in range(20_000)]
    for start in range(0, len(lines), 500):  # 50 KB: what a pipe holds
        os.write(writer, b"\n".join(lines[start : start + 500]) + b"\n")
        pipe.drain()
    os.close(writer)
    pipe.close()
    logged = [line for line in log.lines if "left out" not in line]
    left_out = [int(line.split()[0]) for line in log.lines if "left out" in line]
    assert LOG_BURST_BYTES // 250 < len(logged) < len(lines)
    assert len(logged) + sum(left_out) == len(lines)
    assert pipe.tail.encode() == b"\n".join(lines[-TAIL_LINES:])


async def test_the_tail_is_bounded_in_bytes_too() -> None:
    reader, writer = os.pipe()
    pipe = PipeReader(reader, LOGGER, logging.INFO)
    for letter in (b"a", b"b", b"c"):
        os.write(writer, letter * 30_000 + b"\n")
        pipe.drain()
    os.close(writer)
    pipe.close()
    assert len(pipe.tail) <= TAIL_BYTES
    assert [line[0] for line in pipe.tail.splitlines()] == ["a", "b", "c"]


async def test_closing_a_pipe_that_is_still_written_to_returns(log: Records) -> None:
    reader, writer = os.pipe()
    pipe = PipeReader(reader, LOGGER, logging.INFO)
    os.write(writer, b"begun")
    pipe.close()
    pipe.close()
    assert log.lines == ["begun"]
    with pytest.raises(BrokenPipeError):
        os.write(writer, b"more")
    os.close(writer)


# Nodes.


async def test_output_is_logged_under_the_name_of_its_node_by_the_time_it_is_gone(
    manager: ProcessManager, log: Records
) -> None:
    code = "import os; os.write(1, b'said\\n'); os.write(2, b'warned\\nhalf'); os._exit(1)"
    handle = await manager.spawn_node(python(code))
    await handle.wait_gone()
    told = sorted((record.levelname, record.getMessage()) for record in log.records)
    assert told == [("INFO", "said"), ("WARNING", "half"), ("WARNING", "warned")]
    assert {vars(record)["session_id"] for record in log.records} == {"session"}


async def test_what_a_node_said_last_is_known_when_its_exit_is(manager: ProcessManager) -> None:
    code = "import os; os.write(2, b'x\\n' * 20_000 + b'the cause\\n'); os.abort()"
    handle = await manager.spawn_node(python(code))
    await handle.wait()
    assert handle.stderr_tail.splitlines()[-1] == "the cause"


@pytest.mark.parametrize("end", ["''", "'\\n'"])
async def test_a_node_that_prints_10_mib_is_not_blocked(
    manager: ProcessManager, log: Records, end: str
) -> None:
    handle = await manager.spawn_node(python(f"print(('x' * 1023 + {end}) * 10240)"))
    assert (await handle.wait()).code == 0
    await handle.wait_gone()
    assert sum(map(len, log.lines)) < 2 * LOG_BURST_BYTES


async def test_an_exit_is_known_although_a_descendant_keeps_writing_to_the_pipe(
    manager: ProcessManager,
) -> None:
    code = """
import os
if os.fork() == 0:
    os.setsid()
    while True:
        os.write(2, b"again and again\\n")
os.write(2, b"last words\\n")
os._exit(3)
"""
    handle = await manager.spawn_node(python(code))
    assert (await handle.wait()).code == 3
    await handle.wait_gone()


async def test_a_log_handler_that_raises_does_not_hide_an_exit(
    manager: ProcessManager, log: Records
) -> None:
    def fail(record: logging.LogRecord) -> bool:
        raise RuntimeError(record.getMessage())

    LOGGER.addFilter(fail)
    seen: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: seen.append(str(context.get("exception"))))
    try:
        async with Reports() as reports:
            code = "import os; os.write(2, b'text\\n'); os.write(3, b'done\\n'); os._exit(3)"
            handle = await manager.spawn_node(python(code, fds=reports.fds))
            assert (await handle.wait()).code == 3
            await handle.wait_gone()
    finally:
        LOGGER.removeFilter(fail)
        loop.set_exception_handler(None)
    assert seen == ["text"]


# What is seen of it without a logging configuration: in a program of its own, as pytest has one.

PRINTS = """
import asyncio, logging, sys
import remotemedia as rm

class Talker(rm.Node):
    def process(self, text: rm.Text) -> rm.Text:
        print("said", text.text)
        print("warned", file=sys.stderr)
        return text

async def main():
    async with rm.Runtime() as runtime, runtime.session(rm.Pipeline().add_node("t", Talker)) as s:
        assert [out.text async for out in s.stream(rm.Text("a"))] == ["a"]

if __name__ == "__main__":
    SETUP
    asyncio.run(main())
"""
NODE = "logging.getLogger('remotemedia.node')"


@pytest.mark.parametrize(
    ("setup", "lines"),
    [
        ("pass", ["t | said a", "t | warned"]),
        (
            "logging.basicConfig(level='INFO', format='%(name)s: %(message)s')",
            ["T: said a", "T: warned"],
        ),
        ("logging.basicConfig(format='%(name)s: %(message)s')", ["T: warned"]),
        ("logging.getLogger().addHandler(logging.NullHandler())", []),
        (NODE + ".setLevel('WARNING')", ["t | warned"]),
        (NODE + ".disabled = True", ["t | said a", "t | warned"]),  # as in logging: not inherited
        ("logging.getLogger('remotemedia.node.t').disabled = True", []),
        ("logging.disable(logging.INFO)", ["t | warned"]),
        ("logging.lastResort = None", []),
    ],
)
def test_what_a_node_prints_is_seen_once_and_a_logging_configuration_decides(
    setup: str, lines: list[str], tmp_path: Path
) -> None:
    script = tmp_path / "prints.py"
    script.write_text(PRINTS.replace("SETUP", setup))
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == ""
    seen = done.stderr.replace("remotemedia.node.t:", "T:").splitlines()
    assert sorted(seen) == sorted(lines)


async def test_what_a_node_prints_leaves_when_it_is_printed(log: Records) -> None:
    async with running(rm.NodeConfig(Prints, "node")) as session:
        assert await texts(session, "now") == ["now"]
        await wait_until(lambda: "printed now" in log.lines)
