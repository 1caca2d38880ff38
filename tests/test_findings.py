"""Words that findings share: what is said of values and errors, whatever those are."""

from __future__ import annotations

from typing import Literal

import pytest

from remotemedia.core.findings import first_line, wrong_choice
from remotemedia.errors import ExecutorError


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("it broke", "it broke"),
        ("it broke\nTraceback ...", "it broke"),
        ("\nit broke\n", "it broke"),
        ("", "ExecutorError"),
        ("\n", "ExecutorError"),
    ],
)
def test_every_error_has_a_first_line_and_one_without_text_its_type(text: str, line: str) -> None:
    assert first_line(ExecutorError(text)) == line


def test_a_value_that_cannot_be_shown_is_still_a_wrong_choice() -> None:
    class Shy:
        def __repr__(self) -> str:
            raise RuntimeError("not even this")

    wrong = wrong_choice(Shy(), Literal["fast", "exact"])
    assert wrong is not None
    assert wrong[0].startswith("must be one of 'fast', 'exact', got a Shy that cannot be shown")
