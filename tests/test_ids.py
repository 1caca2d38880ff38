"""What may be an id."""

from __future__ import annotations

import pytest

from remotemedia.core.ids import id_of, is_id


@pytest.mark.parametrize("value", ["a", "0", "-", "Camera_1.left-eye", "x" * 64])
def test_what_is_an_id(value: str) -> None:
    assert is_id(value)
    assert id_of(value) == value


@pytest.mark.parametrize("value", ["", "x" * 65, "a b", "a/b", "é", "٣", "a\n", b"a", None, 1])
def test_what_is_no_id(value: object) -> None:
    assert not is_id(value)


@pytest.mark.parametrize(
    ("text", "made"), [("my café\n", "my-caf--"), ("x" * 65, "x" * 64), ("", "")]
)
def test_an_id_is_made_of_any_text(text: str, made: str) -> None:
    assert id_of(text) == made
