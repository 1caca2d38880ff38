"""YAML and JSON text as plain values that know their lines."""

from __future__ import annotations

import contextlib
import json
import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remotemedia.core.document import Syntax, parse_json, parse_yaml

if TYPE_CHECKING:
    from remotemedia.errors import Finding


def yaml_value(text: str) -> object:
    findings: list[Finding] = []
    value = parse_yaml(text, findings).plain()
    assert findings == []
    return value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        ("010", 10),
        ("0x1f", 31),
        ("0o17", 15),
        ("1e-3", 0.001),
        ("-.5", -0.5),
        (".inf", math.inf),
        ("true", True),
        ("~", None),
        ("", None),
        ("'1'", "1"),
        ('"true"', "true"),
        ("[1, [a, {b: null}]]", [1, ["a", {"b": None}]]),
        ("|\n  two\n  lines\n", "two\nlines\n"),
        ("[&a {x: 1}, *a]", [{"x": 1}, {"x": 1}]),
    ],
)
def test_yaml_is_that_of_the_core_schema(text: str, value: object) -> None:
    assert yaml_value(text) == value


def test_every_value_and_key_knows_its_line() -> None:
    for parse, text in (
        (parse_yaml, "a:\n  - 1\n  - {b: 2,\n     c: 3}\n"),
        (parse_json, '{"a":\n  [1,\n  {"b": 2,\n     "c": 3}]}'),
    ):
        a = parse(text, []).value["a"]  # type: ignore[index]
        last = a.value[1]
        assert last.line == 3
        assert last.key_lines == {"b": 3, "c": 4}


@pytest.mark.parametrize("parse", [parse_yaml, parse_json])
def test_a_key_that_is_there_twice_is_found(parse: object) -> None:
    findings: list[Finding] = []
    parse('{"a": 1,\n"b": {"c": 1, "c": 2},\n"a": 3}', findings)  # type: ignore[operator]
    assert [str(finding) for finding in findings] == [
        "line 2, key 'c': is here twice, first on line 2",
        "line 3, key 'a': is here twice, first on line 1",
    ]


LAUGHS = "a0: &a0 [x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [1", "this is no YAML"),
        ("a: 1\n b: 2", "line 2, file: this is no YAML"),
        ("a: 1\nb\n  - 2", "line 2, file: this is no YAML: could not find expected ':' (a key has"),
        ("a 1\nb: 2", "line 2, file: this is no YAML: mapping values are not allowed in this"),
        ("a: 1\nb: {c: 1\nd: 2", "(it was opened in line 2)"),
        ("\t- a", "tabs cannot indent: use spaces"),
        ("a: \x00", "this is no YAML"),
        ("!!python/object/apply:os.system [ls]", "the tag tag:yaml.org,2002:python/object"),
        ("a: !!binary aGk=", "the tag tag:yaml.org,2002:binary is not allowed"),
        ("a: 1\n---\nb: 2", "line 2, file: a second document starts here"),
        ("1: a", 'line 1, file: the key 1 is no text (write "1")'),
        ("? [a]\n: b", "a key must be plain text"),
        ("a: *b", "the alias *b names nothing before it"),
        ("a: &a [*a]", "the alias *a names nothing before it"),
        (LAUGHS, "this holds more than 100,000 values"),
        ("[" * 65 + "]" * 65, "this nests more than 64 deep"),
        ("[" * 200_000, "this"),
        ("a:\n  " + "9" * 5_000, "line 2, file: this number has 5,000 characters, more than 400"),
    ],
)
def test_hostile_and_broken_yaml_is_refused_at_once(text: str, problem: str) -> None:
    with pytest.raises(Syntax) as caught:
        parse_yaml(text, [])
    assert problem in str(caught.value.finding)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "line 1, file: this is no JSON: Expecting property name"),
        ('{"a": 1,}', "this is no JSON"),
        ('{"a": NaN}', "NaN is no JSON"),
        ("a: 1", "this is no JSON"),
        ("[" * 65 + "]" * 65, "this nests more than 64 deep"),
        ("[" * 200_000, "this JSON cannot be read"),
        ("", "this is no JSON"),
    ],
)
def test_hostile_and_broken_json_is_refused_at_once(text: str, problem: str) -> None:
    with pytest.raises(Syntax) as caught:
        parse_json(text, [])
    assert problem in str(caught.value.finding)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None)
@given(JSON, st.sampled_from([None, 2, "\t"]))
def test_json_is_read_as_python_reads_it(value: object, indent: int | str | None) -> None:
    assert parse_json(json.dumps(value, indent=indent), []).plain() == value


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="ab01-:,[]{}&*!|>'\"#\n \t?%@.", max_size=40))
def test_any_text_is_a_value_or_a_syntax_error(text: str) -> None:
    for parse in (parse_yaml, parse_json):
        with contextlib.suppress(Syntax):
            parse(text, []).plain()
