"""`python -m benchmarks`: measure, print a table, write `benchmarks/results/latest.json`."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line asks for; return the exit code."""
    # Imported here: processes that `multiprocessing` starts import this module again.
    from rich.console import Console

    from benchmarks import readme, targets
    from benchmarks.contenders import SYSTEMS
    from benchmarks.effort import FULL, QUICK
    from benchmarks.records import RESULTS, Record, environment, show, write
    from benchmarks.scenarios import SCENARIOS

    names = [system.name for system in SYSTEMS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within a minute")
    parser.add_argument("--scenario", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--system", nargs="+", choices=names, default=names)
    parser.add_argument("--size", nargs="+", type=int, help="sizes of the hop, in bytes")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--readme", action="store_true", help="write the README's table, too")
    chosen = parser.parse_args(arguments)
    effort = QUICK if chosen.quick else FULL
    if chosen.size:
        effort = dataclasses.replace(effort, sizes=tuple(chosen.size))
    systems = [system for system in SYSTEMS if system.name in chosen.system]
    records: list[Record] = []
    progress = Console(stderr=True)
    for name in chosen.scenario:
        progress.print(f"measuring {name} ...", style="dim")
        records += SCENARIOS[name](systems, effort)
    show(records, targets.table(targets.targets(records)))
    print(f"written to {write(records, chosen.results)}")
    if chosen.readme:
        readme.update(README, readme.render(records, environment()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
