"""Light nodes for text: for examples, tests and glue."""

from __future__ import annotations

from collections.abc import Iterator  # noqa: TC003 (a node's annotations are read)

from remotemedia.core.node import Node
from remotemedia.core.registry import node
from remotemedia.data import Text

__all__ = ["Answer", "Join", "Split", "Suffix", "Upper"]


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
        count: how many make one.
        separator: what is put between them.
    """

    def __init__(self, count: int, separator: str = " ") -> None:
        if count < 1:
            raise ValueError(f"count is {count}; it must be at least 1")
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
