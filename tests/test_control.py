"""Control messages: bounded frames, and any bytes are a message or a typed error."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remotemedia.core.multiprocess import control
from remotemedia.errors import ExecutorError

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

FROM_RUNNER: list[control.FromRunner] = [
    control.Hello(control.PROTOCOL_VERSION),
    control.Progress("loading", 0.62, "weights"),
    control.Ready(),
    control.Stack("File ..."),
    control.Failed("loading", "no such file", "Traceback ..."),
    control.NodeFailure(2**64 - 1, "bad", "Traceback ...", "text 3"),
    control.Connected("a.out -> b.in"),
    control.Connected("a.out -> b.in", "ResourceLimit: ..."),
    control.Drained(),
]
TO_RUNNER: list[control.ToRunner] = [
    control.Interrupt(),
    control.Drain(),
    control.ShowStack(),
    control.Stop(),
]


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, two = control.new_pair()
    with one, two:
        yield one, two


def test_messages_keep_their_boundaries_and_order(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    one, two = ends
    for message in FROM_RUNNER:
        control.send(one, message)
    for message in FROM_RUNNER:
        assert control.decode_from_runner(control.receive(two)[0]) == message
    for order in TO_RUNNER:
        control.send(two, order)
        assert control.decode_to_runner(control.receive(one)[0]) == order


def test_descriptors_come_with_their_message(ends: tuple[socket.socket, socket.socket]) -> None:
    one, two = ends
    reading, writing = os.pipe()
    control.send(one, control.Drain(), [writing])
    os.close(writing)
    _, (received,) = control.receive(two)
    os.write(received, b"x")
    os.close(received)
    assert os.read(reading, 2) == b"x"
    os.close(reading)


def test_the_end_of_the_other_side_is_an_empty_frame(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    one, two = ends
    one.close()
    assert control.receive(two) == (b"", [])


def test_a_frame_that_is_too_large_is_refused_before_it_is_sent(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    one, two = ends
    with pytest.raises(ExecutorError, match=r"a Stack takes .* a control frame holds 196,608"):
        control.send(one, control.Stack("x" * control.MAX_FRAME_BYTES))
    two.setblocking(False)
    with pytest.raises(BlockingIOError):
        control.receive(two)


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ("reference", r"the code .* take 196,613 of them; put it into a module$"),
        ("parameters", r"the parameters .* take 196,613 of them; pass large ones as a path"),
        ("ticket", r"the connections .* take 196,613 of them; share them out"),
    ],
)
def test_what_makes_a_configuration_too_large_is_named(
    ends: tuple[socket.socket, socket.socket], part: str, text: str
) -> None:
    small = msgspec.Raw(b"\xc0")
    large = msgspec.Raw(msgspec.msgpack.encode(b"x" * control.MAX_FRAME_BYTES))
    whole = control.Configure(
        *("s", "n", small, small, small, (), ()),
        host=0,
        on_error="fail",
        spin_ns=0,
        busy_every_ns=0,
    )
    with pytest.raises(ExecutorError, match=f"a Configure takes .* holds 196,608: {text}"):
        control.send(ends[0], msgspec.structs.replace(whole, **{part: large}))


def test_a_long_text_keeps_its_beginning_and_end_and_then_fits() -> None:
    text = "first" + "é" * 500_000 + "last"
    short = control.shorten(text)
    assert short.startswith("first")
    assert short.endswith("last")
    assert "bytes left out" in short
    frame = msgspec.msgpack.encode(control.Failed("processing", "bad", short))
    assert len(frame) < control.MAX_FRAME_BYTES
    assert control.shorten("short") == "short"


def test_messages_of_the_other_direction_are_refused() -> None:
    with pytest.raises(ExecutorError, match="a control frame is damaged"):
        control.decode_to_runner(msgspec.msgpack.encode(control.Ready()))
    with pytest.raises(ExecutorError, match="a control frame is damaged"):
        control.decode_from_runner(msgspec.msgpack.encode(control.Stop()))


def decoded_or_refused(frame: bytes) -> None:
    for decode in (control.decode_from_runner, control.decode_to_runner):
        try:
            decode(frame)
        except ExecutorError as error:
            assert "a control frame is damaged" in str(error)  # noqa: PT017 - either is right


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_typed_error(frame: bytes) -> None:
    decoded_or_refused(frame)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([*FROM_RUNNER, *TO_RUNNER]),
    st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 255)), min_size=1, max_size=3),
)
def test_a_damaged_message_is_a_message_or_a_typed_error(
    message: control.FromRunner | control.ToRunner, damage: list[tuple[int, int]]
) -> None:
    frame = bytearray(msgspec.msgpack.encode(message))
    for position, byte in damage:
        frame[position % len(frame)] = byte
    decoded_or_refused(bytes(frame))


@pytest.mark.parametrize(
    "frame",
    [
        b"\x81\xa4type\xa5He\x84lo",  # text that is no UTF-8
        b"\x91" * 100_000,  # nests without end
        b"\xdd\xff\xff\xff\xff",  # announces four billion values
        b"",
    ],
)
def test_hostile_frames_are_refused(frame: bytes) -> None:
    with pytest.raises(ExecutorError, match="a control frame is damaged"):
        control.decode_from_runner(frame)
