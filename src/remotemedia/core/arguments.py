"""Arguments that are not what they are taken for: said at once, by name, with what to write."""

from __future__ import annotations

import asyncio

from remotemedia.core.multiprocess.config import MultiprocessConfig
from remotemedia.core.pipeline import Pipeline
from remotemedia.core.validated import ValidatedPipeline
from remotemedia.data import Message
from remotemedia.data.message import shown
from remotemedia.errors import ExecutorError

__all__ = [
    "check_config",
    "check_input",
    "check_pipeline",
    "name_taken",
    "require_asyncio",
    "require_loop",
]


def check_pipeline(pipeline: object, session_id: object = None) -> None:
    """Raise `TypeError` unless it is a pipeline."""
    if isinstance(pipeline, Pipeline | ValidatedPipeline):
        return
    if isinstance(session_id, Pipeline | ValidatedPipeline):
        hint = "the other way round: create_session(name, pipeline), session(pipeline, name)"
    elif isinstance(pipeline, str):
        hint = f"load a file first: load_pipeline({pipeline!r})"
    else:
        hint = 'make one: Pipeline().add_node("id", NodeType)'
    raise TypeError(f"{shown(pipeline)} is no pipeline; {hint}")


def check_config(config: object) -> None:
    """Raise `TypeError` unless it is a `MultiprocessConfig`, or None."""
    if config is not None and not isinstance(config, MultiprocessConfig):
        raise TypeError(
            f"config is {shown(config)}; it must be a MultiprocessConfig, such as "
            f"MultiprocessConfig(channel_capacity=8)"
        )


def check_input(to: object) -> None:
    """Raise `TypeError` unless it is the name of an input, or None."""
    if to is None or isinstance(to, str):
        return
    is_swapped = isinstance(to, Message)
    hint = "message and input are swapped" if is_swapped else "it must be a str"
    raise TypeError(f"the input is {shown(to)}; {hint}: send(message, to), stream(message, to)")


def name_taken(session_id: str) -> ExecutorError:
    """Say that another session has this name."""
    return ExecutorError(
        f"there is a session {session_id!r} already; end it first, or choose another name"
    )


def require_loop(loop: asyncio.AbstractEventLoop | None, what: str) -> None:
    """Raise `ExecutorError` unless this is the event loop that something belongs to.

    Args:
        loop: the one that it belongs to; None, if to none yet.
        what: in a few words.
    """
    require_asyncio()
    if loop is not None and loop is not asyncio.get_running_loop():
        state = "which has ended" if loop.is_closed() else "which is another"
        raise ExecutorError(
            f"{what} belongs to the event loop that it was started in, {state}: use it there, or "
            f"SyncRuntime, which is for all threads"
        )


def require_asyncio() -> None:
    """Raise `ExecutorError` unless an asyncio event loop runs here."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise ExecutorError(
            "no asyncio event loop runs here: start with asyncio.run(...); under another library, "
            "such as trio, use SyncRuntime in a thread"
        ) from None
