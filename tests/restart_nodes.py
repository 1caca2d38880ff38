"""Nodes that break once, or until they are told not to: their processes leave a mark in a file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from remotemedia import Json, Node, Text, input  # noqa: A004
from tests.executor_nodes import breakdown

if TYPE_CHECKING:
    from collections.abc import Iterator


def is_first(path: str) -> bool:
    """Whether nobody has asked before; the next one is not the first."""
    try:
        Path(path).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


class BreaksOnce(Node):
    """A source that breaks at the fifth number, the first time."""

    def __init__(self, path: str, how: str = "SIGKILL") -> None:
        self.path = path
        self.how = how

    def process(self) -> Iterator[Json]:
        for number in range(10):
            if number == 5 and is_first(self.path):
                breakdown(self.how)
            yield Json(number)


class StartsOnce(Node):
    """Starts once; then its start hangs or fails, as it is told, until a file is there."""

    def __init__(self, path: str, how: str, until: str = "") -> None:
        self.path = path
        self.how = how
        self.until = until

    def initialize(self) -> None:
        if not is_first(self.path) and not (self.until and Path(self.until).exists()):
            breakdown(self.how)

    def process(self, text: Text) -> Text:
        if text.text.startswith("!"):
            breakdown(text.text[1:])
        return text


class FragileSink(Node):
    """Takes and gives nothing, and breaks when it is told."""

    def process(self, text: Text) -> None:
        if text.text.startswith("!"):
            breakdown(text.text[1:])


class FragileJoin(Node):
    """Two inputs of which the second breaks it when it is told."""

    @input
    def on_a(self, text: Text) -> Text:
        return Text("a:" + text.text)

    @input
    def on_b(self, text: Text) -> Text:
        if text.text.startswith("!"):
            breakdown(text.text[1:])
        return Text("b:" + text.text)


class Drop(Node):
    """Takes numbers and gives nothing."""

    def process(self, value: Json) -> None:
        return None


class Held(Node):
    """Takes a text on only when a file is there."""

    def __init__(self, path: str) -> None:
        self.path = path

    def process(self, text: Text) -> Text:
        while text.text.startswith("wait") and not Path(self.path).exists():
            time.sleep(0.001)
        return text


class Spills(Node):
    """Passes a text on, with long ones after it, and breaks if it is told to."""

    def __init__(self, count: int, length: int, how: str) -> None:
        self.count = count
        self.length = length
        self.how = how

    def process(self, text: Text) -> Iterator[Text]:
        yield text
        if text.text != "first":
            for number in range(self.count):
                yield Text(f"{number} {'x' * self.length}")
            breakdown(self.how)


class EndsBadly(Node):
    """A source that goes on until it is asked to end, and breaks then, the first time."""

    def __init__(self, path: str, how: str) -> None:
        self.path = path
        self.how = how

    def process(self) -> Iterator[Json]:
        while True:
            yield Json("made")
            time.sleep(0.001)

    def finish(self) -> Json:
        if is_first(self.path):
            breakdown(self.how)
        return Json("finished")


class FinishesBadly(Node):
    """Breaks in `finish`, the first time."""

    def __init__(self, path: str) -> None:
        self.path = path

    def process(self, value: Json) -> Json:
        return value

    def finish(self) -> Json:
        if is_first(self.path):
            breakdown("SIGKILL")
        return Json("finished")
