"""Parameters of nodes: what a signature asks for, and what a value may be."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remotemedia.core.describe import describe
from remotemedia.core.multiprocess.control import MAX_FRAME_BYTES
from remotemedia.core.node import Node
from remotemedia.core.parameters import (
    MAX_PARAMETER_BYTES,
    bind_parameters,
    create_node,
    plain_parameters,
)
from remotemedia.data import Text


class Device(Enum):
    CPU = "cpu"
    CUDA = "cuda"


@dataclass
class Window:
    size: int
    hop: int = 1


class Whisper(Node):
    def __init__(  # type: ignore[no-untyped-def]
        self,
        model: str,
        *,
        device: Device = Device.CPU,
        mode: Literal["fast", "exact"] = "fast",
        threshold: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5,
        windows: tuple[Window, ...] = (),
        weights: str | Path | None = None,
        folder: Path = Path(),
        extra=None,
    ) -> None:
        self.given = locals()

    def process(self, text: Text) -> Text:
        return text


class Open(Node):
    def __init__(self, size: int = 1, **options: object) -> None:
        self.options = options

    def process(self, text: Text) -> Text:
        return text


@dataclass
class Suffix(Node):
    end: str = "!"

    def process(self, text: Text) -> Text:
        return Text(text.text + self.end)


def repeat(text: Text, *, times: int) -> list[Text]:
    return [text] * times


def findings(config: dict[str, object], target: type[Node] = Whisper) -> list[str]:
    return [str(finding) for finding in bind_parameters(target, config, "node 'asr'")[1].values()]


def test_names_types_and_defaults_come_from_the_signature() -> None:
    described = {p.name: (p.type, p.default) for p in describe(Whisper).parameters}
    assert described["model"] == ("str", None)
    assert described["device"] == ("Device", "Device.CPU")
    assert described["mode"] == ("Literal['fast', 'exact']", "'fast'")
    assert described["weights"][0].endswith("Path | None")
    assert described["extra"] == ("", "None")
    assert [p.name for p in describe(Suffix).parameters] == ["end"]
    assert describe(Open).accepts_any_parameter


def test_values_become_what_the_signature_asks_for() -> None:
    config = {
        "model": "tiny",
        "device": "cuda",
        "threshold": 1,
        "windows": [{"size": 2}],
        "folder": "/x",
        "weights": "w.bin",
        "extra": [1, {"a": None}],
    }
    bound, found = bind_parameters(Whisper, config, "node 'asr'")
    assert found == {}
    assert bound == {
        "model": "tiny",
        "device": Device.CUDA,
        "threshold": 1.0,
        "windows": (Window(2, 1),),
        "folder": Path("/x"),
        "weights": "w.bin",
        "extra": [1, {"a": None}],
    }


def test_every_wrong_parameter_is_found_at_once_and_named() -> None:
    assert findings(
        {"modle": "tiny", "device": "cudo", "threshold": "0.5", "windows": [{"size": "x"}]}
    ) == [
        "node 'asr', parameter 'modle': unknown parameter (did you mean 'model'?)",
        "node 'asr', parameter 'device': must be one of 'cpu', 'cuda', got 'cudo' "
        "(did you mean 'cuda'?)",
        "node 'asr', parameter 'threshold': must be float, got '0.5' (Expected 'float', got 'str')",
        "node 'asr', parameter 'windows': must be tuple[Window, ...], got [{'size': 'x'}] "
        "(Expected 'int', got 'str' - at '$[0].size')",
        "node 'asr', parameter 'model': missing parameter (it has no default: give it, a value of "
        "type str)",
    ]


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        (
            {"model": 3},
            "must be str, got 3 (in quotes it is text, for --set in quotes within quotes)",
        ),
        ({"model": None}, "must be str, got None"),
        ({"model": "x", "mode": "slow"}, "must be one of 'fast', 'exact', got 'slow'"),
        ({"model": "x", "threshold": 1.5}, "'threshold': must be 1 or less, got 1.5"),
        ({"model": "x", "weights": 5}, "Expected 'str | Path | None', got 'int'"),
        ({"model": "x", "folder": 5}, "must be Path, got 5"),
        ({"model": "x" * 100, "mode": "y" * 100}, "yyy..."),
    ],
)
def test_a_mistyped_value_says_what_it_must_be(config: dict[str, object], problem: str) -> None:
    (finding,) = findings(config)
    assert problem in finding


@pytest.mark.parametrize(
    ("bound", "value", "problem"),
    [
        (msgspec.Meta(ge=0), -1, "must be 0 or more, got -1"),
        (msgspec.Meta(le=0.5), 1, "must be 0.5 or less, got 1"),
        (msgspec.Meta(gt=0), 0, "must be above 0, got 0"),
        (msgspec.Meta(lt=1), 5, "must be below 1, got 5"),
    ],
)
def test_a_number_out_of_its_range_says_the_range_and_not_the_type(
    bound: msgspec.Meta, value: int, problem: str
) -> None:
    class Ranged(Node):
        def __init__(self, size: Annotated[float, bound] | None) -> None:
            self.size = size

        def process(self, text: Text) -> Text:
            return text

    assert findings({"size": value}, Ranged) == [f"node 'asr', parameter 'size': {problem}"]


def test_an_open_node_takes_further_parameters_unchecked() -> None:
    assert findings({"anything": [1]}, Open) == []
    (finding,) = findings({"size": "big", "anything": 1}, Open)
    assert "'size'" in finding


def test_a_node_without_parameters_says_that_it_takes_none() -> None:
    class Plain(Node):
        def process(self, text: Text) -> Text:
            return text

    assert findings({"x": 1}, Plain) == [
        "node 'asr', parameter 'x': unknown parameter (it takes no parameters)"
    ]


def test_python_values_become_plain_data_where_they_have_a_plain_form() -> None:
    config = {"device": Device.CUDA, "folder": Path("/x"), "window": Window(1), "set": {1}}
    assert plain_parameters(config) == {
        "device": "cuda",
        "folder": "/x",
        "window": {"size": 1, "hop": 1},
        "set": [1],
    }


@pytest.mark.parametrize("value", [object(), lambda: 0, 1 << 64, "\ud800", Whisper, {1: object()}])
def test_values_that_cannot_reach_another_process_are_refused(value: object) -> None:
    with pytest.raises(TypeError, match=r"parameter 'x' is .* must be plain data"):
        plain_parameters({"x": value})


def test_endless_and_huge_values_are_refused() -> None:
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(TypeError, match="must be plain data"):
        plain_parameters({"x": endless})
    for huge in ({"x": "y" * 150_000}, {"x": "y" * 90_000, "z": b"z" * 90_000}, {"x" * 150_000: 1}):
        with pytest.raises(TypeError, match="more than 131,072: write what is large to a file"):
            plain_parameters(huge)


def test_parameters_that_pass_leave_a_third_of_a_control_frame_to_what_comes_along() -> None:
    assert MAX_PARAMETER_BYTES * 3 <= MAX_FRAME_BYTES * 2
    most = {"x": "y" * (MAX_PARAMETER_BYTES - 100)}
    assert plain_parameters(most) == most


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(), PLAIN, max_size=3))
def test_plain_data_travels_unchanged(config: dict[str, object]) -> None:
    assert plain_parameters(config) == config


@settings(max_examples=100, deadline=None)
@given(PLAIN)
def test_any_plain_value_is_either_bound_or_found_wrong(value: object) -> None:
    names = [p.name for p in describe(Whisper).parameters]
    bound, found = bind_parameters(Whisper, dict.fromkeys(names, value), "node")
    assert len(bound) + len(found) == len(names)


def test_a_node_is_made_from_its_plain_parameters() -> None:
    suffix = create_node(Suffix, {"end": "?"}, "node 'bang'")
    assert isinstance(suffix, Suffix)
    assert suffix.process(Text("what")) == Text("what?")
    with pytest.raises(TypeError, match="node 'bang', parameter 'end': must be str"):
        create_node(Suffix, {"end": 1}, "node 'bang'")


def test_a_function_is_made_into_a_node_with_its_parameters_bound() -> None:
    node = create_node(repeat, {"times": 2}, "node 'twice'")
    assert getattr(node, "process")(Text("a")) == [Text("a")] * 2  # noqa: B009
