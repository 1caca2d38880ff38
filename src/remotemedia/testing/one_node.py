"""One node from `initialize` to `cleanup` in this process, without a channel."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np

from remotemedia.core.describe import NodeTarget, describe
from remotemedia.core.findings import suggested
from remotemedia.core.hooks import warn_of_misspelled_hooks
from remotemedia.core.multiprocess.channel.lending import lay_out, too_large
from remotemedia.core.multiprocess.runner.context import (
    RunnerContext,
    close_outputs,
    finished,
    is_async_stream,
    opened,
    outputs_of,
)
from remotemedia.core.parameters import bind_parameters, create_node, plain_parameters
from remotemedia.core.ports import DATA_TYPES
from remotemedia.core.registry import default_registry
from remotemedia.data import Message, RuntimeData
from remotemedia.data.message import NO_METADATA, ArrayMessage
from remotemedia.data.wire import array_message, decode, dissect, encode
from remotemedia.errors import DataError, PipelineError

if TYPE_CHECKING:
    from collections.abc import Callable

    from remotemedia.core.describe import NodeType, Port
    from remotemedia.core.multiprocess import control
    from remotemedia.core.multiprocess.channel.publisher import Publisher
    from remotemedia.core.multiprocess.runner.commands import Reporter
    from remotemedia.data.layout import Layout

__all__ = ["Inputs", "Outputs", "run_node"]

Inputs: TypeAlias = (
    RuntimeData
    | Iterable[RuntimeData | tuple[str, RuntimeData]]
    | Mapping[str, RuntimeData | Iterable[RuntimeData]]
)
"""One message, messages, (port, message) pairs, or messages by port, port after port."""

NODE_ID = "node"


class Outputs(list[RuntimeData]):
    """What a node sent, in the order it was sent: a list, equal to any list of equal messages.

    Attributes:
        ports: the output port of each message.
    """

    def __init__(self, kind: NodeType) -> None:
        super().__init__()
        self.ports: list[str] = []
        self._kind = kind

    def of(self, port: str) -> list[RuntimeData]:
        """Return what left by one port; DataError if the node has no such output."""
        names = [output.name for output in self._kind.outputs]
        if port not in names:
            hint = suggested(port, names) or "it has no outputs"
            raise DataError(f"{self._kind.name} has no output {port!r} ({hint})")
        return [message for name, message in zip(self.ports, self, strict=True) if name == port]


def run_node(node_type: NodeTarget | str, inputs: Inputs = (), /, **parameters: object) -> Outputs:
    """Run a node as a session would: checked, initialised, fed, finished and cleaned up.

        assert run_node(Upper, [Text("a"), Text("b")]) == [Text("A"), Text("B")]

    The node gets what it would get in a session: messages that were encoded and decoded, so that
    their arrays are read-only, numbered 1, 2, ... by `correlation_id`. What it sends is checked
    against the types and sizes that its ports declare. An asynchronous node runs on an event loop
    of its own, also where the caller runs on one, which is held up meanwhile. A source is run to
    its end.

    Args:
        node_type: a subclass of `Node`, a function, or a registered name.
        inputs: what it is fed with; none for a source.
        **parameters: of the node.

    Raises:
        NodeDefinitionError: it is no node.
        PipelineError: its parameters do not fit, with all that is wrong.
        DataError: it has no such input, the input does not take such a message, or it sent one
            that is larger than its port declares.
        TypeError: it sent what its ports do not send.
        Exception: what the node raised; it was cleaned up before.
    """
    target = default_registry.find(node_type) if isinstance(node_type, str) else node_type
    run = _Run(target, parameters)
    if not run.kind.is_async:
        run.live(run.addressed(inputs))
        return run.outputs
    fed = list(run.addressed(inputs))
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(run.live_async(fed))
    else:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(asyncio.run, run.live_async(fed)).result()
    return run.outputs


class _Run:
    """The life of one node."""

    def __init__(self, target: NodeTarget, parameters: Mapping[str, object]) -> None:
        self.kind = describe(target)
        warn_of_misspelled_hooks(target)
        self.outputs = Outputs(self.kind)
        where = f"node {self.kind.name!r}"
        plain = plain_parameters(parameters)
        findings = bind_parameters(target, plain, where)[1]
        if findings:
            raise PipelineError(self.kind.name, tuple(findings.values()))
        # What a node's hooks may return is checked where it is used.
        self.node: Any = create_node(target, plain, where)
        silent = cast("Reporter", _SilentReporter())
        self.context = RunnerContext(NODE_ID, "run_node", self.kind, silent)
        ports = {port.name: _Collector(port, self.outputs) for port in self.kind.outputs}
        self.context.open((), cast("Mapping[str, Publisher]", ports))  # nothing waits here
        self.node.bind(self.context)

    def addressed(self, inputs: Inputs) -> Iterator[tuple[Callable[..., object], RuntimeData]]:
        """Return handler and message of each input, as the node gets them."""
        ports = {port.name: port for port in self.kind.inputs}
        for number, (name, message) in enumerate(_pairs(inputs, self.kind), 1):
            port = ports.get(name)
            if port is None:
                hint = suggested(name, ports) or "it has no inputs"
                raise DataError(f"{self.kind.name} has no input {name!r} ({hint})")
            if not isinstance(message, tuple(DATA_TYPES[kind] for kind in port.kinds)):
                takes = " or ".join(port.kinds)
                raise DataError(
                    f"input {name!r} of {self.kind.name} takes {takes}, not "
                    f"{type(message).__name__}"
                )
            received = decode(*encode(message))
            received.correlation_id = number
            yield getattr(self.node, port.handler), received

    def live(self, inputs: Iterable[tuple[Callable[..., object], RuntimeData]]) -> None:
        node = self.node
        try:
            node.initialize()
            if not self.kind.inputs:
                self._emit_all(node.process())
            for handler, message in inputs:
                self.context.correlation_id = message.correlation_id
                self._emit_all(handler(message))
            self.context.correlation_id = 0
            self._emit_all(node.finish())
        finally:
            node.cleanup()

    async def live_async(self, inputs: Iterable[tuple[Callable[..., object], RuntimeData]]) -> None:
        node = self.node
        try:
            await finished(node.initialize())
            if not self.kind.inputs:
                await self._emit_all_async(node.process())
            for handler, message in inputs:
                self.context.correlation_id = message.correlation_id
                await self._emit_all_async(handler(message))
            self.context.correlation_id = 0
            await self._emit_all_async(node.finish())
        finally:
            await finished(node.cleanup())

    def _emit_all(self, result: object) -> None:
        outputs = outputs_of(result)
        try:
            for output in outputs:
                self._emit(output)
        finally:
            close_outputs(outputs)

    def _emit(self, output: object) -> None:
        collector, message = self.context.route(output)
        collector.send(message)

    async def _emit_all_async(self, result: object) -> None:
        if inspect.isawaitable(result):
            result = await result
        if not is_async_stream(result):
            self._emit_all(result)
            return
        async with opened(result) as stream:
            async for output in stream:
                self._emit(output)


def _pairs(inputs: Inputs, kind: NodeType) -> Iterator[tuple[str, RuntimeData]]:
    """Return the port and the message of each input."""
    names = [port.name for port in kind.inputs]
    default = names[0] if len(names) == 1 else "in"
    if isinstance(inputs, Message):
        yield default, inputs
    elif isinstance(inputs, Mapping):
        for port, messages in inputs.items():
            several = (messages,) if isinstance(messages, Message) else messages
            yield from ((port, cast("RuntimeData", message)) for message in several)
    else:
        for one in inputs:
            yield one if isinstance(one, tuple) else (default, one)


class _SilentReporter:
    """Nobody listens to progress."""

    def say(self, message: control.FromRunner) -> None:
        """Drop it."""


class _Collector:
    """Stands where a session has the publisher of a port."""

    def __init__(self, port: Port, outputs: Outputs) -> None:
        self._port = port
        self._outputs = outputs

    def send(self, message: RuntimeData) -> None:
        """Keep a message as a reader would get it; DataError if it could not be sent."""
        self._require_fits(dissect(message)[0])
        self._outputs.append(decode(*encode(message)))
        self._outputs.ports.append(self._port.name)

    def _require_fits(self, layout: Layout) -> None:
        limit = self._port.max_message_bytes
        if limit is not None and layout.payload_bytes > limit:
            raise too_large(f"{NODE_ID}.{self._port.name}", layout.payload_bytes, limit)

    def loan(self, kind: type[ArrayMessage], /, **shape: Any) -> _Loan:
        """Lend a message in ordinary memory; DataError as in a session."""
        layout = lay_out(kind, shape)
        self._require_fits(layout)
        message = array_message(layout, np.empty(layout.shape, layout.dtype))
        message.timestamp_ns = time.monotonic_ns()
        message.correlation_id = 0
        message.metadata = NO_METADATA
        return _Loan(self, message)


class _Loan:
    """A message in ordinary memory that is sent when its block ends."""

    def __init__(self, collector: _Collector, message: ArrayMessage) -> None:
        self._collector = collector
        self.message = message

    def __enter__(self) -> ArrayMessage:
        return self.message

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._collector.send(cast("RuntimeData", self.message))
        self.message._array = None
        self.message._gone = "sent" if kind is None else "discarded"
