"""What a node's messages go through on their way out, and what the node can ask for."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, AsyncIterable, Generator, Iterator
from contextlib import aclosing, nullcontext
from typing import TYPE_CHECKING, Any, TypeGuard, TypeVar

from remotemedia.core.multiprocess import control
from remotemedia.core.ports import DATA_TYPES, Addressed
from remotemedia.data.message import Message

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from remotemedia.core.describe import NodeType
    from remotemedia.core.multiprocess.channel.loan import Loan
    from remotemedia.core.multiprocess.channel.publisher import Publisher
    from remotemedia.core.multiprocess.channel.subscriber import Subscriber
    from remotemedia.core.multiprocess.runner.commands import Reporter
    from remotemedia.data import RuntimeData

__all__ = ["RunnerContext"]

T = TypeVar("T")
DEFAULT_OUTPUT = "out"


class RunnerContext:
    """The node's side of its output ports; what `Node.bind` is given.

    Attributes:
        correlation_id: the input that is being worked on; what leaves belongs to it.
        node_id, session_id: of the node.
    """

    def __init__(self, node_id: str, session_id: str, kind: NodeType, reporter: Reporter) -> None:
        self.node_id = node_id
        self.session_id = session_id
        self.correlation_id = 0
        self._kind = kind
        self._reporter = reporter
        self._phase = control.Phase.LOADING
        self._subscribers: Collection[Subscriber] = ()
        self._routes: dict[str, dict[type, Publisher]] = {}
        self._default: dict[type, Publisher] = {}

    def open(
        self, subscribers: Collection[Subscriber], publishers: Mapping[str, Publisher]
    ) -> None:
        """Let messages leave, by these publishers of the ports.

        Args:
            subscribers: what its inputs are read by; connections that come later are added there.
            publishers: by output port.
        """
        self._phase = control.Phase.PROCESSING
        self._subscribers = subscribers
        self._routes = {
            port.name: {DATA_TYPES[kind]: publishers[port.name] for kind in port.kinds}
            for port in self._kind.outputs
        }
        outputs = self._kind.outputs
        only = outputs[0].name if len(outputs) == 1 else DEFAULT_OUTPUT
        self._default = self._routes.get(only, {})

    def progress(self, fraction: float, message: str) -> None:
        """See `Node.progress`."""
        clamped = min(1.0, max(0.0, float(fraction)))
        text = control.shorten(str(message))
        self._reporter.say(control.Progress(self._phase, clamped, text))

    def queued(self) -> int:
        """See `Node.queued`."""
        return sum(subscriber.queued() for subscriber in self._subscribers)

    def loan(self, kind: type[T], port: str, shape: dict[str, object]) -> AbstractContextManager[T]:
        """See `Node.loan`."""
        try:
            lend: Callable[..., Loan[Any]] = self._routes[port][kind].loan
        except KeyError:
            raise self._cannot_lend(port, kind) from None
        loan = lend(kind, **shape)
        loan.message.correlation_id = self.correlation_id
        return loan

    def route(self, output: object) -> tuple[Publisher, RuntimeData]:
        """Find the port that one output leaves by.

        Raises:
            TypeError: it is no message, or none that the port sends.
        """
        if isinstance(output, Addressed):
            message: Message = output.data
            routes = self._routes.get(output.port)
            if routes is None:
                raise self._no_port(output.port)
            port = output.port
        elif isinstance(output, Message):
            message, routes, port = output, self._default, DEFAULT_OUTPUT
        else:
            raise TypeError(
                f"node {self.node_id!r} returned a {type(output).__name__}: return or yield "
                f"messages ({', '.join(DATA_TYPES)}), or None"
            )
        publisher = routes.get(type(message))
        if publisher is None:
            raise self._wrong_kind(port, type(message))
        message.correlation_id = self.correlation_id
        return publisher, message  # type: ignore[return-value]  # routes are of these types

    def _cannot_lend(self, port: str, kind: type) -> TypeError:
        return self._wrong_kind(port, kind) if port in self._routes else self._no_port(port)

    def _no_port(self, port: str) -> TypeError:
        known = ", ".join(self._routes) or "none"
        return TypeError(f"node {self.node_id!r} has no output {port!r} (it has: {known})")

    def _wrong_kind(self, port: str, kind: type) -> TypeError:
        sends = " or ".join(one.__name__ for one in self._routes.get(port, {})) or "nothing"
        return TypeError(
            f"output {port!r} of node {self.node_id!r} sends {sends}, not {kind.__name__}: "
            f"say so in the annotation of the handler, or in Output(...)"
        )


def outputs_of(result: object) -> Iterator[object]:
    """Return the outputs of a handler one by one, as it makes them."""
    if result is None:
        return iter(())
    if isinstance(result, Message | Addressed):
        return iter((result,))
    if isinstance(result, Iterator):
        return result
    if isinstance(result, list | tuple):
        return iter(result)
    if hasattr(result, "__iter__") and not isinstance(result, str | bytes):
        return iter(result)
    return iter((result,))


def close_outputs(outputs: Iterator[object]) -> None:
    """Have a generator's `finally` run now, and not when somebody drops it."""
    if isinstance(outputs, Generator):
        outputs.close()


def is_async_stream(result: object) -> TypeGuard[AsyncIterable[object]]:
    """Whether a handler makes its outputs for `async for`."""
    return isinstance(result, AsyncIterable)


def opened(
    stream: AsyncIterable[object],
) -> AbstractAsyncContextManager[AsyncIterable[object]]:
    """Have a stream closed at the end of a block, if it is one that can be, as generators can."""
    return aclosing(stream) if isinstance(stream, AsyncGenerator) else nullcontext(stream)


async def finished(result: object) -> None:
    """Await what a hook returned, if it is to be awaited."""
    if inspect.isawaitable(result):
        await result
