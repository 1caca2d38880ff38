"""The other process in tests of channels: `python -m tests.channel_peer ROLE OPTIONS`.

It says "ready" and what it found as lines of JSON on its standard output.
"""

from __future__ import annotations

import json
import os
import random
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from remotemedia.core.multiprocess.channel.endpoint import Endpoint
from remotemedia.core.multiprocess.channel.ticket import Ticket
from remotemedia.core.multiprocess.transport.doorbell import Doorbell
from remotemedia.core.multiprocess.transport.ledger import Ledger
from remotemedia.core.multiprocess.transport.membarrier import membarrier
from remotemedia.data import Binary
from remotemedia.errors import BackpressureError, ChannelError, PeerLost
from tests.channel_helpers import number, open_seal, sealed, value_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from remotemedia.core.multiprocess.channel.subscriber import Subscriber
    from remotemedia.data import Message


def say(what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


@contextmanager
def opened(options: dict[str, Any]) -> Iterator[Endpoint]:
    if not options.get("has_membarrier", True):
        membarrier.is_available = False
    spin_ns = options.get("spin_ns", 0)
    with Endpoint.open(Ticket.from_json(options["ticket"]), spin_ns=spin_ns) as endpoint:
        say("ready")
        yield endpoint


def only_reader(endpoint: Endpoint) -> Subscriber:
    (subscriber,) = endpoint.subscribers.values()
    return subscriber


def pong(options: dict[str, Any]) -> None:
    """Answer each count in one ledger word with the same count in another."""
    if not options["has_membarrier"]:
        membarrier.is_available = False
    words = Ledger(options["ledger_fd"]).words
    mine, theirs = options["mine"], options["theirs"]
    bell = Doorbell(words, mine, options["doorbell_fd"], options["spin_ns"])
    say("ready")
    for count in range(1, options["times"] + 1):
        answer_when(words, bell, theirs, mine, options["peer_fd"], count)
    say("done")


def answer_when(
    words: memoryview, bell: Doorbell, theirs: int, mine: int, peer_fd: int, count: int
) -> None:
    """Wait until the peer's word says `count`, then say so too."""
    at = theirs + 1
    assert bell.wait_for(lambda: words[at] >= count or None, 30) is True, f"lost ring {count}"
    words[mine + 1] = count
    if words[theirs]:
        os.eventfd_write(peer_fd, 1)


def echo(options: dict[str, Any]) -> None:
    """Send every message back."""
    with opened(options) as endpoint:
        (publisher,) = endpoint.publishers.values()
        for message in only_reader(endpoint):
            publisher.send(number(value_of(message)))


def count(options: dict[str, Any]) -> None:
    """Receive numbers in order to the end, each `toil` rounds of work apart; say how many."""
    with opened(options) as endpoint:
        subscriber, received = only_reader(endpoint), 0
        toil = options.get("toil", 0)
        for message in subscriber:
            assert value_of(message) == received, f"{value_of(message)} after {received - 1}"
            received += 1
            for _ in range(toil):
                pass
        say(received)


def sift(options: dict[str, Any]) -> None:
    """Receive numbers in order, with gaps, to the end; say how many."""
    with opened(options) as endpoint:
        last, received = -1, 0
        for message in only_reader(endpoint):
            assert value_of(message) > last
            last = value_of(message)
            received += 1
        say(received)


def check(options: dict[str, Any]) -> None:
    """Receive sealed messages, as many as come; some of them are kept for a while."""
    with opened(options) as endpoint:
        kept: list[Message] = []
        last = 0
        try:
            for message in only_reader(endpoint):
                assert open_seal(message) > last
                last = open_seal(message)
                kept = [*kept, message][-options.get("keeps", 2) :]
        except PeerLost:
            pass
        say(last)


def write(options: dict[str, Any]) -> None:
    """Send sealed messages of all sizes until somebody stops us; say how it ended."""
    rng = random.Random(options["seed"])
    with opened(options) as endpoint:
        (publisher,) = endpoint.publishers.values()
        try:
            for count in range(1, options.get("times", 1 << 62) + 1):
                publisher.send(sealed(count, size_of(rng, options["largest"])))
            sys.stdin.readline()
        except (PeerLost, BackpressureError) as error:
            say(type(error).__name__)


def burst(options: dict[str, Any]) -> None:
    """Send numbers padded to a size, say so, and leave."""
    with opened(options) as endpoint:
        (publisher,) = endpoint.publishers.values()
        for count in range(options["times"]):
            publisher.send(Binary(count.to_bytes(8, "little").ljust(options["nbytes"], b".")))
        say("sent")
        if options.get("stays"):
            sys.stdin.readline()


def size_of(rng: random.Random, largest: int) -> int:
    """Small ones mostly; some that need a larger segment than all before."""
    return 16 if rng.random() < 0.7 else int(16 * (largest / 16) ** rng.random())


def hold(options: dict[str, Any]) -> None:
    """Open, and do nothing more until told to end."""
    with opened(options):
        sys.stdin.readline()


def take(options: dict[str, Any]) -> None:
    """Receive as many as each line of input says, and say what they were."""
    with opened(options) as endpoint:
        subscriber = only_reader(endpoint)
        for line in sys.stdin:
            try:
                say([value_of(subscriber.receive(30)) for _ in range(json.loads(line))])
            except ChannelError as error:
                say(type(error).__name__)


ROLES = {role.__name__: role for role in (pong, echo, count, sift, check, write, burst, hold, take)}

if __name__ == "__main__":
    ROLES[sys.argv[1]](json.loads(sys.argv[2]))
