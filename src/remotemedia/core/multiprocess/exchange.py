"""What comes out of a session: of which input it came, who gets it, and when it is the last."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from remotemedia.core.multiprocess import flow
from remotemedia.core.multiprocess.channel.inbox import Inbox
from remotemedia.core.multiprocess.claims import MAX_SET_ASIDE, Claims
from remotemedia.core.multiprocess.inputs import Inputs
from remotemedia.core.multiprocess.losses import Losses
from remotemedia.core.multiprocess.transport.doorbell import give_way
from remotemedia.core.multiprocess.transport.ledger import EndpointWord
from remotemedia.core.multiprocess.transport.loop_doorbell import LoopDoorbell
from remotemedia.errors import (
    BackpressureError,
    ChannelClosed,
    EndOfStream,
    ExecutorError,
    MessageLost,
    NodeFailed,
    PeerLost,
    RemoteMediaError,
)

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import AsyncGenerator, Callable, Iterable, Mapping

    from remotemedia.core.multiprocess import control
    from remotemedia.core.multiprocess.channel.endpoint import Endpoint
    from remotemedia.core.multiprocess.channel.subscriber import Subscriber
    from remotemedia.core.multiprocess.node_process import NodeProcess
    from remotemedia.core.multiprocess.wiring import Wiring
    from remotemedia.data import RuntimeData
    from remotemedia.data.message import Message

__all__ = ["Exchange"]

_log = logging.getLogger("remotemedia.session")
TAKEN_IN_A_TURN = 64
"""How many outputs a waiting task receives, and keeps for others, before it lets those run."""
T = TypeVar("T")
Output: TypeAlias = "RuntimeData"


class Exchange:
    """Receives what comes of the inputs that it sends, for any number of tasks of one event loop.

    Args:
        host: the session's endpoint; owned.
        wiring: which channel is which port.
        nodes: the nodes, by id.
        why_not: why nothing can be sent or received any more; None if it can.
        has_failed: whether there is such a reason.
        on_first: called when the first message goes in or out.
    """

    def __init__(
        self,
        host: Endpoint,
        wiring: Wiring,
        nodes: Mapping[str, NodeProcess],
        why_not: Callable[[], ExecutorError | None],
        has_failed: Callable[[], bool],
        on_first: Callable[[], None],
    ) -> None:
        self._host = host
        self._why_not = why_not
        self._has_failed = has_failed
        self._on_first = on_first
        self._nodes = nodes
        self._session_id = wiring.session_id
        self._doorbell = LoopDoorbell.of(host.doorbell)
        self._words = host.ledger.words
        self._wiring = wiring
        self._subscribers: list[Subscriber] = []
        self._inbox = Inbox(host.doorbell)
        self._is_closed = False
        self._claims = Claims(wiring.session_id, self.wake)
        self._cut_off: set[int] = set()  # inputs whose streams the end of the session came before
        self._failures: dict[int, NodeFailed] = {}
        self._losses = Losses(wiring)
        self._is_closing = self._is_draining = self._is_ending = False
        self._is_cut_short = False  # it ended before it had finished with what was sent
        self._is_read = False  # somebody receives message by message, now or in a moment
        self._iterations = 0  # over outputs, that have begun and not ended
        self._inputs = Inputs(host, wiring, self)
        self._take_in()

    def extend(self) -> None:
        """Take in what the session has got: ports of its own, nodes, connections.

        What had finished may go on by them.
        """
        self._inputs.extend()
        self._take_in()

    def _take_in(self) -> None:
        wiring, host = self._wiring, self._host
        self._has_finished = self._is_closed
        for subscriber in host.subscribers.values():
            if subscriber not in self._subscribers:
                self._subscribers.append(subscriber)
                self._inbox.add(subscriber)
        self._error_words = {
            node_id: wiring.tally.slot(node_id) + EndpointWord.ERRORS for node_id in self._nodes
        }
        self._makers = flow.makers(wiring.pipeline)
        reached = flow.reached(wiring.pipeline)
        self._ends = [
            wiring.tally.slot(node.node_id) + EndpointWord.ENDED
            for node in wiring.pipeline.nodes
            if not node.type.outputs and node.node_id in reached
        ]
        self._watched = [
            one for name, one in host.subscribers.items() if wiring.host_outputs[name][0] in reached
        ]
        self._origins = {
            name: f"{node_id}.{port}" for name, (node_id, port) in wiring.host_outputs.items()
        }

    async def send(
        self, message: RuntimeData, to: str | None, timeout_seconds: float | None
    ) -> int:
        """See `Session.send`."""
        number = await self._inputs.send(message, to, timeout_seconds)
        self._on_first()
        return number

    @property
    def is_stuck(self) -> bool:
        """See `Receiving.is_stuck`."""
        is_received = self._is_read or self._iterations or self._claims
        return bool(self._subscribers) and not is_received and not self._is_closing

    def require_open(self) -> None:
        """See `Receiving.require_open`."""
        failure = self._why_not()
        if failure is not None:
            raise failure
        if self._is_closing:
            raise ChannelClosed(f"session {self._session_id!r} is closing: it takes no more input")

    def note_sent(self, number: int, key: tuple[str, str], sequence: int) -> None:
        """See `Receiving.note_sent`."""
        if number in self._claims:
            self._losses.enter(number, key, sequence)

    async def recv(self, timeout_seconds: float | None) -> Output:
        """See `Session.recv`."""
        self._is_read = True
        return await self._receive(self._next_unclaimed, timeout_seconds)

    async def outputs(self) -> AsyncGenerator[Output, None]:
        """See `Session.outputs`."""
        self._iterations += 1
        try:
            while True:
                try:
                    output: Output = await self._receive(self._next_unclaimed)
                except EndOfStream:
                    return
                yield output
        finally:
            self._iterations -= 1
            self.wake()  # a drain need not keep anything for it any more

    async def stream(self, message: RuntimeData, to: str | None) -> AsyncGenerator[Output, None]:
        """See `Session.stream`."""
        number = 0
        try:
            number, queue = await self._send_claimed(message, to)
            while True:
                found: Output | _Done = await self._receive(partial(self._next_of, number, queue))
                if isinstance(found, _Done):
                    break
                yield found
            failure = self._failures.pop(number, None) or self._losses.failure_of(number)
            if failure is not None:
                raise failure
        finally:
            self._failures.pop(number, None)
            self._losses.forget(number)
            if self._claims.release(number) and not self._is_done(number):
                self._claims.abandon(number)
            self.wake()  # a drain need not keep anything for it any more

    async def _send_claimed(
        self, message: RuntimeData, to: str | None
    ) -> tuple[int, deque[Output]]:
        # Outputs can come before `send` has returned to us: they are claimed by number in advance.
        number = self._inputs.last + 1
        queue = self._claims.claim(number)
        try:
            return await self.send(message, to, None), queue
        except BaseException:
            self._claims.release(number)
            raise

    async def drain(self) -> None:
        """End the input, and wait until nothing more comes out; what nobody receives is dropped."""
        self._is_closing = self._is_draining = True
        self._inputs.finish()
        await self._doorbell.wait_for(self._drained, None)

    def note_failure(self, node_id: str, failure: control.NodeFailure) -> None:
        """Remember that a node failed on an input and skipped it."""
        number = failure.correlation_id
        if number in self._claims and number not in self._failures:
            self._failures[number] = NodeFailed(
                node_id,
                self._session_id,
                failure.error,
                traceback=failure.traceback,
                working_on=failure.working_on,
            )
        self.wake()

    def vacate(self, node_id: str, error: ExecutorError) -> None:
        """Have all wait for the next process of a node that crashed, and take what it had sent."""
        before = self._losses.last_state(node_id)
        in_hand = self._wiring.vacate(node_id)
        self._losses.suspect(before, in_hand, error)
        origins = self._wiring.host_outputs
        self._take_out(
            [one for name, one in self._host.subscribers.items() if origins[name][0] == node_id]
        )
        self.wake()

    def note_back(self, node_id: str) -> None:
        """The next process of a node is ready."""
        self._losses.note_back(node_id)

    def interrupt(self) -> None:
        """Throw away what came before the interrupt: what was set aside, and what waits."""
        self._claims.clear()
        self._take_out(self._subscribers)  # what is old goes, and its writers have room

    def wake(self) -> None:
        """Have everybody who waits look again."""
        self._host.doorbell.ring()

    def close_inputs(self) -> None:
        """Take no more input; whoever waits for room gets `ChannelClosed`. Twice is harmless.

        What has come out is taken now: once the nodes have stopped, the memory it is in can no
        longer be mapped.
        """
        self._is_closing = self._is_ending = True
        self._take_out(self._subscribers)
        self.wake()

    def close(self) -> None:
        """Send and receive no more; whoever waits gets `ChannelClosed`. Twice is harmless."""
        if not self._is_closed:
            self._take_out(self._subscribers)  # what had left the nodes before they stopped
        if not self._has_finished:
            self._cut_off = {number for number in self._claims if not self._is_done(number)}
            self._is_cut_short = self._is_draining or not self._is_done(self._inputs.last)
        self._is_closed = self._is_closing = self._has_finished = True
        self._doorbell.close()

    async def _receive(
        self, attempt: Callable[[], T | None], timeout_seconds: float | None = None
    ) -> T:
        def checked() -> T | None:
            """What came before a failure comes out first; an end says itself what it cut off."""
            try:
                found = attempt()
            except RemoteMediaError as error:
                if self._is_ending and isinstance(error, MessageLost):
                    self._log_lost(error)
                    self.wake()  # there may be more
                elif not self._has_failed():
                    raise
                found = None
            if (found is None or found is _DONE) and (failure := self._why_not()) is not None:
                raise failure
            return found

        if self._host.doorbell.ends_turn():
            await give_way()
        try:
            found = await self._doorbell.wait_for(checked, timeout_seconds)
        except ChannelClosed:
            if not self._has_finished:
                raise
            found = checked()  # the session has ended meanwhile: say so
        if found is None:
            raise TimeoutError(
                f"nothing came out of session {self._session_id!r} in {timeout_seconds} s"
            )
        return found

    def _next_unclaimed(self) -> Output | None:
        """The next output that no stream wants."""
        for _ in range(TAKEN_IN_A_TURN):
            if self._claims.unclaimed:
                return self._claims.unclaimed.popleft()
            if not self._pump():
                if self._is_cut_short:
                    raise self._cut_short("all that was sent to it")
                if self._has_finished:
                    raise EndOfStream(f"session {self._session_id!r} has finished")
                return None
        self.wake()
        return None

    def _next_of(self, number: int, queue: deque[Output]) -> Output | _Done | None:
        """The next output of one input, or that there is none."""
        for _ in range(TAKEN_IN_A_TURN):
            if queue:
                return self._claims.take(queue)
            if len(self._claims.unclaimed) >= MAX_SET_ASIDE:
                raise BackpressureError(
                    f"outputs of session {self._session_id!r}", MAX_SET_ASIDE, "set aside"
                )
            if self._pump():
                continue
            if number in self._cut_off:
                raise self._cut_short(f"input {number}")
            if self._has_finished or self._is_done(number):
                return _DONE
            return None
        self.wake()
        return None

    def _cut_short(self, what: str) -> ChannelClosed:
        return ChannelClosed(
            f"session {self._session_id!r} was ended before it had finished with {what}"
        )

    def _pump(self) -> bool:
        """Take one output and give it to whom it belongs; False if there is none, or no room."""
        if self._has_finished or self._claims.is_full:
            return False
        if not self._subscribers:
            self._has_finished = bool(self._nodes) and self._is_worked_off()
            return False
        try:
            taken = self._inbox.take()
        except EndOfStream:
            if not all(self._nodes[one].is_drained for one in self._makers):
                return False  # a node that breaks ends its outputs too: it is still to say why
            self._has_finished = True
            self.wake()
            return False
        if taken is None:
            return False
        self._deliver(*taken)
        return True

    def _take_out(self, subscribers: Iterable[Subscriber]) -> None:
        """Take what waits in these connections now, however much, before its memory goes."""
        waiting = [one for one in subscribers for _ in range(one.queued())]
        for subscriber in waiting:
            try:
                message = subscriber.receive_nowait()
            except (EndOfStream, PeerLost):
                continue  # one loss before was more messages than one
            except RemoteMediaError as error:
                self._log_lost(error)
            else:
                if message is not None:
                    self._deliver(subscriber, message)

    def _deliver(self, subscriber: Subscriber, message: Message) -> None:
        """Give one output to whom it belongs."""
        message._origin = self._origins[subscriber.connection.name]
        self._on_first()
        if self._claims.put(message):
            self.wake()

    def _is_done(self, number: int) -> bool:
        """Whether the pipeline has finished with an input, and all of it has been taken."""
        ended = [subscriber.ended_input() for subscriber in self._watched]
        ended += [self._words[at] for at in self._ends]
        newest = min(ended, default=self._inputs.last)
        self._claims.note_ended(newest)
        if newest < number:
            return False
        reported = {node_id: node.failures for node_id, node in self._nodes.items()}
        return all(self._words[at] <= reported[one] for one, at in self._error_words.items())

    def _drained(self) -> bool | None:
        if self._has_failed():
            return True
        self._set_aside()
        if self._subscribers and not self._has_finished:
            return None
        if not self._is_worked_off():
            return None
        self._has_finished = True
        self.wake()
        return True

    def _set_aside(self) -> None:
        """Make room for what is still to come: for who receives it in a moment, or for nobody."""
        is_kept = self._is_read or self._iterations
        for _ in range(TAKEN_IN_A_TURN):
            if not is_kept:
                self._claims.unclaimed.clear()
            if len(self._claims.unclaimed) >= MAX_SET_ASIDE:
                return
            try:
                if not self._pump():
                    return
            except RemoteMediaError as error:
                self._log_lost(error)
        self.wake()

    def _log_lost(self, error: RemoteMediaError) -> None:
        _log.warning("an output of session %r was lost: %s", self._session_id, error)

    def _is_worked_off(self) -> bool:
        return all(one.is_drained for one in self._nodes.values())


class _Done:
    """Nothing more will come."""


_DONE = _Done()
