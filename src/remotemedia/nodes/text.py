"""Light nodes for text: for examples, tests and glue."""

from __future__ import annotations

from collections.abc import Iterator  # noqa: TC003 (a node's annotations are read)
from typing import Annotated, TypeAlias

import msgspec

from remotemedia.core.node import Node
from remotemedia.core.registry import node
from remotemedia.data import Text
from remotemedia.errors import DataError

__all__ = ["Answer", "Caption", "Join", "Split", "Suffix", "Upper"]

Count: TypeAlias = Annotated[int, msgspec.Meta(ge=1)]


@node("text.answer")
class Answer(Node):
    """Answers every text with the same words, which hold it; it is no language model, and says so.

    It stands where a pipeline has a language model and none is installed. The metadata of what is
    sent is that of the text.

    Args:
        words: what is answered; {text} in it becomes the text that came in.
    """

    def __init__(
        self,
        words: str = "I have no language model, so I can only repeat what I heard. {text}",
    ) -> None:
        self.words = words

    def process(self, text: Text) -> Text:
        """Send the answer."""
        return Text(self.words.replace("{text}", text.text), metadata=text.metadata)


@node("text.caption")
class Caption(Node):
    """Writes when every text was said beside it, as in "[0.52 - 3.10 s] hello".

    The times are `start_s` and `end_s` of its metadata, as `whisper` gives them. The metadata of
    what is sent is that of the text.

    Args:
        form: what is written; {start} and {end} in it become the times, {text} the text.
    """

    def __init__(self, form: str = "[{start} - {end} s] {text}") -> None:
        self.form = form

    def process(self, text: Text) -> Text:
        """Send the caption; DataError if it needs times and there are none."""
        caption = self.form
        for name in ("start", "end"):
            if f"{{{name}}}" in self.form:
                caption = caption.replace(f"{{{name}}}", f"{_seconds(text, name):.2f}")
        return Text(caption.replace("{text}", text.text), metadata=text.metadata)


def _seconds(text: Text, name: str) -> float:
    value = text.metadata.get(f"{name}_s")
    if isinstance(value, int | float):
        return value
    raise DataError(
        f"text.caption writes {{{name}}}, and the text has no {name}_s in its metadata: put it "
        f"behind whisper, or leave {{{name}}} out of its form"
    )


@node("text.upper")
class Upper(Node):
    """Writes text in capitals."""

    def process(self, text: Text) -> Text:
        """Send the text in capitals."""
        return Text(text.text.upper())


@node("text.suffix")
class Suffix(Node):
    """Adds something to the end of every text.

    Args:
        suffix: what is added.
    """

    def __init__(self, suffix: str) -> None:
        self.suffix = suffix

    def process(self, text: Text) -> Text:
        """Send the text with the suffix."""
        return Text(text.text + self.suffix)


@node("text.split")
class Split(Node):
    """Sends the parts of every text one by one; empty ones are left out.

    Args:
        separator: what stands between the parts; empty is white space.
    """

    def __init__(self, separator: str = "") -> None:
        self.separator = separator

    def process(self, text: Text) -> Iterator[Text]:
        """Send the parts."""
        for part in text.text.split(self.separator or None):
            if part:
                yield Text(part)


@node("text.join")
class Join(Node):
    """Collects texts and sends them as one; what is left at the end is sent then.

    Args:
        count: how many make one, at least 1.
        separator: what is put between them.
    """

    def __init__(self, count: Count, separator: str = " ") -> None:
        self.count = count
        self.separator = separator
        self._parts: list[str] = []

    def process(self, text: Text) -> Text | None:
        """Send the texts once there are enough of them."""
        self._parts.append(text.text)
        return self._join() if len(self._parts) >= self.count else None

    def finish(self) -> Text | None:
        """Send what is left."""
        return self._join() if self._parts else None

    def interrupt(self) -> None:
        """Forget what was collected."""
        self._parts.clear()

    def _join(self) -> Text:
        joined = self.separator.join(self._parts)
        self._parts.clear()
        return Text(joined)
