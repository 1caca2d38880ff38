"""One port against a model of it in plain Python: whatever is done to it, in whatever order."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from remotemedia.core.multiprocess.plan import MAX_LOANS, Policy, SpareTaps
from remotemedia.core.multiprocess.transport.ledger import LedgerWord
from remotemedia.data import Binary
from remotemedia.errors import BackpressureError, ChannelClosed, EndOfStream
from tests.channel_helpers import IS_LONG, both_transports, new_registry, number, value_of

if TYPE_CHECKING:
    from remotemedia.core.multiprocess.channel.loan import Loan
    from remotemedia.core.multiprocess.channel.stats import ConnectionStats
    from remotemedia.core.multiprocess.channel.subscriber import Subscriber
    from remotemedia.data import Message

TAPS = SpareTaps(2, 3, 2)
EXAMPLES = {"memory": 3000, "iceoryx": 2000} if IS_LONG else {"memory": 120, "iceoryx": 80}

policies_ = st.sampled_from(Policy)
indices_ = st.integers(0, 20)


@dataclass
class Model:
    """A connection as it must be."""

    reader: Subscriber
    is_tap: bool = False
    queue: deque[tuple[int, int]] = field(default_factory=deque)
    """Epoch and value of what waits."""
    views: list[tuple[Message, int]] = field(default_factory=list)
    copies: list[tuple[Message, int]] = field(default_factory=list)
    is_open: bool = True
    sent: int = 0
    received: int = 0
    copied: int = 0
    overwritten: int = 0
    interrupted: int = 0
    closed: int = 0

    @property
    def policy(self) -> Policy:
        return self.reader.connection.policy

    @property
    def is_full(self) -> bool:
        return len(self.queue) >= self.reader.connection.capacity

    def push(self, epoch: int, value: int) -> None:
        self.sent += 1
        if self.is_full:
            self.queue.popleft()
            self.overwritten += 1
        self.queue.append((epoch, value))


class PortMachine(RuleBasedStateMachine):
    """A port with several connections, beside its model."""

    def __init__(self, transport: str) -> None:
        super().__init__()
        self.registry = new_registry(transport)
        self.models: list[Model] = []
        self.loans: list[tuple[Loan[Binary], int]] = []
        self.next = self.epoch = self.sent = self.refused = 0

    @initialize(
        plans=st.lists(st.tuples(policies_, st.integers(1, 4), st.integers(1, 3)), max_size=3)
    )
    def plan(self, plans: list[tuple[Policy, int, int]]) -> None:
        self.channel = self.registry.create_channel("port", 4, taps=TAPS)
        self.registry.add_endpoint("planned")
        for index, (policy, capacity, max_held) in enumerate(plans):
            self.registry.connect(
                self.channel,
                "planned",
                name=f"c{index}",
                policy=policy,
                capacity=1 if policy is Policy.LATEST else capacity,
                max_held=max_held,
            )
        endpoint = self.registry.open("planned")
        self.models += [Model(reader) for reader in endpoint.subscribers.values()]
        self.publisher = self.registry.create_publisher(self.channel)

    # The writer

    def expect(self) -> bool | None:
        """What a send that does not wait must do: True, None for no credit, False for an error."""
        full = [one for one in self.models if one.is_open and one.is_full]
        if any(one.policy is Policy.ERROR for one in full):
            return False
        return None if any(one.policy is Policy.BLOCK for one in full) else True

    def note_sent(self, value: int) -> None:
        self.sent += 1
        for one in self.models:
            if one.is_open:
                one.push(self.epoch, value)

    def fresh(self) -> int:
        self.next += 1
        return self.next

    @rule()
    def send(self) -> None:
        value, expected = self.fresh(), self.expect()
        if expected:
            self.publisher.send_nowait(number(value))
            self.note_sent(value)
        else:
            with pytest.raises(BackpressureError):
                self.publisher.send_nowait(number(value))
            self.refused += 1

    @rule()
    def try_send(self) -> None:
        value, expected = self.fresh(), self.expect()
        if expected is False:
            with pytest.raises(BackpressureError):
                self.publisher.try_send(number(value))
            self.refused += 1
        else:
            assert self.publisher.try_send(number(value)) is expected
            if expected:
                self.note_sent(value)

    @precondition(lambda self: len(self.loans) < MAX_LOANS - 1)
    @rule(nbytes=st.sampled_from([8, 100, 10_000]))
    def lend(self, nbytes: int) -> None:
        value = self.fresh()
        loan = self.publisher.loan(Binary, nbytes=nbytes)
        loan.message.array[:8] = number(value).array
        self.loans.append((loan, value))

    @precondition(lambda self: self.loans)
    @rule(index=indices_)
    def send_loan(self, index: int) -> None:
        loan, value = self.loans[index % len(self.loans)]
        if self.expect():
            loan.send(timeout_seconds=0)
            self.note_sent(value)
            self.loans.remove((loan, value))
        else:
            with pytest.raises(BackpressureError):
                loan.send(timeout_seconds=0)
            self.refused += 1

    @precondition(lambda self: self.loans)
    @rule(index=indices_, drops=st.booleans())
    def discard(self, index: int, drops: bool) -> None:
        loan, _ = self.loans.pop(index % len(self.loans))
        if not drops:
            loan.discard()
            loan.discard()

    @rule()
    def interrupt(self) -> None:
        self.registry.ledger.words[LedgerWord.EPOCH] += 1
        self.epoch += 1

    # The readers

    @precondition(lambda self: self.models)
    @rule(index=indices_, keeps=st.booleans(), waits=st.booleans())
    def receive(self, index: int, keeps: bool, waits: bool) -> None:
        one = self.models[index % len(self.models)]
        if not one.is_open:
            with pytest.raises(ChannelClosed):
                one.reader.take()
            return
        message = one.reader.receive(0.0001) if waits and one.queue else one.reader.take()
        while one.queue and one.queue[0][0] < self.epoch:
            one.queue.popleft()
            one.interrupted += 1
        if not one.queue:
            assert message is None
            return
        _, value = one.queue.popleft()
        assert value_of(message) == value
        assert message is not None
        one.received += 1
        is_copy = len(one.views) >= one.reader.connection.max_held
        one.copied += is_copy
        if keeps:
            (one.copies if is_copy else one.views).append((message, value))

    @precondition(lambda self: any(one.views or one.copies for one in self.models))
    @rule(index=indices_, explicitly=st.booleans())
    def release(self, index: int, explicitly: bool) -> None:
        holders = [kept for one in self.models for kept in (one.views, one.copies) if kept]
        message, _ = holders[index % len(holders)].pop(0)
        if explicitly:
            message.release()

    @precondition(lambda self: any(one.is_open for one in self.models))
    @rule(index=indices_)
    def close(self, index: int) -> None:
        one = self.models[index % len(self.models)]
        if one.is_open:
            one.closed += len(one.queue)
            one.queue.clear()
            one.is_open = False
        one.reader.close()

    @precondition(lambda self: self.taps_in_use < TAPS.count)
    @rule(policy=policies_, capacity=st.integers(1, TAPS.capacity))
    def join(self, policy: Policy, capacity: int) -> None:
        reader = self.registry.create_subscriber(
            self.channel,
            policy=policy,
            capacity=1 if policy is Policy.LATEST else capacity,
        )
        self.models.append(Model(reader, is_tap=True))

    @property
    def taps_in_use(self) -> int:
        return sum(one.is_tap and bool(one.is_open or one.views) for one in self.models)

    # What always holds

    @invariant()
    def everything_is_as_the_model_says(self) -> None:
        port = self.registry.stats().get("port")
        if port is None:
            return
        assert (port.sent, port.refused) == (self.sent, self.refused)
        known = {stats.name: stats for stats in port.connections}
        for one in self.models:
            if one.is_open:
                assert one.reader.held == len(one.views)
                one.reader._settle()  # as the next look for a message does
        known = {stats.name: stats for stats in self.registry.stats()["port"].connections}
        for one in self.models:
            for message, value in (*one.views, *one.copies):
                assert value_of(message) == value
            name = one.reader.connection.name
            if name in known or one.is_open:  # taps are given to others once they are closed
                agree(one, known[name])

    def teardown(self) -> None:
        try:
            self.run_out()
        finally:
            for one in self.models:
                one.views.clear()
                one.copies.clear()
            self.loans.clear()
            self.registry.cleanup()

    def run_out(self) -> None:
        """Finish, and read everything to the end."""
        if "port" not in self.registry.stats():
            return
        self.publisher.close()
        for one in self.models:
            if one.is_open:
                rest = [value_of(message) for message in one.reader]
                assert rest == [value for epoch, value in one.queue if epoch == self.epoch]
                with pytest.raises(EndOfStream):
                    one.reader.receive()


def agree(model: Model, stats: ConnectionStats) -> None:
    assert stats.is_balanced, stats
    assert stats.sent == model.sent
    assert stats.received == model.received
    assert stats.copied == model.copied
    assert stats.queued == len(model.queue)
    dropped: dict[str, Any] = {
        "overwritten": model.overwritten,
        "lost": 0,
        "interrupted": model.interrupted,
        "unreadable": 0,
        "closed": model.closed,
    }
    if not model.policy.is_lossless and not model.is_open:
        # Of what was unread at the end, some had been overwritten before: both are drops.
        assert sum(stats.dropped.values()) == sum(dropped.values())
    else:
        assert stats.dropped == dropped
    if model.is_open:
        assert stats.held == len(model.views)


@both_transports
def test_a_port_does_what_its_model_says(transport: str) -> None:
    run_state_machine_as_test(
        lambda: PortMachine(transport),  # type: ignore[arg-type]  # all it does is call it
        settings=settings(
            max_examples=EXAMPLES[transport],
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
