"""What the loops of sync and async nodes have in common: ports, counting, failures."""

from __future__ import annotations

import time
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from remotemedia.core.multiprocess import control
from remotemedia.core.multiprocess.channel.bell import Bell
from remotemedia.core.multiprocess.channel.inbox import Inbox
from remotemedia.core.multiprocess.plan import ConnectionPlan, PortPlan
from remotemedia.core.multiprocess.runner.ports import handler_of
from remotemedia.core.multiprocess.runner.tracebacks import format_error, summary
from remotemedia.core.multiprocess.transport.ledger import (
    HISTOGRAM_AT,
    HISTOGRAM_BUCKETS,
    EndpointWord,
    LedgerWord,
)
from remotemedia.core.multiprocess.transport.limits import limit_reached
from remotemedia.errors import EndOfStream, ResourceLimit

if TYPE_CHECKING:
    from collections.abc import Iterable

    from remotemedia.core.multiprocess.channel.subscriber import Subscriber
    from remotemedia.core.multiprocess.runner.commands import Commands, Reporter
    from remotemedia.core.multiprocess.runner.context import RunnerContext
    from remotemedia.core.multiprocess.runner.ports import NodePorts
    from remotemedia.core.node import Node
    from remotemedia.data.message import Message

__all__ = ["Stopped", "Wake", "Work"]

_NEVER = 1 << 63
_SEQUENCE = int(EndpointWord.SEQUENCE)
_CORRELATION = int(EndpointWord.CORRELATION)
_CONNECTION = int(EndpointWord.CONNECTION)
_BEGAN = int(EndpointWord.BEGAN_NS)
_ENDED = int(EndpointWord.ENDED)
_EPOCH = int(LedgerWord.EPOCH)
_PROCESSED = int(EndpointWord.PROCESSED)
_LAST_BUCKET = HISTOGRAM_BUCKETS - 1
Found: TypeAlias = "tuple[Subscriber, Message] | Wake"


class Stopped(Exception):
    """The runner was told to stop while it worked or waited."""


class Wake(Enum):
    """Why the work was woken, other than by a message."""

    NEWS = "the executor asks something"
    ENDED = "an input has been worked off"
    FINISHED = "no message will come any more"


class Work:
    """A node at work between its ports.

    Args:
        node: the instance.
        ports: what its ports are joined to; connections that come later are added.
        context: what the node was bound to.
        commands: what the executor asks.
        reporter: answers it.
        configuration: says whether the node lives on when a message fails, and how often it is to
            tell that it is busy.
    """

    def __init__(
        self,
        node: Node,
        ports: NodePorts,
        context: RunnerContext,
        commands: Commands,
        reporter: Reporter,
        configuration: control.Configure,
    ) -> None:
        handlers, endpoint, publishers = ports.handlers, ports.endpoint, ports.publishers
        self.node = node
        self.handlers = handlers
        self.endpoint = endpoint
        self.publishers = publishers
        self.context = context
        self.commands = commands
        self.reporter = reporter
        self.working_on: Message | None = None
        self._counted = ports.counted
        self._host = ports.host
        self._skips_errors = configuration.on_error == "skip"
        self._busy_every_ns = configuration.busy_every_ns
        self._busy_at_ns = 0 if self._busy_every_ns else _NEVER
        self._inbox = Inbox(endpoint.doorbell, handlers, ports.feedback)
        # With one input there is nobody to be fair to: the next message is looked for there.
        self.only = next(iter(handlers)) if len(handlers) == 1 else None
        self._words = endpoint.ledger.words
        self.epoch = self._words[_EPOCH]
        for publisher in publishers.values():
            publisher.epoch = self.epoch
        self._slot = endpoint.plan.slot
        self.is_finishing = False
        # Of the processes before this one, if it takes the place of one that died.
        self._errors, self._processed, self._ended = (
            self._words[self._slot + word]
            for word in (EndpointWord.ERRORS, EndpointWord.PROCESSED, EndpointWord.ENDED)
        )
        if self._ended:
            for publisher in publishers.values():
                publisher.end_input(self._ended)  # it may have died before it told them all

    def attempt(self) -> Found | None:
        """Look for something to do; None if there is nothing."""
        if self.commands.has_news or self.is_outdated:
            return Wake.NEWS
        try:
            found = self._inbox.take()
        except EndOfStream:
            # A node that was added by hand has no connection yet: it waits for its first.
            return Wake.FINISHED if self.handlers or self.commands.is_draining else None
        if found is None and self._counted and self._ended_input() > self._ended:
            return Wake.ENDED
        return found

    def begin(self, subscriber: Subscriber, message: Message) -> int:
        """Write down what is worked on; return when that began."""
        words, slot = self._words, self._slot
        self.working_on = message
        self.context.correlation_id = message.correlation_id
        words[slot + _SEQUENCE] = subscriber.position
        words[slot + _CORRELATION] = message.correlation_id
        if self.only is None:
            words[slot + _CONNECTION] = subscriber.connection.slot
        began = words[slot + _BEGAN] = time.monotonic_ns()
        if began > self._busy_at_ns:
            self._busy_at_ns = began + self._busy_every_ns
            self.reporter.say(control.Busy(began))
        return began

    def end(self, began_ns: int) -> None:
        """Write down that it is done."""
        words, slot = self._words, self._slot
        words[slot + _BEGAN] = 0
        self._processed = words[slot + _PROCESSED] = self._processed + 1
        bucket = (time.monotonic_ns() - began_ns).bit_length()
        words[slot + HISTOGRAM_AT + (bucket if bucket < _LAST_BUCKET else _LAST_BUCKET)] += 1
        self.working_on = None
        self.context.correlation_id = 0
        self.announce_ended()

    def announce_ended(self) -> None:
        """Tell downstream of the inputs that have been worked off since."""
        ended = self._ended_input()
        if ended > self._ended:
            self._ended = self._words[self._slot + _ENDED] = ended
            for publisher in self.publishers.values():
                publisher.end_input(ended)
            if self._host is not None:
                self._host.ring(self._words)

    def note_failure(self, error: Exception) -> None:
        """Count a message that failed, and tell the executor; raise the error if it is the end.

        The executor waits for as many reports as were counted before it calls an input ended.
        """
        if not self._skips_errors:
            raise error
        self._errors += 1
        text = control.shorten(format_error(error))
        self.reporter.say(
            control.NodeFailure(
                self.context.correlation_id, summary(error), text, self.describe_work()
            )
        )
        self._words[self._slot + EndpointWord.ERRORS] = self._errors

    def describe_work(self) -> str:
        """Say what is being worked on, in a text that can be sent; empty if nothing is."""
        if self.working_on is None:
            return ""
        return control.shorten(f"{self.working_on!r} of input {self.context.correlation_id}")

    def attach(self) -> bool:
        """Change connections as was asked; return whether there was an interrupt.

        Raises:
            Stopped: the runner is to exit.
        """
        if self.commands.is_stopping:
            raise Stopped
        self.change_connections(self.commands.take_changes())
        return self.enter(self._words[_EPOCH])

    @property
    def is_outdated(self) -> bool:
        """Whether an interrupt has come since what is worked on was sent."""
        return bool(self._words[_EPOCH] != self.epoch)

    def enter(self, epoch: int) -> bool:
        """Work in this epoch from now on; whether it is a new one: there was an interrupt.

        What comes of a message is of the message's epoch, whenever it leaves: so it is dropped by
        whoever gets it, if there was an interrupt meanwhile.
        """
        if epoch == self.epoch:
            return False
        self.epoch = epoch
        for publisher in self.publishers.values():
            publisher.epoch = epoch
        return True

    def change_connections(self, changes: Iterable[tuple[control.Change, list[int]]]) -> None:
        """Add connections, each with the descriptor of the other end's doorbell, or count them.

        One that cannot be added harms neither the others nor the node: who asked for it is told.
        """
        for command, fds in changes:
            if isinstance(command, control.Count):
                name = command.connection
                change = partial(self._count_connection, name)
            else:
                plan = msgspec.msgpack.decode(command.connection, type=ConnectionPlan)
                name = plan.name
                change = partial(self._add_connection, command, plan, fds)
            error = ""
            try:
                change()
            except Exception as failure:  # of any kind: it is told, and the node works on
                error = summary(failure)
            self.reporter.say(control.Connected(name, error))

    def _count_connection(self, name: str) -> None:
        self._counted.append(self.endpoint.subscribers[name])

    def _add_connection(
        self, command: control.Attach | control.Join, connection: ConnectionPlan, fds: list[int]
    ) -> None:
        if not fds:  # the kernel leaves out what there is no room for
            what = f"taking the doorbell of the other end of {connection.name}"
            raise limit_reached(what) or ResourceLimit(f"{what} failed: it did not come")
        bell = Bell(fds[0], command.asleep)
        if isinstance(command, control.Attach):
            self.endpoint.add_bell(connection.reader, bell)
            bell = self.endpoint.bells[connection.reader]
            self.endpoint.publishers[command.channel].add_connection(connection, bell)
            return
        port = msgspec.msgpack.decode(command.channel, type=PortPlan)
        self.endpoint.add_bell(port.writer, bell)
        subscriber = self.endpoint.subscribe(port, connection)
        self.only = None if self.handlers else subscriber
        self.handlers[subscriber] = handler_of(self.node, command.handler, command.input)
        if command.input.is_counted:
            self._counted.append(subscriber)
        self._inbox.add(subscriber, is_optional=command.input.is_feedback)

    def recount(self) -> None:
        """Look for credit anew before the next message of each output."""
        for publisher in self.publishers.values():
            publisher.recount()

    def finish_outputs(self) -> None:
        """End the streams of all outputs."""
        for publisher in self.publishers.values():
            publisher.finish()

    def _ended_input(self) -> int:
        counted = self._counted
        if len(counted) == 1:
            return counted[0].ended_input()
        return min((subscriber.ended_input() for subscriber in counted), default=0)
