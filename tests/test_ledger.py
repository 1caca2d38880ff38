"""The ledger: words that several processes share, by descriptor alone."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys

import pytest

from remotemedia.core.multiprocess.transport.ledger import (
    CONNECTION_WORDS,
    ENDPOINT_WORDS,
    HISTOGRAM_AT,
    PORT_WORDS,
    UNLINKED,
    WORDS,
    ConnectionWord,
    EndpointWord,
    Ledger,
    LedgerWord,
    PortWord,
    drop_unread,
)
from remotemedia.errors import ChannelError, ResourceLimit
from tests.channel_helpers import open_fds, shared_mappings


def test_what_one_mapping_writes_the_other_reads() -> None:
    with Ledger.create() as ledger, Ledger(os.dup(ledger.fd)) as other:
        slot = ledger.allocate(PORT_WORDS)
        ledger.words[slot] = (1 << 64) - 1
        assert other.words[slot] == (1 << 64) - 1
        other.words[slot] = 7
        assert ledger.words[slot] == 7


def run_on(ledger: Ledger, slot: int, action: str) -> int:
    """Do something to a ledger in another process; return how that ended."""
    code = (
        "import os, sys; from remotemedia.core.multiprocess.transport.ledger import Ledger\n"
        f"words, slot = Ledger(int(sys.argv[1])).words, int(sys.argv[2])\n{action}"
    )
    arguments = [sys.executable, "-c", code, str(ledger.fd), str(slot)]
    environment = {**os.environ, "PYTHONPATH": "src"}
    return subprocess.run(arguments, pass_fds=[ledger.fd], check=False, env=environment).returncode


def test_another_process_reads_and_writes_it_by_descriptor() -> None:
    with Ledger.create() as ledger:
        slot = ledger.allocate(PORT_WORDS)
        ledger.words[slot] = 41
        assert run_on(ledger, slot, "words[slot] += 1") == 0
        assert ledger.words[slot] == 42


def test_it_outlives_the_process_that_wrote_it() -> None:
    with Ledger.create() as ledger:
        slot = ledger.allocate(PORT_WORDS)
        killed = run_on(ledger, slot, "words[slot] = 42; os.kill(os.getpid(), 9)")
        assert killed == -signal.SIGKILL
        assert ledger.words[slot] == 42


def test_blocks_are_zeroed_and_never_overlap() -> None:
    with Ledger.create() as ledger:
        seen: set[int] = set()
        for count in (PORT_WORDS, CONNECTION_WORDS, ENDPOINT_WORDS, 1, PORT_WORDS):
            slot = ledger.allocate(count)
            block = set(range(slot, slot + count))
            assert not block & seen
            assert slot > max(LedgerWord)
            assert ledger.words[slot : slot + count].tolist() == [0] * count
            ledger.words[slot] = 1
            seen |= block


def test_words_that_were_given_back_are_handed_out_again_zeroed() -> None:
    with Ledger.create() as ledger:
        first, other = ledger.allocate(CONNECTION_WORDS), ledger.allocate(CONNECTION_WORDS)
        for at in range(first, first + CONNECTION_WORDS):
            ledger.words[at] = 9
        ledger.words[other] = 5
        ledger.free(first, CONNECTION_WORDS)
        assert ledger.allocate(PORT_WORDS) not in range(first, first + CONNECTION_WORDS)
        assert ledger.allocate(CONNECTION_WORDS) == first
        block = ledger.words[first : first + CONNECTION_WORDS].tolist()
        assert block == [0] * CONNECTION_WORDS
        assert ledger.words[other] == 5


def test_a_full_ledger_refuses_and_says_how_much_a_session_holds() -> None:
    with Ledger.create() as ledger:
        ledger.allocate(WORDS - ENDPOINT_WORDS)
        with pytest.raises(
            ResourceLimit, match=r"full \(131,072 words\).*each connection takes 64"
        ):
            ledger.allocate(1)


def test_the_words_of_a_block_fit_into_it() -> None:
    assert max(PortWord) < PORT_WORDS
    assert max(EndpointWord) < HISTOGRAM_AT < ENDPOINT_WORDS
    assert max(ConnectionWord) < HISTOGRAM_AT < CONNECTION_WORDS


def test_nobody_can_cut_it_short_under_a_reader() -> None:
    with Ledger.create() as ledger:
        for size in (0, 1 << 30):
            with pytest.raises(OSError, match="Operation not permitted") as refusal:
                os.ftruncate(ledger.fd, size)
            assert refusal.value.errno == errno.EPERM


def test_only_a_ledger_is_taken_for_one_and_the_descriptor_stays_the_callers() -> None:
    empty, whole = os.memfd_create("empty"), os.memfd_create("whole")
    os.ftruncate(whole, WORDS * 8)
    try:
        with pytest.raises(ChannelError, match="no ledger: it has 0 bytes"):
            Ledger(empty)
        with pytest.raises(ChannelError, match="no ledger of this version"):
            Ledger(whole)
        os.fstat(empty)
        os.fstat(whole)
    finally:
        os.close(empty)
        os.close(whole)
    with pytest.raises(ChannelError, match="Bad file descriptor"):
        Ledger(empty)


def test_closing_twice_is_harmless_and_gives_everything_back() -> None:
    fds, mappings = open_fds(), shared_mappings()
    ledger = Ledger.create()
    ledger.close()
    ledger.close()
    del ledger
    assert open_fds() == fds
    assert shared_mappings() == mappings


def test_what_still_refers_to_its_words_may_use_them_after_it_was_closed() -> None:
    ledger = Ledger.create()
    words, part = ledger.words, ledger.words[100:110]
    ledger.close()
    words[105] = 3
    assert part[5] == 3


@pytest.mark.parametrize(
    ("base", "position", "sent", "dropped"),
    [(0, 0, 0, 0), (0, 3, 5, 2), (4, 0, 5, 1), (5, 0, 5, 0), (UNLINKED, 0, 5, 0), (0, 5, 5, 0)],
)
def test_what_a_reader_leaves_unread_is_counted_once(
    base: int, position: int, sent: int, dropped: int
) -> None:
    with Ledger.create() as ledger:
        port, at = ledger.allocate(PORT_WORDS), ledger.allocate(CONNECTION_WORDS)
        words = ledger.words
        words[port + PortWord.SENT] = sent
        words[at + ConnectionWord.BASE] = base
        words[at + ConnectionWord.POSITION] = position
        for _ in range(2):
            drop_unread(words, port, at, ConnectionWord.DROPPED_CLOSED)
            assert words[at + ConnectionWord.DROPPED_CLOSED] == dropped
