"""The wire: what is encoded comes back, and any bytes whatever give a message or `DecodeError`."""

from __future__ import annotations

import random
import re
import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import remotemedia
from remotemedia.data import (
    DTYPES,
    Audio,
    Binary,
    Control,
    File,
    Json,
    Message,
    Tensor,
    Text,
    Video,
    decode,
    encode,
)
from remotemedia.data.layout import KINDS, LAYOUT_BYTES, VERSION
from remotemedia.data.message import MAX_METADATA_BYTES, ArrayMessage
from remotemedia.data.plain import MAX_JSON_BYTES
from remotemedia.data.wire import HEADER, HEADER_BYTES
from remotemedia.errors import DataError, DecodeError

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ints = st.integers(-(1 << 63), (1 << 64) - 1)
floats = st.floats(allow_nan=False)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | ints | floats | texts,
    lambda parts: st.lists(parts, max_size=4) | st.dictionaries(texts, parts, max_size=4),
    max_leaves=12,
)
metadata = st.dictionaries(
    texts,
    st.recursive(
        st.none() | st.booleans() | ints | floats | texts | st.binary(max_size=20),
        lambda parts: st.lists(parts, max_size=3) | st.dictionaries(texts, parts, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)
sizes = st.integers(0, (1 << 63) - 1)
contents = st.one_of(
    st.builds(
        lambda frames, channels, rate: (
            Audio,
            (np.random.default_rng(frames).random((frames, channels), np.float32), rate),
            {},
        ),
        st.integers(0, 50),
        st.integers(1, 8),
        st.integers(1, 768_000),
    ),
    st.builds(
        lambda height, width, form: (
            Video,
            (
                np.full(
                    (height * 3, width * 2) if form[1] is None else (height, width, form[1]),
                    7,
                    np.uint8,
                ),
                form[0],
            ),
            {},
        ),
        st.integers(1, 8),
        st.integers(1, 8),
        st.sampled_from(
            [("rgb24", 3), ("gray", 1), ("bgra", 4), ("yuv420p", None), ("nv12", None)]
        ),
    ),
    st.builds(
        lambda dtype, shape, order: (
            Tensor,
            (np.arange(int(np.prod(shape))).reshape(shape).astype(dtype.newbyteorder(order)),),
            {},
        ),
        st.sampled_from(DTYPES),
        st.lists(st.integers(0, 3), max_size=8).map(tuple),
        st.sampled_from("<>"),
    ),
    texts.map(lambda text: (Text, (text,), {})),
    json_values.map(lambda value: (Json, (value,), {})),
    st.binary(max_size=200).map(lambda data: (Binary, (data,), {})),
    st.builds(
        lambda path, kind, offset, size: (
            File,
            ("/" + path.replace("\0", ""), kind),
            {"offset_bytes": offset, "size_bytes": size},
        ),
        texts,
        texts,
        sizes,
        st.none() | sizes,
    ),
    st.builds(
        lambda name, value: (Control, (name, value), {}),
        texts.filter(bool),
        json_values,
    ),
)
messages: st.SearchStrategy[Any] = st.builds(
    lambda content, timestamp, correlation, extra: content[0](
        *content[1],
        **content[2],
        timestamp_ns=timestamp,
        correlation_id=correlation,
        metadata=extra,
    ),
    contents,
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.integers(0, (1 << 64) - 1),
    metadata,
)


def examples() -> list[Any]:
    """One message of each type, with and without metadata."""
    made = [
        Audio(np.linspace(-1, 1, 96, dtype=np.float32).reshape(48, 2), 48000),
        Video(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)),
        Video(np.zeros((6, 4), np.uint8), "nv12"),
        Tensor(np.arange(24, dtype=np.int16).reshape(2, 3, 4)),
        Tensor(np.zeros((0, 5))),
        Text("hello, wörld"),
        Json({"a": [1, 2.5, None, {"b": "x"}]}),
        Binary(b"\0\1\2" * 20),
        File("/a/b.wav", "audio/wav", size_bytes=3),
        Control("flush", {"now": True}),
    ]
    labelled: list[Any] = [
        Audio(np.zeros((4, 1), np.float32), 16000, metadata={"speaker": "a", "scores": [1, 2.5]}),
        Text("", metadata={"raw": b"\0\1", "deep": {"x": [None, True]}}),
    ]
    return made + labelled


def outcome(header: bytes, body: bytes) -> Message | DecodeError:
    """Decode; only these two may come of it."""
    try:
        message = decode(header, body)
    except DecodeError as error:
        return error
    if isinstance(message, ArrayMessage):
        # Every byte it claims is there to be read.
        getattr(message, "_array").tobytes()  # noqa: B009
    repr(message)
    return message


@settings(max_examples=200, deadline=None)
@given(messages)
def test_what_is_encoded_comes_back(message: Any) -> None:
    header, body = encode(message)
    assert len(header) == HEADER_BYTES
    back = decode(header, body)
    assert type(back) is type(message)
    assert back == message
    assert (back.timestamp_ns, back.correlation_id) == (
        message.timestamp_ns,
        message.correlation_id,
    )
    assert back.metadata == message.metadata
    assert encode(back) == (header, body)


def test_nan_comes_back() -> None:
    for message in (
        Audio(np.full((2, 1), np.nan, np.float32), 8000),
        Tensor(np.array([complex(np.nan, 1)])),
    ):
        assert decode(*encode(message)) == message
    back = decode(*encode(Json(float("nan"))))
    assert isinstance(back, Json)
    assert back.value != back.value


@pytest.mark.parametrize("change", [{1}, (1,), b"x", {1: 2}, 1 << 80, "\ud800", object()])
@pytest.mark.parametrize("type_", [Json, Control])
def test_what_is_no_json_any_more_when_it_is_sent_is_refused(type_: Any, change: Any) -> None:
    value: list[Any] = [1, {"a": []}]
    message = Json(value) if type_ is Json else Control("x", value)
    value[1]["a"].append(2)
    back: Any = decode(*encode(message))
    assert back == message
    value[1]["a"].append(change)
    with pytest.raises(DataError):
        encode(message)
    back.value[1]["a"].append(change)
    with pytest.raises(DataError):
        encode(back)


def test_a_decoded_array_is_a_read_only_view_of_the_bytes() -> None:
    header, body = encode(Tensor(np.arange(4)))
    buffer = bytearray(body)
    tensor = decode(header, buffer)
    assert isinstance(tensor, Tensor)
    buffer[0] = 9
    assert tensor.array[0] == 9
    assert not tensor.array.flags.writeable


def test_decoded_metadata_is_read_only() -> None:
    back = decode(*encode(Text("", metadata={"a": 1})))
    with pytest.raises(TypeError):
        back.metadata["a"] = 2  # type: ignore[index]


def test_another_version_is_told_from_damage() -> None:
    header, body = encode(Text("x"))
    newer = header[:3] + bytes([VERSION + 1]) + header[4:]
    with pytest.raises(
        DecodeError,
        match=f"wire version {VERSION + 1}; this process speaks {VERSION}.*same version",
    ):
        decode(newer, body)
    with pytest.raises(DecodeError, match="does not begin with its mark"):
        decode(b"\0" * HEADER_BYTES, body)


@pytest.mark.parametrize("length", [0, 1, HEADER_BYTES - 1, HEADER_BYTES + 1])
def test_a_header_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(DecodeError, match=f"{length} bytes; it must have {HEADER_BYTES}"):
        decode(bytes(length), b"")


def test_bytes_too_few_or_too_many_are_told() -> None:
    header, body = encode(Binary(b"abc"))
    with pytest.raises(DecodeError):
        decode(header, body[:-1])
    with pytest.raises(DecodeError, match="2 bytes too many"):
        decode(header, body + b"xx")


@settings(max_examples=300, deadline=None)
@given(
    st.binary(min_size=HEADER_BYTES - 4, max_size=HEADER_BYTES - 4),
    st.booleans(),
    st.binary(max_size=300),
)
def test_any_bytes_give_a_message_or_an_error(tail: bytes, is_marked: bool, body: bytes) -> None:
    mark = b"RMD" + bytes([VERSION]) if is_marked else b"\0\0\0\0"
    outcome(mark + tail, body)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(range(len(KINDS))), st.binary(max_size=300), st.integers(0, 300))
def test_any_payload_of_any_kind_gives_a_message_or_an_error(
    kind: int, body: bytes, metadata_bytes: int
) -> None:
    payload_bytes = max(0, len(body) - metadata_bytes)
    block = struct.pack(
        "<3sB4BIIQ8I", b"RMD", VERSION, kind, 5, 1, 0, 0, 0, payload_bytes, payload_bytes, *[0] * 7
    )
    if KINDS[kind] not in (Binary, Tensor):
        block = block[:6] + b"\0" + block[7:24] + bytes(32)
    metadata_bytes = min(metadata_bytes, len(body))
    outcome(HEADER.pack(block, 0, metadata_bytes, 0, bytes(16), 0, 0, 0), body)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_metadata_gives_plain_values_or_an_error(encoded: bytes) -> None:
    header, body = encode(Text("x"))
    header = header[:60] + struct.pack("<I", len(encoded)) + header[64:]
    found = outcome(header, body + encoded)
    if isinstance(found, Message):
        Text("", metadata=found.metadata)


def test_metadata_that_is_not_plain_is_refused() -> None:
    header, body = encode(Text("x"))
    for encoded, words in (
        (b"\x81\x01\x02", "has the key 1"),
        (b"\x81\xa1a\x81\x01\x02", "has the key 1"),
        (b"\x81\xa1a\xd6\xff\x00\x00\x00\x00", "is a datetime"),
        (b"\x81\xa1a\xd4\x05\x00", "is a Ext"),
        (b"\x90", "is a list"),
        (b"\x81\xa1a", "truncated"),
        (b"\x81\xa1a" + b"\x91" * 100 + b"\x01", "nests more than 64 deep"),
        (b"\x81\xa1a" + b"\x91" * 50_000 + b"\x01", "the metadata is damaged"),
    ):
        changed = header[:60] + struct.pack("<I", len(encoded)) + header[64:]
        with pytest.raises(DecodeError, match=words):
            decode(changed, body + encoded)


EXTREMES = [0, 1, 2, 7, 0x7F, 0x80, 0xFF]


def mutations(header: bytes, body: bytes, dice: random.Random) -> list[tuple[bytes, bytes]]:
    """Damage of every sort, done to one message."""
    words = (0xFFFF_FFFF, 0x8000_0000, 0x7FFF_FFFF, 1 << 28, 1, len(body), len(body) + 1)
    quads = ((1 << 64) - 1, 1 << 63, (1 << 63) - 1, 1 << 32)
    patches = [(at, bytes([value])) for at in range(HEADER_BYTES) for value in EXTREMES]
    patches += [(at, bytes([header[at] ^ 1 << dice.randrange(8)])) for at in range(HEADER_BYTES)]
    patches += [(at, struct.pack("<I", word)) for at in range(0, 64, 4) for word in words]
    patches += [(at, struct.pack("<Q", quad)) for at in range(0, 112, 8) for quad in quads]
    found = [(header[:at] + patch + header[at + len(patch) :], body) for at, patch in patches]
    for _ in range(60):
        flipped = bytearray(body)
        for _ in range(dice.randrange(4) if flipped else 0):
            flipped[dice.randrange(len(flipped))] ^= 1 << dice.randrange(8)
        found.append((header, bytes(flipped)))
        found.append((header, body[: dice.randrange(len(body) + 1)]))
        found.append((header, body + dice.randbytes(dice.randrange(1, 9))))
        found.append((dice.randbytes(dice.randrange(2 * HEADER_BYTES)), body))
    return found


@pytest.mark.parametrize("number", range(len(examples())))
def test_damage_gives_a_message_or_an_error_quickly_and_in_little_memory(number: int) -> None:
    header, body = encode(examples()[number])
    damaged = mutations(header, body, random.Random(number))
    outcome(header, body)
    tracemalloc.start()
    try:
        began = time.monotonic()
        errors = sum(isinstance(outcome(*one), DecodeError) for one in damaged)
        seconds = time.monotonic() - began
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert errors > len(damaged) // 3
    assert peak_bytes < 4 << 20
    assert seconds < 20


def layout_block(kind: type[Message], **fields: Any) -> bytes:
    known = {"code": 0, "rank": 0, "rate": 0, "payload": 0, "shape": (), **fields}
    shape = (*known["shape"], *[0] * (8 - len(known["shape"])))
    return struct.pack(
        "<3sB4BIIQ8I",
        *(b"RMD", VERSION, KINDS.index(kind), known["code"], known["rank"], 0),
        *(known["rate"], 0, known["payload"], *shape),
    )


EMPTY_BUT_ENDLESS = (0, *[0xFFFF_FFFF] * 7)


@pytest.mark.parametrize(
    "block",
    [
        layout_block(Tensor, code=11, rank=8, shape=EMPTY_BUT_ENDLESS),
        layout_block(Tensor, code=11, rank=8, shape=[0xFFFF_FFFF] * 8),
        layout_block(Tensor, code=11, rank=8, shape=[1 << 16] * 4 + [1] * 4),
        layout_block(Tensor, code=99),
        layout_block(Tensor, rank=9, payload=1),
        layout_block(Tensor, rank=1, shape=(2, 2), payload=2),
        layout_block(Audio, rank=2, shape=(1 << 30, 256), rate=1),
        layout_block(Audio, rank=2, shape=(1, 1), rate=0, payload=4),
        layout_block(Audio, rank=1, shape=(1,), rate=1, payload=4),
        layout_block(Audio, rank=2, shape=(0, 0), rate=1),
        layout_block(Video, code=1, rank=3, shape=(65_535, 65_535, 3), payload=65_535**2 * 3),
        layout_block(Video, code=200, rank=3, shape=(1, 1, 1), payload=1),
        layout_block(Video, code=5, rank=2, shape=(7, 4), payload=28),
        layout_block(Video, code=1, rank=3, shape=(1, 1, 3), rate=5, payload=3),
        layout_block(Binary, rank=1, shape=(0xFFFF_FFFF,), payload=0xFFFF_FFFF),
        layout_block(Binary, rank=1, shape=(1,), payload=1 << 63),
        layout_block(Binary, payload=1),
        layout_block(Text, payload=(1 << 64) - 1),
        layout_block(Text, rank=1, shape=(1,)),
        layout_block(Json),
        b"RMD\1" + b"\xff" * 52,
    ],
)
def test_a_header_that_claims_too_much_or_nonsense_is_refused(block: bytes) -> None:
    body = bytes(64)
    header = HEADER.pack(block, 0, 0, 0, bytes(16), 0, 0, 0)
    with pytest.raises(DecodeError):
        decode(header, body)
    with pytest.raises(DecodeError):
        decode(header, b"")


def test_metadata_and_reserved_words_beyond_their_bounds_are_refused() -> None:
    header, body = encode(Text("x"))
    large = bytes(MAX_METADATA_BYTES + 1)
    with pytest.raises(DecodeError, match="65,537 bytes of metadata"):
        decode(header[:60] + struct.pack("<I", len(large)) + header[64:], body + large)
    with pytest.raises(DecodeError, match="0x80000000 in place of 0"):
        decode(header[:56] + struct.pack("<I", 1 << 31) + header[60:], body)


@pytest.mark.parametrize(("offset", "size"), [(56, 4), (72, 4), (80, 8)])
def test_every_reserved_field_must_be_0(offset: int, size: int) -> None:
    header, body = encode(Text("x"))
    for byte in range(offset, offset + size):
        with pytest.raises(DecodeError, match=r"damaged .* in place of 0"):
            decode(header[:byte] + b"\1" + header[byte + 1 :], body)


def test_a_long_list_that_is_not_there_takes_no_memory() -> None:
    for claim in (b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"):
        header = HEADER.pack(layout_block(Json, payload=5), 0, 0, 0, bytes(16), 0, 0, 0)
        tracemalloc.start()
        try:
            with pytest.raises(DecodeError):
                decode(header, claim)
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
        finally:
            tracemalloc.stop()


def test_deep_nesting_is_an_error_not_a_crash() -> None:
    for body in (b"\x91" * 100_000 + b"\x01", b"\x81\xa0" * 100_000 + b"\x01"):
        header = HEADER.pack(layout_block(Json, payload=len(body)), 0, 0, 0, bytes(16), 0, 0, 0)
        with pytest.raises(DecodeError):
            decode(header, body)


def test_an_encoding_of_wrong_parts_is_refused() -> None:
    for kind, value in (
        (File, ["/a", ""]),
        (File, {"path": "/a"}),
        (File, ["", "", 0, None]),
        (File, ["/a", "", -1, None]),
        (File, [1, "", 0, None]),
        (Control, ["", None]),
        (Control, [None, None]),
        (Control, "flush"),
        (Json, b"bytes"),
    ):
        body = msgspec.msgpack.encode(value)
        header = HEADER.pack(layout_block(kind, payload=len(body)), 0, 0, 0, bytes(16), 0, 0, 0)
        with pytest.raises(DecodeError, match=f"no {kind.__name__}"):
            decode(header, body)


def test_what_was_changed_into_nonsense_is_refused_when_sent() -> None:
    text = Text("x")
    text.timestamp_ns = "now"  # type: ignore[assignment]
    with pytest.raises(DataError, match="timestamp_ns is 'now'"):
        encode(text)
    text = Text("x")
    text.correlation_id = -1
    with pytest.raises(DataError, match="correlation_id is -1"):
        encode(text)
    text = Text("x")
    text.metadata = {1: 2}  # type: ignore[dict-item]
    with pytest.raises(DataError, match="metadata has the key 1"):
        encode(text)
    text = Text("x", metadata={"a": [1]})
    text.metadata["a"].append({2})  # type: ignore[union-attr, arg-type]
    with pytest.raises(DataError, match="is a set"):
        encode(text)
    value: list[Any] = [1]
    json = Json(value)
    value.append(object())
    with pytest.raises(DataError, match="Json must be plain data"):
        encode(json)


def test_what_is_no_message_cannot_be_sent() -> None:
    for value in ("text", None, {"a": 1}, np.zeros(3), Message()):
        with pytest.raises(DataError, match=r"cannot be sent; send one of Audio, Video"):
            encode(value)  # type: ignore[arg-type]


def test_a_message_is_at_most_256_mib() -> None:
    large = np.broadcast_to(np.uint8(0), (1 << 28) + 1)
    with pytest.raises(DataError, match=r"268,435,457 bytes.*at most 268,435,456.*in parts"):
        encode(Tensor(large))


@pytest.mark.parametrize("kind", [Json, Control])
def test_json_is_bounded_where_it_is_made_sent_and_read(kind: type[Message]) -> None:
    def make(value: Any) -> Any:
        return Json(value) if kind is Json else Control("set", value)

    room = MAX_JSON_BYTES - (5 if kind is Json else 10)
    most = make("x" * room)
    header, body = encode(most)
    assert len(body) == MAX_JSON_BYTES
    with pytest.raises(DataError, match=r"at most 16,777,216 .* Binary or File"):
        make("x" * (room + 1))
    most.value += "x"
    with pytest.raises(DataError, match=r"at most 16,777,216 .* Binary or File"):
        encode(most)
    longer = layout_block(kind, payload=MAX_JSON_BYTES + 1) + header[LAYOUT_BYTES:]
    with pytest.raises(DecodeError, match=r"16,777,217 bytes; it holds at most"):
        decode(longer, body + b"\0")


def test_a_damaged_file_is_refused_before_it_is_made_into_lists() -> None:
    payload = msgspec.msgpack.encode([[]] * 1_000_000)
    header, _ = encode(File("a"))
    longer = layout_block(File, payload=len(payload)) + header[LAYOUT_BYTES:]
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError, match="the payload is no File"):
            decode(longer, payload)
        assert tracemalloc.get_traced_memory()[1] < 10 * len(payload)
    finally:
        tracemalloc.stop()


def test_there_is_no_pickle_anywhere() -> None:
    for path in Path(remotemedia.__file__).parent.rglob("*.py"):
        found = re.search(r"\b(import|from)\s+(c?pickle|marshal|shelve|dill)\b", path.read_text())
        assert found is None, path
