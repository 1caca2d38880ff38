"""Sentences out of a text that comes in pieces."""

from __future__ import annotations

import re

__all__ = ["Sentences"]

# An end of a sentence with what closes it, and white space: only then is it known that nothing of
# the sentence follows. Chinese and Japanese write no space; a line's end is an end as well.
_END = re.compile(
    r"[.!?\u2026]+[\"'\u201d\u2019)\]]*\s+|[\u3002\uff01\uff1f]+[\u300d\u300f]*\s*|\n\s*"
)
_NO_END = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|etc|e\.g|i\.e|No)|\b[A-Z]|^\s*\d+)\.\s+$"
)


class Sentences:
    """Collects pieces of text, such as the tokens of a model, and gives out whole sentences."""

    def __init__(self) -> None:
        self._text = ""
        self._searched = 0

    def add(self, piece: str) -> list[str]:
        """Take a piece; return the sentences that are complete now."""
        self._text += piece
        sentences = []
        while (end := _END.search(self._text, self._searched)) is not None:
            head = self._text[: end.end()]
            if _NO_END.search(head):
                self._searched = end.end()
                continue
            if sentence := head.strip():
                sentences.append(sentence)
            self._text, self._searched = self._text[end.end() :], 0
        return sentences

    def rest(self) -> str:
        """Return what is left, which no end follows any more; empty if nothing is."""
        rest, self._text, self._searched = self._text.strip(), "", 0
        return rest
