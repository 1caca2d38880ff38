"""The nodes for text that come with the package."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from remotemedia import DataError, Pipeline, PipelineError, Text, validate
from remotemedia.nodes import text as nodes
from remotemedia.testing import run_node

if TYPE_CHECKING:
    from remotemedia import RuntimeData


def texts(*parts: str) -> list[RuntimeData]:
    return [Text(part) for part in parts]


def test_upper_writes_in_capitals() -> None:
    assert run_node(nodes.Upper, texts("a", "ß")) == texts("A", "SS")


def test_suffix_adds_to_the_end() -> None:
    assert run_node(nodes.Suffix, texts("a", ""), suffix="!") == texts("a!", "!")


@pytest.mark.parametrize(
    ("separator", "text", "parts"),
    [("", " a  b\n", ["a", "b"]), (",", "a,,b c,", ["a", "b c"]), (",", "", [])],
)
def test_split_sends_the_parts_that_are_not_empty(
    separator: str, text: str, parts: list[str]
) -> None:
    assert run_node(nodes.Split, Text(text), separator=separator) == texts(*parts)


def test_join_sends_the_rest_at_the_end() -> None:
    assert run_node(nodes.Join, texts("a", "b", "c"), count=2) == texts("a b", "c")


def test_a_pipeline_that_joins_nothing_is_refused_before_it_runs() -> None:
    with pytest.raises(PipelineError, match="parameter 'count': must be 1 or more, got 0"):
        validate(Pipeline("p").add_node("join", nodes.Join, count=0))


def test_answer_says_that_it_is_no_model_and_what_it_was_told() -> None:
    (out,) = run_node(nodes.Answer, Text("Is {text} it?", metadata={"language": "en"}))
    assert isinstance(out, Text)
    assert "no language model" in out.text
    assert out.text.endswith("Is {text} it?")
    assert out.metadata == {"language": "en"}
    assert run_node(nodes.Answer, Text("hm"), words="You said {text}.") == texts("You said hm.")


def test_a_caption_says_when_a_text_was_said_and_keeps_what_is_known_of_it() -> None:
    said = Text("{start} hello", metadata={"start_s": 0.52, "end_s": 3, "language": "en"})
    (out,) = run_node(nodes.Caption, said)
    assert isinstance(out, Text)
    assert out.text == "[0.52 - 3.00 s] {start} hello"
    assert out.metadata == said.metadata


def test_a_caption_without_times_is_an_error_only_where_they_are_written() -> None:
    assert run_node(nodes.Caption, Text("a"), form="answer: {text}") == texts("answer: a")
    with pytest.raises(DataError, match="has no start_s in its metadata"):
        run_node(nodes.Caption, Text("a"))
