"""Results: records, percentiles, files and the table."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from remotemedia.cli.watch import percentile
from remotemedia.core.multiprocess import native

if TYPE_CHECKING:
    from collections.abc import Sequence

RESULTS = Path(__file__).parent / "results"
REFERENCE = "raw-iceoryx2"
USED_REFERENCE = "raw-iceoryx2-used"
"""The reference with a byte of each message written and read; of the scenarios of a hop alone."""
RATE = "msg/s"
"""The unit of a rate, of which more is better."""


@dataclass(frozen=True)
class Record:
    """One measured figure.

    Attributes:
        scenario, system, size_bytes, mode: what was measured.
        unit: of `p50` and `p99`.
        p50, p99: median and 99th percentile; of a rate, the rate that 99 % of the batches reached.
        n: how many values they are of.
    """

    scenario: str
    system: str
    size_bytes: int
    mode: str
    unit: str
    p50: float
    p99: float
    n: int

    @classmethod
    def of(
        cls,
        scenario: str,
        system: str,
        values: Sequence[float],
        unit: str = "us",
        *,
        size_bytes: int = 0,
        mode: str = "-",
    ) -> Record:
        """Return the record of some values, of which there must be one."""
        late = 1 if unit == RATE else 99
        p50, p99 = percentile(values, 50), percentile(values, late)
        return cls(scenario, system, size_bytes, mode, unit, p50, p99, len(values))


def environment() -> dict[str, object]:
    """The machine and the versions that the figures belong to."""
    return {
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "extension": native.IS_NATIVE,
        "load_1_minute": os.getloadavg()[0],
        **{name: version(name) for name in ("iceoryx2", "numpy", "pyzmq", "remotemedia")},
    }


def write(records: Sequence[Record], folder: Path = RESULTS) -> Path:
    """Write the records to `latest.json`, and the environment beside it; return the former."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "latest.json"
    target.write_text(json.dumps([asdict(record) for record in records], indent=1) + "\n")
    (folder / "environment.json").write_text(json.dumps(environment(), indent=1) + "\n")
    return target


def table(records: Sequence[Record]) -> Table:
    """Lay the records out, each beside the bare library's figure of the same run."""
    reference = {
        (one.scenario, one.size_bytes, one.mode): one.p50
        for one in records
        if one.system == REFERENCE
    }
    laid = Table(title="one way, unless the unit says otherwise")
    for name in ("scenario", "size", "mode", "system"):
        laid.add_column(name)
    for name in ("p50", "p99", "unit", "n", f"x {REFERENCE}"):
        laid.add_column(name, justify="right")
    last = None
    for one in records:
        key = (one.scenario, one.size_bytes, one.mode)
        if last is not None and key[:2] != last[:2]:
            laid.add_section()
        last = key
        raw = reference.get(key)
        ratio = "" if not raw else f"{one.p50 / raw:.2f}"
        laid.add_row(
            one.scenario,
            f"{one.size_bytes:,}",
            one.mode,
            one.system,
            f"{one.p50:,.2f}",
            f"{one.p99:,.2f}",
            one.unit,
            f"{one.n:,}",
            ratio,
        )
    return laid


def show(records: Sequence[Record], *more: Table) -> None:
    """Print the environment, the table of records, and more tables that have rows."""
    console = Console()
    if not console.is_terminal:
        console.width = 120  # a log or a file: what does not fit is of no use to anybody
    console.print(", ".join(f"{name} {value}" for name, value in environment().items()))
    for one in (table(records), *more):
        if one.row_count:
            console.print(one)
