"""What users write: a node and its hooks.

    class Upper(Node):
        def process(self, text: Text) -> Text:
            return Text(text.text.upper())

Parameters are the keyword arguments of `__init__`. `process` may return one message, None or an
iterable, be a generator, or be async or an async generator; what is yielded leaves at once.

More ports: an `Output` per output and a method marked with `@input` per input.

    class Duck(Node):
        music = Output(Audio)
        level = Output(Json, capacity=1)

        @input
        def on_music(self, audio: Audio) -> Iterator[Addressed]:
            yield self.music(audio)
            yield self.level(Json({"rms": 0.1}))

        @input(capacity=8)
        def on_voice(self, audio: Audio) -> None: ...

A `process` that takes no message is a source: it is called once, and what it yields leaves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

from remotemedia.core.annotations import remember_local_names

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from contextlib import AbstractContextManager

__all__ = ["Node", "NodeRuntime"]

T = TypeVar("T")


class NodeRuntime(Protocol):
    """What a node can ask of the process that runs it; bound by the runner or a test helper."""

    @property
    def node_id(self) -> str:
        """Id of the node in its pipeline."""
        ...

    @property
    def session_id(self) -> str:
        """Id of the session that the node belongs to."""
        ...

    def progress(self, fraction: float, message: str) -> None:
        """See `Node.progress`."""
        ...

    def queued(self) -> int:
        """See `Node.queued`."""
        ...

    def loan(self, kind: type[T], port: str, shape: dict[str, object]) -> AbstractContextManager[T]:
        """See `Node.loan`; `shape` holds its keyword arguments."""
        ...


class Node:
    """Base of nodes that are classes: subclass it and write `process`.

    One instance lives in a process of its own. Its methods are never called at the same time,
    except that an async node may be interrupted at an `await`. It is async if any handler or hook
    is: then everything runs on one event loop, else on the main thread with no loop at all.
    """

    _runtime: NodeRuntime | None = None

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        remember_local_names(cls)

    def initialize(self) -> Awaitable[None] | None:
        """Load what is heavy, before the first message; raise to say that it cannot be done.

        Import heavy libraries here and not at the top of the module, which the process that
        checks the pipeline imports too.
        """
        return None

    def finish(self) -> object:
        """Emit what is left when no message will come any more, in the ways `process` may."""
        return None

    def interrupt(self) -> Awaitable[None] | None:
        """Drop what was being made: the listener has begun to speak, or nobody waits for it."""
        return None

    def cleanup(self) -> Awaitable[None] | None:
        """Give back what `initialize` took; called once at the end, also after a failure."""
        return None

    def progress(self, fraction: float, message: str = "") -> None:
        """Report how far loading is, or work that takes its time.

        Args:
            fraction: 0.0 to 1.0 of the work of `initialize`, or of what a handler does.
            message: what is being done, in a few words.

        Raises:
            RuntimeError: the node does not run in a session.
        """
        self._bound_runtime("progress()").progress(fraction, message)

    def queued(self) -> int:
        """Return how many messages wait at the inputs: more than none, and the node is behind.

        For a node that can leave out what is not worth its time when others wait.

        Raises:
            RuntimeError: the node does not run in a session.
        """
        return self._bound_runtime("queued()").queued()

    def loan(
        self, kind: type[T], /, *, port: str = "out", **shape: object
    ) -> AbstractContextManager[T]:
        """Lend a message in shared memory, to be filled in place and sent without a copy.

            with self.loan(Audio, frames=480, channels=1, sample_rate=16000) as audio:
                audio.samples[:] = ...

        The message is sent when the block ends, and given back unsent if the block raises; after
        either, using it raises `LoanError`.

        Args:
            kind: the message type.
            port: the output port that it leaves by.
            **shape: what the type needs to know its size: frames, channels and sample_rate for
                `Audio`, height, width and format for `Video`, shape and dtype for `Tensor`, nbytes
                for `Binary`.

        Raises:
            RuntimeError: the node does not run in a session.
            TypeError: there is no such port, or it sends no such messages; no port is open before
                `initialize` has returned.
            DataError: the type cannot be lent, or not in this size.
            LoanError: too many loans are out.
            SharedMemoryExhausted: there is no memory for it.
            ChannelClosed: the session is ending.
        """
        return self._bound_runtime("loan()").loan(kind, port, shape)

    @property
    def node_id(self) -> str:
        """Id of this node in its pipeline; RuntimeError outside of a session."""
        return self._bound_runtime("node_id").node_id

    @property
    def session_id(self) -> str:
        """Id of the session that this node runs in; RuntimeError outside of one."""
        return self._bound_runtime("session_id").session_id

    def bind(self, runtime: NodeRuntime) -> None:
        """Tie the node to what runs it; for runners and test helpers, once, before `initialize`."""
        self._runtime = runtime

    def _bound_runtime(self, asked: str) -> NodeRuntime:
        if self._runtime is None:
            raise RuntimeError(
                f"{type(self).__name__}.{asked} works only while the node runs in a session: use "
                f"it from initialize(), a handler or finish(), not from __init__ or by hand"
            )
        return self._runtime
