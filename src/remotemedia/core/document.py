"""Text of a YAML or JSON file as plain values that know their lines.

The YAML is that of the core schema of YAML 1.2: `no`, `on` and `12:30` are text, 1e-3 is a number,
and tags are refused. Aliases are followed, and what they would grow into counts against a limit, so
that a small file cannot become a large value. Duplicate keys are findings in both formats.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import yaml

from remotemedia.errors import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Located", "Syntax", "parse_json", "parse_yaml"]

MAX_VALUES = 100_000
MAX_DEPTH = 64
MAX_DIGITS = 400
"""Of a number, its sign, point and exponent among them; Python itself takes 4,300."""

_FORMS: tuple[tuple[re.Pattern[str], type], ...] = (
    (re.compile(r"[-+]?[0-9]+"), int),
    (re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"), float),
)
_WORDS: dict[str, object] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
# By the words of libyaml.
_YAML_HINTS = {
    "could not find expected ':'": "a key has a ':' behind it",
    "mapping values are not allowed": "is there no ':' in the line above, or is this indented "
    "otherwise than its neighbours? Text with a ':' in it stands in quotes",
    "cannot start any token": "tabs cannot indent: use spaces. Text that begins with @, % or ` "
    "stands in quotes",
    "did not find expected key": "is it indented as its neighbours are?",
    "did not find expected '-' indicator": "is it indented as its neighbours are?",
}
_JSON_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]]|[^\s{}\[\],:"]+')


class Syntax(Exception):
    """The text cannot be read at all; `finding` says where and why."""

    def __init__(self, problem: str, line: int | None, suggestion: str = "") -> None:
        super().__init__(problem, line)
        self.finding = Finding("file", problem, suggestion, line)


@dataclass(slots=True)
class Located:
    """A value and the line it starts on; `size` counts it and everything in it.

    Attributes:
        value: None, bool, int, float, str, a list of `Located`, or a dict of text to `Located`.
        line: counted from 1.
        key_lines: the line of each key of a dict.
    """

    value: object
    line: int
    size: int = 1
    key_lines: dict[str, int] = field(default_factory=dict)

    def plain(self) -> object:
        """Return the value without lines."""
        if isinstance(self.value, dict):
            return {key: item.plain() for key, item in self.value.items()}
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        return self.value


@dataclass(slots=True)
class _Open:
    """The start of a mapping or list, and the anchor that names it."""

    value: dict[str, Located] | list[Located]
    line: int
    anchor: str | None = None


@dataclass(slots=True)
class _Scalar:
    value: object
    line: int
    anchor: str | None = None


@dataclass(slots=True)
class _Alias:
    name: str
    line: int


class _Close:
    """The end of a mapping or list."""


_Event: TypeAlias = _Open | _Scalar | _Alias | _Close


def parse_yaml(text: str, findings: list[Finding]) -> Located:
    """Read one YAML document.

    Args:
        text: the document.
        findings: where duplicate keys are added.

    Raises:
        Syntax: it is no YAML, uses tags, or passes a limit.
    """
    return _build(_yaml_events(text), findings)


def parse_json(text: str, findings: list[Finding]) -> Located:
    """Read one JSON document.

    Args:
        text: the document.
        findings: where duplicate keys are added.

    Raises:
        Syntax: it is no JSON, or passes a limit.
    """
    try:
        json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise Syntax(f"this is no JSON: {error.msg}, column {error.colno}", error.lineno) from error
    except (RecursionError, ValueError) as error:
        raise Syntax(f"this JSON cannot be read: {error}", None) from error
    return _build(_json_events(text), findings)


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON")


def _json_events(text: str) -> Iterator[_Event]:
    """Yield the events of text that is known to be JSON."""
    line, position = 1, 0
    for match in _JSON_TOKEN.finditer(text):
        line += text.count("\n", position, match.start())
        position = match.start()
        lexeme = match.group()
        if lexeme in "{[":
            yield _Open({} if lexeme == "{" else [], line)
        elif lexeme in "}]":
            yield _Close()
        else:
            yield _Scalar(json.loads(lexeme), line)


def _yaml_events(text: str) -> Iterator[_Event]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    documents = 0
    try:
        for event in yaml.parse(text, Loader=loader):
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise Syntax(
                        "a second document starts here", _line(event), "one pipeline per file"
                    )
            elif (converted := _converted(event)) is not None:
                yield converted
    except yaml.MarkedYAMLError as error:
        raise _syntax(error) from error
    except yaml.YAMLError as error:
        raise Syntax(f"this is no YAML: {error}", None) from error


def _syntax(error: yaml.MarkedYAMLError) -> Syntax:
    """Say what is no YAML, where, and what people mostly did to come there."""
    problem, began = str(error.problem or error.context), error.context_mark
    mark = error.problem_mark or began
    hint = next((hint for words, hint in _YAML_HINTS.items() if words in problem), "")
    if began is not None and problem == "could not find expected ':'":
        mark = began  # the key, and not the line below
    elif began is not None and problem.startswith("did not find expected ','"):
        hint = f"it was opened in line {began.line + 1}"
    return Syntax(f"this is no YAML: {problem}", None if mark is None else mark.line + 1, hint)


def _converted(event: yaml.Event) -> _Event | None:
    line = _line(event)
    match event:
        case yaml.AliasEvent():
            return _Alias(str(event.anchor), line)
        case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
            return _Close()
        case yaml.ScalarEvent() | yaml.MappingStartEvent() | yaml.SequenceStartEvent():
            if event.tag not in (None, "!"):
                raise Syntax(f"the tag {event.tag} is not allowed", line, "write plain values")
    match event:
        case yaml.ScalarEvent():
            is_plain = event.implicit[0] and not event.style
            value = _scalar(event.value, line) if is_plain else event.value
            return _Scalar(value, line, event.anchor)
        case yaml.MappingStartEvent():
            return _Open({}, line, event.anchor)
        case yaml.SequenceStartEvent():
            return _Open([], line, event.anchor)
    return None


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark is not None else 1


def _scalar(text: str, line: int) -> object:
    """Read a plain scalar by the core schema of YAML 1.2, section 10.3.2."""
    if text in _WORDS:
        return _WORDS[text]
    for pattern, type_ in _FORMS:
        if pattern.fullmatch(text):
            if len(text) > MAX_DIGITS:
                problem = f"this number has {len(text):,} characters, more than {MAX_DIGITS}"
                raise Syntax(problem, line, "if it is text, write it in quotes")
            return type_(text)
    if re.fullmatch(r"0x[0-9a-fA-F]{1,16}|0o[0-7]{1,22}", text):
        return int(text, 0)
    return text


class _Builder:
    """Builds the tree with a stack of its own, so that depth is a limit and no crash."""

    def __init__(self, findings: list[Finding]) -> None:
        self.findings = findings
        self.anchors: dict[str, Located] = {}
        self.stack: list[tuple[Located, str | None]] = []
        self.keys: list[tuple[str, int] | None] = []
        self.root: Located | None = None

    def take(self, event: _Event) -> None:
        match event:
            case _Open():
                if len(self.stack) >= MAX_DEPTH:
                    raise Syntax(f"this nests more than {MAX_DEPTH} deep", event.line)
                self._require_place(event.line)
                self.stack.append((Located(event.value, event.line), event.anchor))
                self.keys.append(None)
            case _Close():
                located, anchor = self.stack.pop()
                self.keys.pop()
                self._add(located, anchor)
            case _Scalar():
                if self._awaits_key():
                    self.keys[-1] = (self._key(event), event.line)
                else:
                    self._add(Located(event.value, event.line), event.anchor)
            case _Alias():
                self._require_place(event.line)
                if event.name not in self.anchors:
                    raise Syntax(f"the alias *{event.name} names nothing before it", event.line)
                self._add(self.anchors[event.name], None)

    def _awaits_key(self) -> bool:
        return bool(self.stack) and isinstance(self.stack[-1][0].value, dict) and not self.keys[-1]

    def _require_place(self, line: int) -> None:
        if self._awaits_key():
            raise Syntax("a key must be plain text", line)

    def _key(self, event: _Scalar) -> str:
        if not isinstance(event.value, str):
            raise Syntax(
                f"the key {event.value!r} is no text", event.line, f'write "{event.value}"'
            )
        return event.value

    def _add(self, located: Located, anchor: str | None) -> None:
        if anchor is not None:
            self.anchors[anchor] = located
        if not self.stack:
            self.root = located
            return
        parent = self.stack[-1][0]
        parent.size += located.size
        if parent.size > MAX_VALUES:
            raise Syntax(f"this holds more than {MAX_VALUES:,} values", located.line)
        if isinstance(parent.value, list):
            parent.value.append(located)
        elif isinstance(parent.value, dict) and (key := self.keys[-1]) is not None:
            name, line = key
            if name in parent.value:
                first = parent.key_lines[name]
                self.findings.append(
                    Finding(f"key {name!r}", f"is here twice, first on line {first}", "", line)
                )
            parent.value[name] = located
            parent.key_lines[name] = line
            self.keys[-1] = None


def _build(events: Iterator[_Event], findings: list[Finding]) -> Located:
    builder = _Builder(findings)
    for event in events:
        builder.take(event)
    return builder.root or Located(None, 1)
