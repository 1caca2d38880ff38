"""What the figures should come to. Reported, never asserted: a busy machine is no bug."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from rich.table import Table

from benchmarks.effort import SIZES, SMALL
from benchmarks.records import REFERENCE, USED_REFERENCE
from benchmarks.scenarios import THROUGHPUT_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.records import Record

LARGE = SIZES[-1]
OURS, COPIED, RAW = "remotemedia", "remotemedia-copy", REFERENCE
BARE, ALONE, APART = "bare-interpreters", "one-process", "bare-processes"
CORES = "thread-per-core"


@dataclass(frozen=True)
class Target:
    """A ratio or a value, and its limit.

    Attributes:
        name: what it is.
        value: what was measured; None where a record of it is missing.
        limit: what it should be at most.
        is_floor: whether it should be at least the limit, not at most.
    """

    name: str
    value: float | None
    limit: float
    is_floor: bool = False

    @property
    def is_met(self) -> bool | None:
        """Whether it is kept; None where it was not measured."""
        if self.value is None:
            return None
        return self.value >= self.limit if self.is_floor else self.value <= self.limit


class _Figures:
    """The figures of each record, by what was measured. Missing ones raise `KeyError`."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.speech_modes = sorted({r.mode for r in records if r.scenario == "speech"})
        found = {(r.scenario, r.system, r.size_bytes, r.mode): r for r in records}
        self._p50 = {key: record.p50 for key, record in found.items()}
        self._p99 = {key: record.p99 for key, record in found.items()}

    def hop(self, system: str, size: int = SMALL, mode: str = "adaptive") -> float:
        return self._p50["hop", system, size, mode]

    def paced(self, system: str) -> float:
        return self._p50["hop_paced", system, SMALL, "block"]

    def rate(self, system: str, mode: str = "adaptive") -> float:
        return self._p50["throughput", system, THROUGHPUT_BYTES, mode]

    def copy(self) -> float:
        return self._p50["copy_floor", "numpy", LARGE, "-"]

    def idle(self) -> float:
        return self._p50["idle_cpu", OURS, SMALL, "adaptive"]

    def session(self, scenario: str) -> float:
        return self._p50[scenario, OURS, 0, "-"]

    def beside(self, scenario: str, other: str, size: int = 0, mode: str = "-") -> float:
        return self._p50[scenario, OURS, size, mode] / self._p50[scenario, other, size, mode]

    def slowest(self, scenario: str, system: str = OURS) -> float:
        return self._p99[scenario, system, 0, "-"]


def targets(records: Sequence[Record]) -> list[Target]:
    """Hold the records of one run against the targets."""
    of = _Figures(records)
    at_most: list[tuple[str, float, Callable[[], float]]] = [
        ("hop / raw", 3.0, lambda: of.hop(OURS) / of.hop(RAW)),
        ("hop / pyzmq", 1 / 6, lambda: of.hop(OURS) / of.hop("pyzmq", mode="block")),
        ("hop of 24.9 MB / of 1,280 B", 1.3, lambda: of.hop(OURS, LARGE) / of.hop(OURS)),
        (
            "copied hop of 24.9 MB / (copy + hop)",
            1.3,
            lambda: of.hop(COPIED, LARGE) / (of.copy() + of.hop(OURS)),
        ),
        ("paced hop, block / raw", 1.3, lambda: of.paced(OURS) / of.paced(RAW)),
        # What of it is ours: the same beside the library with a byte of the message looked at.
        ("paced hop, block / raw used", 1.3, lambda: of.paced(OURS) / of.paced(USED_REFERENCE)),
        ("idle reader, % of a core", 0.2, of.idle),
        *(
            (
                f"node to node, {size:,} B / raw",
                4.5,
                partial(of.beside, "node_hop", RAW, size, "adaptive"),
            )
            for size in SIZES
        ),
        ("check of 50 nodes, ms", 100, lambda: of.session("validate")),
        ("start of 3 nodes / 3 interpreters", 1.5, lambda: of.beside("startup", BARE)),
        (
            "products of 3 nodes, p99 / a thread per core",
            1.0,
            lambda: of.slowest("blas") / of.slowest("blas", CORES),
        ),
        ("end of 10 nodes, ms", 150, lambda: of.session("teardown")),
        ("kill to exception, p99, ms", 20, lambda: of.slowest("crash_detect")),
        ("idle session of 5 nodes, % of a core", 0.5, lambda: of.session("idle_session")),
        *(
            (
                f"end of speech to first sound, {mode} / one process",
                0.6,
                partial(of.beside, "speech", ALONE, mode=mode),
            )
            for mode in of.speech_modes
        ),
    ]
    at_least: list[tuple[str, float, Callable[[], float]]] = [
        ("throughput / raw", 0.25, lambda: of.rate(OURS) / of.rate(RAW)),
        ("throughput / mp-queue", 5, lambda: of.rate(OURS) / of.rate("mp-queue", "block")),
        ("two nodes / one process", 1.8, lambda: of.beside("concurrency", ALONE)),
        # What of it is ours: two cores of one chip may give less than twice what one gives alone.
        ("two nodes / two bare processes", 0.9, lambda: of.beside("concurrency", APART)),
    ]
    return [
        *(Target(name, _or_none(measure), limit) for name, limit, measure in at_most),
        *(Target(name, _or_none(measure), limit, True) for name, limit, measure in at_least),
    ]


def table(held: Sequence[Target]) -> Table:
    """Lay out the targets that were measured."""
    laid = Table("target", title="targets")
    for name in ("measured", "limit", ""):
        laid.add_column(name, justify="right")
    for one in held:
        if one.value is not None:
            sign = ">=" if one.is_floor else "<="
            verdict = "met" if one.is_met else "missed"
            laid.add_row(one.name, f"{one.value:.3f}", f"{sign} {one.limit:.3g}", verdict)
    return laid


def _or_none(measure: Callable[[], float]) -> float | None:
    try:
        return measure()
    except (KeyError, ZeroDivisionError):
        return None
