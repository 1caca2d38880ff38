"""The README's table of figures, written from the records of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from benchmarks.records import Record

BEGIN, END = "<!-- begin of the table that `make bench ARGS=--readme` writes -->", "<!-- end -->"
COLUMNS = {
    "remotemedia": ("remotemedia", "adaptive"),
    "iceoryx2 alone": ("raw-iceoryx2", "adaptive"),
    "ZeroMQ": ("pyzmq", "block"),
    "multiprocessing.Queue": ("mp-queue", "block"),
}


def render(records: Sequence[Record], environment: Mapping[str, object]) -> str:
    """Lay the hops and the throughput out as a Markdown table, with what they were measured on."""
    found = {(one.scenario, one.size_bytes, one.system, one.mode): one.p50 for one in records}
    lines = [f"| | {' | '.join(COLUMNS)} |", f"|---|{'---:|' * len(COLUMNS)}"]
    rows = dict.fromkeys(
        (one.scenario, one.size_bytes) for one in records if one.scenario in ("hop", "throughput")
    )
    for scenario, size in rows:
        what = f"{_bytes(size)}, one way" if scenario == "hop" else f"{_bytes(size)}, a second"
        values = [found.get((scenario, size, *column)) for column in COLUMNS.values()]
        show = _microseconds if scenario == "hop" else _rate
        cells = ("" if value is None else show(value) for value in values)
        lines.append(f"| {what} | {' | '.join(cells)} |")
    machine = (
        f"Medians of one run on {environment['cores']} cores ({environment['machine']}), "
        f"Python {environment['python']}."
    )
    return "\n".join([*lines, "", machine])


def update(readme: Path, text: str) -> None:
    """Put a table in the place of the one that is there.

    Raises:
        ValueError: the file has no place for it.
    """
    head, begin, rest = readme.read_text().partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{readme} has no lines {BEGIN!r} and {END!r}")
    readme.write_text(f"{head}{BEGIN}\n{text}\n{END}{tail}")


def _bytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{size:,} B"


def _microseconds(value: float) -> str:
    return f"{value:.1f} µs" if value < 1000 else f"{value / 1000:,.1f} ms"


def _rate(value: float) -> str:
    if value < 10_000:
        return f"{value:,.0f}"
    return f"{value / 1000:,.0f},000"
