"""A shared memory that is full, before or during: an error that says what to do, never a signal."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests import small_shm
from tests.small_shm import DONE, EXHAUSTED, KIB, MIB

pytestmark = pytest.mark.skipif(
    small_shm.unshare() is None,
    reason="needs unshare(1) and the right to mount a tmpfs in a namespace of its own",
)


def run(size_kib: int, scenario: str, *arguments: object) -> dict[str, Any]:
    """Run a scenario; nothing of it may be left in the memory, and its ledger must balance."""
    result: dict[str, Any] = small_shm.run(size_kib, scenario, *arguments)
    assert result["left_at_the_end"] == []
    if "stats" in result:
        assert result["stats"]["balanced"]
    return result


def assert_tells_what_to_do(said: dict[str, Any]) -> None:
    """The error has what was needed, what was free, and the setting to change."""
    assert said["needed"] > said["free"] >= 0
    assert said["path"] == "/dev/shm"
    for part in (
        f"{said['needed']:,} bytes",
        f"{said['free']:,} free",
        "remount,size=",
        "--shm-size",
        "capacity or max_message_bytes",
    ):
        assert part in said["text"]


def test_with_too_little_memory_a_channel_does_not_open_and_leaves_nothing() -> None:
    result = run(64, "opening_at_every_size", 64, 4096, 192)
    assert set(result["statuses"]) == {DONE, EXHAUSTED}
    assert result["statuses"][0] == EXHAUSTED
    assert result["statuses"][-1] == DONE
    assert result["left"] == []


def test_a_message_that_does_not_fit_is_refused_and_the_channel_goes_on() -> None:
    said = run(8 * KIB, "too_large", 16 * MIB)
    assert_tells_what_to_do(said)
    assert "a message of port camera.out" in said["text"]
    assert said["needed"] > 16 * MIB
    assert said["stats"]["sent"] == 3


def test_messages_are_accepted_until_the_memory_is_full_and_all_of_those_arrive() -> None:
    result = run(8 * KIB, "until_full", 500_000)
    assert_tells_what_to_do(result["said"])
    assert 8 <= result["accepted"] <= 16
    assert result["after"] == 50


def test_growth_fails_while_memory_is_short_and_succeeds_once_it_is_free() -> None:
    result = run(8 * KIB, "growth_when_nearly_full")
    assert result["refused"] > 10
    assert result["accepted"] > 10


def test_a_declared_size_is_refused_at_once_or_reserved_for_good() -> None:
    said = run(8 * KIB, "declared_too_large")
    assert_tells_what_to_do(said)
    assert "opening the writer of port large" in said["text"]
    assert said["needed"] > 16 * MIB
    assert said["taken"] == 0
    assert said["stats"]["sent"] == 40


def test_an_end_that_could_not_open_opens_once_there_is_memory() -> None:
    result = run(16 * KIB, "late_ends_when_nearly_full")
    assert result["statuses"].count(DONE) == 3
    assert result["statuses"].count(EXHAUSTED) > 10


def test_an_open_channel_survives_another_program_that_fights_for_the_memory() -> None:
    result = run(8 * KIB, "sending_race", 4000, random.randrange(1 << 30))
    assert result["accepted"] > 1000


def test_processes_that_grow_at_once_never_take_each_others_pages() -> None:
    result = run(5 * KIB, "together", 4, 5)
    assert len(result["statuses"]) == 20
    assert set(result["statuses"]) <= {DONE, EXHAUSTED}
    assert DONE in result["statuses"]
