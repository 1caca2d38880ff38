"""Message types: what they accept, what they say of what they refuse, and how they compare."""

from __future__ import annotations

import copy
import datetime
import pickle
import time
from collections import OrderedDict
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from remotemedia.data import (
    DTYPES,
    PIXEL_FORMATS,
    Audio,
    Binary,
    Control,
    File,
    Json,
    Message,
    Tensor,
    Text,
    Video,
)
from remotemedia.data.message import ArrayMessage
from remotemedia.errors import DataError, ReleasedError

if TYPE_CHECKING:
    from collections.abc import Callable


HUGE = 10**5000  # more digits than Python shows
LONE_SURROGATE = "\ud800"


def mono(frames: int = 4) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.zeros((frames, 1), np.float32)


def picture(*shape: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.zeros(shape, np.uint8)


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


# What is refused, and the words that say what was wrong and what is allowed.
REFUSED: dict[str, tuple[Callable[[], object], list[str]]] = {
    "audio of a list": (lambda: Audio([0.0], 16000), ["samples is a list", "numpy", "DLPack"]),
    "audio in float64": (lambda: Audio(np.zeros(4), 16000), ["float64", "must be float32"]),
    "audio in int16": (
        lambda: Audio(np.zeros(4, np.int16), 16000),
        ["int16", "float32", "divide int16 by 32768"],
    ),
    "audio in big-endian floats": (lambda: Audio(np.zeros(4, ">f4"), 16000), [">f4", "float32"]),
    "audio of three dimensions": (
        lambda: Audio(np.zeros((2, 2, 2), np.float32), 16000),
        ["(2, 2, 2)", "(frames, channels)"],
    ),
    "audio without dimensions": (
        lambda: Audio(np.zeros((), np.float32), 16000),
        ["()", "(frames, channels)"],
    ),
    "audio without channels": (
        lambda: Audio(np.zeros((4, 0), np.float32), 16000),
        ["number of channels is 0", "1 to 256"],
    ),
    "audio of 257 channels": (
        lambda: Audio(np.zeros((1, 257), np.float32), 16000),
        ["257", "1 to 256"],
    ),
    "audio with channels first": (
        lambda: Audio(np.zeros((2, 16000), np.float32), 16000),
        ["(2, 16000)", "(frames, channels)", "1 to 256", "samples.T"],
    ),
    "rate 0": (lambda: Audio(mono(), 0), ["sample_rate is 0", "1 to 768,000"]),
    "rate below 0": (lambda: Audio(mono(), -16000), ["-16000", "1 to 768,000"]),
    "rate too high": (lambda: Audio(mono(), 768_001), ["768001", "1 to 768,000"]),
    "rate a bool": (lambda: Audio(mono(), True), ["True", "whole number"]),
    "rate a float": (lambda: Audio(mono(), 16000.0), ["16000.0", "whole number"]),  # type: ignore[arg-type]
    "rate a text": (lambda: Audio(mono(), "16000"), ["'16000'", "whole number"]),  # type: ignore[arg-type]
    "rate huge": (lambda: Audio(mono(), HUGE), ["int that cannot be shown", "1 to 768,000"]),
    "audio behind a mask": (
        lambda: Audio(np.ma.array(mono(), mask=True), 16000),
        ["masked array", "filled()"],
    ),
    "video in float": (lambda: Video(np.zeros((2, 2, 3))), ["float64", "must be uint8"]),
    "video of an unknown format": (
        lambda: Video(picture(2, 2, 3), "rgb"),
        ["format is 'rgb'", "rgb24", "nv12"],
    ),
    "video whose format is no text": (
        lambda: Video(picture(2, 2, 3), ["rgb24"]),  # type: ignore[arg-type]
        ["['rgb24']", "rgb24"],
    ),
    "video of the wrong depth": (
        lambda: Video(picture(2, 2, 4), "rgb24"),
        ["(2, 2, 4)", "(height, width, 3)"],
    ),
    "video of two dimensions": (lambda: Video(picture(2, 2), "rgb24"), ["(height, width, 3)"]),
    "video without rows": (lambda: Video(picture(0, 2, 3)), ["(0, 2, 3)", "1 to 65,535"]),
    "video too wide": (lambda: Video(picture(1, 65_536), "gray"), ["65536", "65,535"]),
    "planar video too wide": (lambda: Video(picture(3, 65_538), "nv12"), ["65538", "65,535"]),
    "planar video of odd height": (
        lambda: Video(picture(5 * 3 // 2, 4), "yuv420p"),
        ["(7, 4)", "even height and width"],
    ),
    "planar video of odd width": (
        lambda: Video(picture(6, 5), "yuv420p"),
        ["(6, 5)", "even height and width"],
    ),
    "planar video of three dimensions": (
        lambda: Video(picture(6, 4, 3), "nv12"),
        ["(height * 3 / 2, width)"],
    ),
    "planar video without dimensions": (lambda: Video(picture(), "nv12"), ["()", "nv12"]),
    "tensor of a list": (lambda: Tensor([1, 2]), ["array is a list", "numpy"]),
    "tensor of objects": (lambda: Tensor(np.array([None])), ["object", "float32", "int8"]),
    "tensor of texts": (lambda: Tensor(np.array(["a"])), ["<U1", "float32"]),
    "tensor of dates": (lambda: Tensor(np.zeros(1, "M8[s]")), ["datetime64[s]", "float32"]),
    "tensor of records": (lambda: Tensor(np.zeros(1, "i4,f4")), ["f0", "float32"]),
    "tensor of long doubles": (lambda: Tensor(np.zeros(1, np.longdouble)), ["float128", "float64"]),
    "tensor of nine dimensions": (
        lambda: Tensor(np.zeros((1,) * 9)),
        ["9 dimensions", "at most 8"],
    ),
    "text of bytes": (lambda: Text(b"a"), ["text is a bytes", "must be a str"]),  # type: ignore[arg-type]
    "text of none": (lambda: Text(None), ["NoneType", "must be a str"]),  # type: ignore[arg-type]
    "text with half a character": (lambda: Text("a" + LONE_SURROGATE), ["text", "UTF-8"]),
    "json of a set": (lambda: Json({1}), ["value is a set", "lists and str-keyed dicts"]),  # type: ignore[arg-type]
    "json of a tuple": (lambda: Json({"a": (1,)}), ["value['a'] is a tuple"]),  # type: ignore[dict-item]
    "json of bytes": (lambda: Json([0, b"x"]), ["value[1] is a bytes"]),  # type: ignore[list-item]
    "json of a date": (
        lambda: Json({"a": [{"b": datetime.datetime(2025, 1, 1)}]}),  # type: ignore[dict-item]
        ["value['a'][0]['b'] is a datetime"],
    ),
    "json with a number for a key": (lambda: Json({1: 2}), ["value has the key 1"]),  # type: ignore[dict-item]
    "json of a huge int": (lambda: Json(1 << 64), ["value", "64-bit int"]),
    "json of an unprintable int": (lambda: Json([HUGE]), ["value", "64-bit int"]),
    "json with half a character": (lambda: Json({"a": LONE_SURROGATE}), ["value", "surrogate"]),
    "json 66 levels deep": (lambda: Json(deep(66)), ["value[0][0]", "more than 64 deep"]),
    "json without end": (lambda: Json(_endless()), ["more than 64 deep"]),
    "binary of a text": (lambda: Binary("x"), ["data is a str", "bytes", "buffer"]),
    "binary of a number": (lambda: Binary(3), ["data is a int", "bytes"]),
    "binary with gaps": (lambda: Binary(np.zeros((4, 4))[:, 1]), ["ndarray", "contiguous"]),
    "file of bytes": (lambda: File(b"/tmp"), ["path is a bytes"]),  # type: ignore[arg-type]
    "file of a number": (lambda: File(3), ["path is a int", "must be a path"]),  # type: ignore[arg-type]
    "file without a name": (lambda: File(""), ["path is ''", "non-empty"]),
    "file with NUL": (lambda: File("a\0b"), ["'a\\x00b'", "without NUL"]),
    "file offset below 0": (lambda: File("a", offset_bytes=-1), ["offset_bytes is -1"]),
    "file size a bool": (lambda: File("a", size_bytes=True), ["size_bytes is True"]),
    "file size huge": (lambda: File("a", size_bytes=1 << 63), ["size_bytes", "whole number"]),
    "file type of bytes": (lambda: File("a", b"b"), ["media_type is a bytes"]),  # type: ignore[arg-type]
    "control without a name": (lambda: Control(""), ["name is ''", "1 to 64 characters"]),
    "control of a long name": (lambda: Control("x" * 65), ["1 to 64 characters"]),
    "control of a set": (lambda: Control("a", {1}), ["value is a set"]),  # type: ignore[arg-type]
    "time a float": (lambda: Text("", timestamp_ns=1.5), ["timestamp_ns is 1.5"]),  # type: ignore[arg-type]
    "time a bool": (lambda: Text("", timestamp_ns=True), ["timestamp_ns is True"]),
    "time huge": (lambda: Text("", timestamp_ns=1 << 63), ["timestamp_ns", "9,223,372"]),
    "id below 0": (lambda: Text("", correlation_id=-1), ["correlation_id is -1", "from 0 to"]),
    "id a bool": (lambda: Text("", correlation_id=False), ["correlation_id is False"]),
    "id huge": (lambda: Text("", correlation_id=HUGE), ["correlation_id", "cannot be shown"]),
    "metadata a list": (lambda: Text("", metadata=[]), ["metadata is a list", "mapping"]),  # type: ignore[arg-type]
    "metadata with a number for a key": (
        lambda: Text("", metadata={1: 2}),  # type: ignore[dict-item]
        ["metadata has the key 1"],
    ),
    "metadata of a set": (
        lambda: Text("", metadata={"a": {1}}),  # type: ignore[dict-item]
        ["metadata['a'] is a set", "str-keyed"],
    ),
    "metadata of a date": (
        lambda: Text("", metadata={"a": datetime.datetime(2025, 1, 1)}),  # type: ignore[dict-item]
        ["metadata['a'] is a datetime"],
    ),
    "metadata of an array": (
        lambda: Text("", metadata={"a": np.zeros(2)}),  # type: ignore[dict-item]
        ["metadata['a'] is a ndarray"],
    ),
    "metadata with a deep key": (
        lambda: Text("", metadata={"a": {2: "x"}}),  # type: ignore[dict-item]
        ["metadata['a'] has the key 2"],
    ),
    "metadata too large": (
        lambda: Text("", metadata={"a": "x" * 65_536}),
        ["metadata takes 65,5", "65,536 are allowed"],
    ),
    "metadata of a huge int": (lambda: Text("", metadata={"a": 1 << 64}), ["metadata", "64-bit"]),
}


def _endless() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def by_pickle(message: Message) -> Message:
    copied: Message = pickle.loads(pickle.dumps(message))
    return copied


@pytest.mark.parametrize("case", REFUSED)
def test_an_error_says_what_was_wrong_and_what_is_allowed(case: str) -> None:
    make, words = REFUSED[case]
    with pytest.raises(DataError) as caught:
        make()
    text = str(caught.value)
    assert not [word for word in words if word not in text], text
    assert len(text) < 400


def test_one_dimension_is_one_channel() -> None:
    samples = np.arange(4, dtype=np.float32)
    audio = Audio(samples, 16000)
    assert (audio.frames, audio.channels, audio.samples.shape) == (4, 1, (4, 1))
    assert np.shares_memory(audio.samples, samples)


def test_empty_audio_is_legal() -> None:
    audio = Audio(np.empty((0, 2), np.float32), 48000)
    assert (audio.frames, audio.channels, audio.duration_seconds) == (0, 2, 0.0)


def test_nan_and_infinity_are_legal_samples() -> None:
    samples = np.array([[np.nan], [np.inf], [-np.inf]], np.float32)
    assert Audio(samples, 16000) == Audio(samples.copy(), 16000)


def test_numpy_integers_are_integers() -> None:
    audio = Audio(mono(), np.int32(16000), timestamp_ns=np.int64(5), correlation_id=np.uint64(7))  # type: ignore[arg-type]
    assert (audio.sample_rate, audio.timestamp_ns, audio.correlation_id) == (16000, 5, 7)
    assert {type(audio.sample_rate), type(audio.timestamp_ns), type(audio.correlation_id)} == {int}


def test_arrays_are_taken_as_they_are_without_a_copy() -> None:
    wide = np.zeros((4, 4), np.float32)
    for array in (wide[::2, ::2], wide.T, np.asfortranarray(np.ones((3, 2), np.float32))):
        assert np.shares_memory(Audio(array, 8000).samples, array)
        assert np.shares_memory(Tensor(array).array, array)


def test_an_array_of_another_class_becomes_a_plain_one_without_a_copy() -> None:
    record = np.zeros((2, 2), np.float32).view(np.recarray)
    tensor = Tensor(record)
    assert type(tensor.array) is np.ndarray
    assert np.shares_memory(tensor.array, record)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tensor_is_of_any_plain_dtype_and_shape(dtype: np.dtype[Any], order: Any) -> None:
    for shape in ((), (0,), (3,), (2, 0, 4), (1,) * 8):
        tensor = Tensor(np.zeros(shape, dtype.newbyteorder(order)))
        assert (tensor.shape, tensor.dtype.name) == (shape, dtype.name)
        assert tensor == Tensor(np.zeros(shape, dtype))


@pytest.mark.parametrize("format_", PIXEL_FORMATS)
def test_a_picture_knows_its_size_in_every_format(format_: str) -> None:
    depth = {"gray": 1, "rgb24": 3, "bgr24": 3, "rgba": 4, "bgra": 4}.get(format_)
    shape = (6, 4) if depth is None else (4, 4, depth)
    video = Video(picture(*shape), format_)
    assert (video.height, video.width, video.pixels.shape) == (4, 4, shape)


def test_gray_may_leave_its_only_channel_out() -> None:
    assert Video(picture(4, 6), "gray").pixels.shape == (4, 6, 1)


def test_a_side_may_have_65535_pixels() -> None:
    tall = np.broadcast_to(np.uint8(0), (65_535, 1, 3))
    assert Video(tall).height == 65_535
    planar = np.broadcast_to(np.uint8(0), (65_534 * 3 // 2, 2))
    assert Video(planar, "nv12").height == 65_534


def test_binary_is_any_contiguous_buffer_without_a_copy() -> None:
    source = bytearray(b"abc")
    message = Binary(source)
    source[0] = ord("x")
    assert bytes(message) == b"xbc"
    assert len(message) == 3
    for buffer in (b"", memoryview(b""), np.zeros((2, 3)), np.zeros(3, ">f4"), np.empty(0)):
        view = memoryview(buffer)  # type: ignore[arg-type]
        assert bytes(Binary(buffer)) == view.tobytes()


def test_text_is_anything_utf8_can_carry() -> None:
    for text in ("", "grüße", "\0", "🎉", "\u2028"):
        assert Text(text).text == text


def test_json_is_what_json_can_hold() -> None:
    class Level(IntEnum):
        HIGH = 3

    value = {"a": [1, 2.5, None, True, "x", {"b": {}}], "": -(1 << 63), "big": (1 << 64) - 1}
    assert Json(value).value == value  # type: ignore[arg-type]
    assert Json(deep(64)).value == deep(64)
    assert Json(OrderedDict(a=Level.HIGH)).value == {"a": 3}
    assert Json(float("inf")) == Json(float("inf"))


def test_a_file_has_a_path_as_text() -> None:
    assert File(Path("/a/b")).path == "/a/b"
    assert File("a", "audio/wav", offset_bytes=1, size_bytes=0).size_bytes == 0


def test_metadata_is_a_read_only_copy() -> None:
    given = {"a": 1}
    message = Text("", metadata=given)
    given["a"] = 2
    assert message.metadata == {"a": 1}
    with pytest.raises(TypeError):
        message.metadata["a"] = 3  # type: ignore[index]


def test_metadata_carries_every_plain_value() -> None:
    value = {"n": None, "b": b"\0", "l": [1, [2.5]], "d": {"x": {"y": True}}, "s": "ü"}
    assert Text("", metadata=value).metadata == value  # type: ignore[arg-type]


def test_a_message_without_metadata_has_an_empty_mapping() -> None:
    assert Text("").metadata == {}
    assert Text("", metadata={}).metadata == {}


def test_the_capture_time_defaults_to_now() -> None:
    before = time.monotonic_ns()
    assert before <= Text("").timestamp_ns <= time.monotonic_ns()


SAME: list[tuple[Callable[[], Message], Callable[[], Message]]] = [
    (lambda: Audio(mono(), 8000), lambda: Audio(mono(), 16000)),
    (lambda: Audio(mono(4), 8000), lambda: Audio(mono(5), 8000)),
    (lambda: Video(picture(2, 2, 3)), lambda: Video(picture(2, 2, 3), "bgr24")),
    (lambda: Tensor(np.zeros(2)), lambda: Tensor(np.zeros((2, 1)))),
    (lambda: Tensor(np.zeros(2)), lambda: Tensor(np.zeros(2, np.float32))),
    (lambda: Text("a"), lambda: Text("b")),
    (lambda: Json({"a": 1}), lambda: Json({"a": 2})),
    (lambda: Binary(b"a"), lambda: Binary(b"ab")),
    (lambda: File("a"), lambda: File("a", size_bytes=1)),
    (lambda: Control("a"), lambda: Control("a", 0)),
    (lambda: Text("a", metadata={"k": 1}), lambda: Text("a", metadata={"k": 2})),
]


@pytest.mark.parametrize(("make", "other"), SAME)
def test_messages_are_equal_when_type_content_and_metadata_are(
    make: Callable[[], Message], other: Callable[[], Message]
) -> None:
    one, two = make(), make()
    two.correlation_id, two.timestamp_ns = 9, 9
    assert one == two
    assert one != other()
    assert one != "something else"
    with pytest.raises(TypeError):
        hash(one)


def test_a_text_is_not_equal_to_a_json_text() -> None:
    assert Text("a") != Json("a")


@pytest.mark.parametrize(
    "message",
    [Audio(mono(0), 1), Tensor(np.zeros(0)), Text(""), Json(None), Binary(b""), Control("a")],
    ids=lambda message: type(message).__name__,
)
def test_every_message_is_true_even_an_empty_one(message: Message) -> None:
    assert message


def test_a_repr_tells_what_it_is_in_one_short_line() -> None:
    assert repr(Audio(mono(480), 16000)) == "<Audio 480 frames x 1 at 16000 Hz, 30.0 ms>"
    assert repr(Video(picture(2, 4, 3))) == "<Video 4 x 2 rgb24>"
    assert repr(Tensor(np.zeros((2, 3), np.int8))) == "<Tensor int8 (2, 3)>"
    assert repr(Text("hello")) == "<Text 'hello'>"
    assert repr(Json({"a": 1})) == "<Json {'a': 1}>"
    assert repr(Binary(b"abc")) == "<Binary 3 bytes>"
    assert repr(File("/a", "audio/wav")) == "<File '/a' audio/wav>"
    assert repr(Control("flush", 1)) == "<Control 'flush' 1>"
    for long in (Text("x" * 10**6), Json(["x" * 10**6]), Control("flush", "x" * 10**6)):
        assert len(repr(long)) < 80
    assert len(repr(File("x" * 10**6, "audio/wav"))) < 100


ARRAYS: list[Callable[[], ArrayMessage]] = [
    lambda: Audio(mono(), 8000),
    lambda: Video(picture(2, 2, 3)),
    lambda: Tensor(np.zeros(2)),
    lambda: Binary(b"abc"),
]


@pytest.mark.parametrize("make", ARRAYS)
def test_use_after_release_raises_and_a_second_release_is_harmless(
    make: Callable[[], ArrayMessage],
) -> None:
    message = make()
    message.release()
    message.release()
    name = {Audio: "samples", Video: "pixels", Tensor: "array", Binary: "data"}[type(message)]
    with pytest.raises(ReleasedError, match=r"was released.*copy"):
        getattr(message, name)
    with pytest.raises(ReleasedError):
        assert message == make()
    assert "released" in repr(message)


def test_a_tensor_speaks_dlpack_without_a_copy() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    tensor = Tensor(array)
    assert np.shares_memory(np.from_dlpack(tensor), array)
    assert tensor.__dlpack_device__() == (1, 0)


def test_anything_that_speaks_dlpack_is_an_array() -> None:
    class Foreign:
        """A tensor of another library."""

        def __init__(self) -> None:
            self.array = np.arange(4, dtype=np.float32)

        def __dlpack__(self, **request: Any) -> Any:
            return self.array.__dlpack__(**request)

        def __dlpack_device__(self) -> tuple[int, int]:
            return (1, 0)

    foreign = Foreign()
    assert np.shares_memory(Tensor(foreign).array, foreign.array)
    assert np.shares_memory(Audio(foreign, 8000).samples, foreign.array)


def test_a_tensor_that_numpy_cannot_view_is_refused_with_advice() -> None:
    class OnGpu:
        def __dlpack__(self, **request: object) -> object:
            raise BufferError("not on the CPU")

        def __dlpack_device__(self) -> tuple[int, int]:
            return (2, 0)

    class HalfDone:
        def __dlpack__(self, **request: object) -> object:
            return object()

    for value in (OnGpu(), HalfDone()):
        with pytest.raises(DataError, match=r"numpy cannot view.*move it to the CPU"):
            Tensor(value)


def test_the_base_class_is_no_message_type() -> None:
    with pytest.raises(TypeError, match="not a message type"):
        assert Message() == Message()


EVERY_TYPE = [
    Audio(np.arange(4, dtype=np.float32), 8000, metadata={"a": [1]}),
    Video(np.zeros((2, 2, 1), np.uint8), "gray"),
    Tensor(np.arange(6).reshape(2, 3)),
    Text("x", correlation_id=3),
    Json({"a": [1]}),
    Binary(b"abc"),
    File("/a"),
    Control("flush", [1]),
]


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, by_pickle])
@pytest.mark.parametrize("message", EVERY_TYPE)
def test_a_copy_is_equal_and_owns_its_memory(
    message: Message, duplicate: Callable[[Message], Message]
) -> None:
    other = duplicate(message)
    assert other == message
    assert (other.timestamp_ns, other.correlation_id) == (
        message.timestamp_ns,
        message.correlation_id,
    )
    with pytest.raises(TypeError):
        other.metadata["b"] = 1  # type: ignore[index]
    if isinstance(message, ArrayMessage):
        assert not np.shares_memory(np.asarray(other), np.asarray(message))
        message = duplicate(message)
        message.release()
        with pytest.raises(ReleasedError):
            duplicate(message)


@pytest.mark.parametrize("message", EVERY_TYPE[:3])
def test_an_array_message_is_an_array_for_numpy(message: ArrayMessage) -> None:
    array = np.asarray(message)
    assert array.dtype in (np.float32, np.uint8, np.int64)
    assert np.shares_memory(array, np.asarray(message))
    assert not np.shares_memory(array, np.array(message))
    assert np.asarray(message, np.float64).dtype == np.float64
    assert np.array_equal(message + np.zeros(1), array)  # type: ignore[operator]
    # As numpy 1.26 asks, and as numpy 2 does.
    assert np.shares_memory(message.__array__(), array)
    assert message.__array__(np.dtype("f8")).dtype == np.float64
    assert not np.shares_memory(message.__array__(copy=True), array)
    with pytest.raises(ValueError, match="without a copy"):
        message.__array__(np.dtype("f8"), copy=False)
