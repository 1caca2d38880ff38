"""What the tests of the executor share: pipelines in a line, and a look at what is left."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import pytest

import remotemedia as rm

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from remotemedia.core.describe import NodeTarget

IS_LONG = os.environ.get("REMOTEMEDIA_FAULTS") == "long"
F = TypeVar("F", bound="Callable[..., object]")


def long_form(test: F) -> F:
    """Mark a test as one of the faults where it runs in its long form."""
    if not IS_LONG:
        return test
    marked: F = pytest.mark.faults(test)
    return marked


def repeated(times: int, *, short: int) -> Callable[[F], F]:
    """Run a test so many times in the long form, which is one of the faults, and a few in CI."""

    def decorate(test: F) -> F:
        each = pytest.mark.parametrize("round_", range(times if IS_LONG else short))
        every: F = each(test)
        return long_form(every)

    return decorate


END_SECONDS = 5.0
"""Within this, nothing of a session is left, however it ended."""


def chain(*types: NodeTarget | rm.NodeConfig, **config: object) -> rm.Pipeline:
    """Return a pipeline of these node types in a row: "n1", "n2", ...; `config` goes to all."""
    pipeline = rm.Pipeline("test")
    names = []
    for number, one in enumerate(types, 1):
        if isinstance(one, rm.NodeConfig):
            pipeline.add_node(one)
            names.append(one.node_id)
        else:
            pipeline.add_node(f"n{number}", one, **config)
            names.append(f"n{number}")
    for source, target in itertools.pairwise(names):
        pipeline.connect(source, target)
    return pipeline


@asynccontextmanager
async def running(
    *types: NodeTarget | rm.NodeConfig | rm.Pipeline, executor: str | None = None, **config: object
) -> AsyncIterator[rm.Session]:
    """Run a chain, or one pipeline, in a runtime of its own."""
    first = types[0]
    pipeline = first if isinstance(first, rm.Pipeline) else chain(*types)  # type: ignore[arg-type]
    settings = rm.MultiprocessConfig(**{"grace_period_seconds": 2.0, **config})  # type: ignore[arg-type]
    async with (
        rm.Runtime(settings) as runtime,
        runtime.session(pipeline, executor=executor) as session,
    ):
        yield session


patient = partial(running, grace_period_seconds=60.0, drain_timeout_seconds=60.0)
"""As `running`; an end that is seen within `END_SECONDS` is none by force."""


async def texts(session: rm.Session, text: str, to: str | None = None) -> list[str]:
    """Send a text and return the texts that come of it."""
    return [text_of(output) async for output in session.stream(rm.Text(text), to)]


def text_of(message: object) -> str:
    """Return the text of a text message."""
    assert isinstance(message, rm.Text)
    return message.text


def value_of(message: object) -> object:
    """Return the value of a JSON message, as ordinary Python."""
    assert isinstance(message, rm.Json)
    return message.value


def is_dead(pid: int) -> bool:
    """Tell whether a process is gone for good: neither alive nor waiting to be reaped."""
    return not os.path.exists(f"/proc/{pid}")


async def wait_until(
    condition: Callable[[], bool], seconds: float = END_SECONDS, about: str = ""
) -> None:
    """Wait for something that nobody announces."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"it did not happen in time\n{about}"
        await asyncio.sleep(0.005)


async def cause_of(work: Awaitable[object]) -> rm.ExecutorError:
    """Return why a session was terminated, as one who waits in it is told."""
    with pytest.raises(rm.PipelineTerminated) as caught:
        await work
    cause = caught.value.__cause__
    assert isinstance(cause, rm.ExecutorError)
    return cause
