"""Draws a graph without cycles in characters: layers from top to bottom, lines between them.

The method is Sugiyama's in its plainest form: layers by longest path, lines across layers cut into
steps, an order by the mean of the neighbours above, places as close below them as there is room.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["TooLarge", "Vertex", "draw"]

UP, DOWN, LEFT, RIGHT = 1, 2, 4, 8
LINES = " ╵╷│╴┘┐┤╶└┌├─┴┬┼"
"""By the sum of the directions that a line goes in."""
GAP = 3
MAX_CHARACTERS = 1_000_000
MAX_STEPS = 100_000
"""Of lines, from layer to layer."""


class TooLarge(Exception):
    """The picture would have more than a million characters; it says so."""

    def __init__(self) -> None:
        super().__init__(f"a picture of it would have more than {MAX_CHARACTERS:,} characters")


@dataclass(slots=True)
class Vertex:
    """Something in the graph: lines of text, in a box or without one; no text is a bend in a line.

    `layer` and `left` are set by `draw`.
    """

    text: tuple[str, ...] = ()
    is_box: bool = True
    layer: int = 0
    left: int = 0

    @property
    def width(self) -> int:
        """In characters."""
        inner = max((len(line) for line in self.text), default=1)
        return inner + 4 if self.is_box and self.text else inner

    @property
    def middle(self) -> int:
        """Column of its middle."""
        return self.left + self.width // 2


@dataclass(slots=True)
class _Canvas:
    lines: defaultdict[tuple[int, int], int] = field(default_factory=lambda: defaultdict(int))
    text: dict[tuple[int, int], str] = field(default_factory=dict)

    def vertical(self, x: int, top: int, bottom: int) -> None:
        for y in range(top, bottom + 1):
            self.lines[x, y] |= (UP if y > top else 0) | (DOWN if y < bottom else 0)

    def horizontal(self, y: int, left: int, right: int) -> None:
        for x in range(left, right + 1):
            self.lines[x, y] |= (LEFT if x > left else 0) | (RIGHT if x < right else 0)

    def write(self, x: int, y: int, text: str) -> None:
        for offset, char in enumerate(text):
            self.text[x + offset, y] = char

    def render(self) -> str:
        ends: defaultdict[int, int] = defaultdict(int)
        for x, y in (*self.lines, *self.text):
            ends[y] = max(ends[y], x + 1)
        if sum(ends.values()) > MAX_CHARACTERS:
            raise TooLarge
        rows = []
        for y in range(max(ends) + 1):
            places = [(x, y) for x in range(ends[y])]
            rows.append("".join(self.text.get(at) or LINES[self.lines.get(at, 0)] for at in places))
        return "\n".join(row.rstrip() for row in rows)

    def require_room(self) -> None:
        """Raise `TooLarge` as soon as more is drawn than will be shown."""
        if len(self.lines) > MAX_CHARACTERS:
            raise TooLarge


class _Steps(list[tuple[str, str]]):
    """Lines from layer to layer, in their order, and by either end."""

    def __init__(self, steps: Iterable[tuple[str, str]]) -> None:
        super().__init__(steps)
        self.above: defaultdict[str, list[str]] = defaultdict(list)
        self.below: defaultdict[str, list[str]] = defaultdict(list)
        for source, target in self:
            self.above[target].append(source)
            self.below[source].append(target)


def draw(vertices: Mapping[str, Vertex], edges: Iterable[tuple[str, str]]) -> str:
    """Return the picture of a graph.

    Args:
        vertices: by name.
        edges: from and to, by name; without cycles. Parallel ones are drawn once.

    Raises:
        TooLarge: it would be of no use.
    """
    every = dict(vertices)
    whole = _Steps(dict.fromkeys(edges))
    _set_layers(every, whole)
    steps = _steps(every, whole)
    layers = _ordered(every, steps)
    _place(every, layers, steps)
    by_layer: defaultdict[int, list[tuple[str, str]]] = defaultdict(list)
    for a, b in steps:
        by_layer[every[a].layer].append((a, b))
    canvas = _Canvas()
    y = 0
    for number, names in enumerate(layers):
        height = max(_height(every[name]) for name in names)
        for name in names:
            _draw_vertex(canvas, every[name], y, height)
        if number + 1 < len(layers):
            y = _draw_lines(canvas, every, by_layer[number], y, y + height)
    return canvas.render()


def _height(vertex: Vertex) -> int:
    return len(vertex.text) + (2 if vertex.is_box else 0) if vertex.text else 1


def _set_layers(vertices: Mapping[str, Vertex], edges: _Steps) -> None:
    """Set the layers: as far up as what leads there allows, but inputs right above their reader."""
    awaited = {name: len(edges.above[name]) for name in vertices}
    ready = [name for name, count in awaited.items() if not count]
    for name in ready:  # it grows
        for target in edges.below[name]:
            lowest = vertices[name].layer + 1
            vertices[target].layer = max(vertices[target].layer, lowest)
            awaited[target] -= 1
            if not awaited[target]:
                ready.append(target)
    for name, vertex in vertices.items():
        if edges.below[name] and not edges.above[name]:
            vertex.layer = min(vertices[target].layer for target in edges.below[name]) - 1


def _steps(vertices: dict[str, Vertex], edges: _Steps) -> _Steps:
    """Cut edges that pass layers into steps from layer to layer, with bends between them."""
    if sum(vertices[b].layer - vertices[a].layer for a, b in edges) > MAX_STEPS:
        raise TooLarge
    steps = []
    for source, target in edges:
        at = source
        for layer in range(vertices[source].layer + 1, vertices[target].layer):
            bend = f"{source} > {target} {layer}"
            vertices[bend] = Vertex(layer=layer)
            steps.append((at, bend))
            at = bend
        steps.append((at, target))
    return _Steps(steps)


def _ordered(vertices: Mapping[str, Vertex], steps: _Steps) -> list[list[str]]:
    depth = max(vertex.layer for vertex in vertices.values()) + 1
    layers: list[list[str]] = [[] for _ in range(depth)]
    for name, vertex in vertices.items():
        layers[vertex.layer].append(name)
    for above, names in pairwise(layers):
        places = {name: number for number, name in enumerate(above)}

        def mean(name: str, places: dict[str, int] = places) -> float:
            over = [places[a] for a in steps.above[name]]
            return sum(over) / len(over) if over else len(places)

        names.sort(key=mean)
    return layers


def _place(vertices: Mapping[str, Vertex], layers: Sequence[Sequence[str]], steps: _Steps) -> None:
    """Put each vertex below the middle of those above it, or as near as there is room."""
    for names in layers:
        free = 0
        for name in names:
            vertex = vertices[name]
            over = [vertices[a].middle for a in steps.above[name]]
            siblings = max((len(steps.below[a]) for a in steps.above[name]), default=1)
            wish = sum(over) // len(over) - vertex.width // 2 if over and siblings == 1 else free
            vertex.left = max(free, wish)
            free = vertex.left + vertex.width + GAP
    # What stands above several is put over the middle of them, where there is room.
    for names in reversed(layers[:-1]):
        limit = None
        for name in reversed(names):
            vertex = vertices[name]
            under = [vertices[b].middle for b in steps.below[name]]
            wish = sum(under) // len(under) - vertex.width // 2 if under else vertex.left
            room = wish if limit is None else min(wish, limit - vertex.width - GAP)
            vertex.left = max(vertex.left, room)
            limit = vertex.left


def _draw_vertex(canvas: _Canvas, vertex: Vertex, y: int, height: int) -> None:
    if not vertex.text:
        canvas.vertical(vertex.middle, y - 1, y + height)
        return
    if vertex.is_box:
        left, right = vertex.left, vertex.left + vertex.width - 1
        bottom = y + len(vertex.text) + 1
        for row in (y, bottom):
            canvas.horizontal(row, left, right)
        for column in (left, right):
            canvas.vertical(column, y, bottom)
    for number, line in enumerate(vertex.text):
        at = y + number + (1 if vertex.is_box else 0)
        canvas.write(vertex.left + (vertex.width - len(line)) // 2, at, line)


def _draw_lines(
    canvas: _Canvas,
    vertices: Mapping[str, Vertex],
    lines: Sequence[tuple[str, str]],
    top: int,
    bottom: int,
) -> int:
    """Draw the lines from the layer in rows [top, bottom) to the next; return where that begins."""
    steps = _Steps(lines)
    ends = _ends(vertices, steps)
    # Lines of one source share a row. Those to the right go below each other from the right, so
    # that they do not cross; those to the left the other way round.
    middles = {name: vertices[name].middle for name in steps.below}
    bent = [n for n in middles if any(ends[n, b] != middles[n] for b in steps.below[n])]
    leans = {n: sum(ends[n, b] - middles[n] for b in steps.below[n]) for n in bent}
    bent.sort(key=lambda n: -middles[n] if leans[n] > 0 else middles[n])
    rows = {name: bottom + number for number, name in enumerate(bent)}
    arrows = bottom + max(1, len(bent))
    for a, targets in steps.below.items():
        start = top + _height(vertices[a]) - 1 if vertices[a].text else top
        start += 0 if vertices[a].is_box else 1
        x, turn = middles[a], rows.get(a, bottom)
        columns = [x, *(ends[a, b] for b in targets)]
        canvas.vertical(x, min(start, turn), turn)
        if not vertices[a].is_box:
            canvas.lines[x, start] |= UP
        canvas.horizontal(turn, min(columns), max(columns))
        for b in targets:
            canvas.vertical(ends[a, b], turn, arrows + (0 if vertices[b].text else 1))
            if vertices[b].text:
                canvas.write(ends[a, b], arrows, "▼")
        canvas.require_room()
    return arrows + 1


def _ends(vertices: Mapping[str, Vertex], steps: _Steps) -> dict[tuple[str, str], int]:
    """Choose the column where each line arrives: side by side, in the order they come from."""
    ends = {}
    for name, sources in steps.above.items():
        over = sorted(sources, key=lambda a: vertices[a].middle)
        spread = 2 if vertices[name].width >= 2 * len(over) + 1 else 1
        first = vertices[name].middle - spread * (len(over) - 1) // 2
        for number, a in enumerate(over):
            ends[a, name] = first + spread * number
    return ends
