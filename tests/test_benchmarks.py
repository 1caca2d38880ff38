"""The benchmarks run, and write what they promise."""

from __future__ import annotations

import json
from multiprocessing.resource_tracker import ensure_running
from typing import TYPE_CHECKING

import pytest
from benchmarks import readme, speech
from benchmarks.__main__ import main
from benchmarks.contenders import SYSTEMS
from benchmarks.effort import QUICK
from benchmarks.records import Record, table
from benchmarks.rings import Job, batch_rates, round_trips
from benchmarks.scenarios import SCENARIOS
from benchmarks.targets import targets

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.rings import System


@pytest.fixture(scope="module", autouse=True)
def resource_tracker() -> None:
    """The process that `multiprocessing` starts once and keeps is no residue of a test."""
    ensure_running()


FIELDS = {"scenario", "system", "size_bytes", "mode", "unit", "p50", "p99", "n"}


def test_the_later_figure_of_a_record_is_the_worse_one() -> None:
    values = list(range(1, 101))
    delay = Record.of("hop", "remotemedia", values, size_bytes=1280, mode="block")
    assert delay == Record("hop", "remotemedia", 1280, "block", "us", 50, 99, 100)
    rate = Record.of("concurrency", "remotemedia", values, "msg/s")
    assert rate == Record("concurrency", "remotemedia", 0, "-", "msg/s", 50, 1, 100)


def test_the_table_compares_with_the_bare_library_of_the_same_run() -> None:
    raw = Record("hop", "raw-iceoryx2", 1280, "block", "us", 10.0, 20.0, 5)
    ours = Record("hop", "remotemedia", 1280, "block", "us", 15.0, 30.0, 5)
    cells = list(table([raw, ours]).columns[-1].cells)
    assert cells == ["1.00", "1.50"]


def test_targets_are_held_against_the_records_of_one_run_and_missing_ones_are_left_out() -> None:
    raw = Record("hop", "raw-iceoryx2", 1280, "adaptive", "us", 2.0, 3.0, 5)
    ours = Record("hop", "remotemedia", 1280, "adaptive", "us", 5.0, 9.0, 5)
    measured = [one for one in targets([raw, ours]) if one.value is not None]
    assert [(one.name, one.value, one.is_met) for one in measured] == [("hop / raw", 2.5, True)]
    slow = Record("throughput", "remotemedia", 1024, "adaptive", "msg/s", 10.0, 9.0, 5)
    queue = Record("throughput", "mp-queue", 1024, "block", "msg/s", 5.0, 4.0, 5)
    missed = [one.name for one in targets([slow, queue]) if one.is_met is False]
    assert missed == ["throughput / mp-queue"]


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)
def test_every_system_passes_messages_around_a_ring(system: System) -> None:
    for mode in system.modes:
        with system.ring(3, Job(1280, mode)) as ring:
            assert len(round_trips(ring.ends, 5)) == 5


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)
def test_every_system_passes_batches_without_loss(system: System) -> None:
    with system.ring(2, Job(1024, "block", ack_every=200)) as ring:
        assert all(rate > 0 for rate in batch_rates(ring.ends, 2, 200))


def test_the_command_writes_records_of_the_published_form(tmp_path: Path) -> None:
    arguments = ["--quick", "--scenario", "copy_floor", "--size", "1280"]
    assert main([*arguments, "--results", str(tmp_path)]) == 0
    records = json.loads((tmp_path / "latest.json").read_text())
    assert records
    assert all(set(record) == FIELDS for record in records)


def test_where_models_are_missing_speech_says_so_and_is_skipped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(speech, "NEEDED", ("no_such_module",))
    assert list(speech.speech((), QUICK)) == []
    assert "speech is skipped: no_such_module missing" in capsys.readouterr().err


def test_speech_is_held_against_the_same_models_in_one_process() -> None:
    one = Record("speech", "one-process", 0, "13.44 s", "ms", 2000.0, 3000.0, 5)
    ours = Record("speech", "remotemedia", 0, "13.44 s", "ms", 1000.0, 1500.0, 5)
    (held,) = (target for target in targets([one, ours]) if target.value is not None)
    assert (held.value, held.limit, held.is_met) == (0.5, 0.6, True)


def test_sessions_are_held_against_what_they_stand_beside_and_against_times() -> None:
    def record(scenario: str, system: str, p50: float, size_bytes: int = 0) -> Record:
        mode = "adaptive" if size_bytes else "-"
        return Record(scenario, system, size_bytes, mode, "", p50, 3 * p50, 5)

    records = [
        record("node_hop", "remotemedia", 16.0, 1280),
        record("node_hop", "raw-iceoryx2", 4.0, 1280),
        record("startup", "remotemedia", 300.0),
        record("startup", "bare-interpreters", 240.0),
        record("crash_detect", "remotemedia", 7.0),
        record("concurrency", "remotemedia", 90.0),
        record("concurrency", "one-process", 60.0),
        record("concurrency", "bare-processes", 100.0),
    ]
    held = {one.name: (one.value, one.is_met) for one in targets(records) if one.value is not None}
    assert held == {
        "node to node, 1,280 B / raw": (4.0, True),
        "start of 3 nodes / 3 interpreters": (1.25, True),
        "kill to exception, p99, ms": (21.0, False),
        "two nodes / one process": (1.5, False),
        "two nodes / two bare processes": (0.9, True),
    }


def test_all_scenarios_of_the_data_plane_are_there() -> None:
    assert {"hop", "hop_paced", "chain", "throughput"} <= set(SCENARIOS)


def test_the_table_of_the_readme_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    records = [
        Record("hop", "remotemedia", 1280, "adaptive", "us", 5.25, 9, 10),
        Record("hop", "pyzmq", 24_883_200, "block", "us", 6500.0, 9, 10),
        Record("throughput", "raw-iceoryx2", 1024, "adaptive", "msg/s", 828_000.0, 1, 10),
        Record("throughput", "pyzmq", 24_883_200, "block", "msg/s", 400.0, 1, 10),
    ]
    text = readme.render(records, {"cores": 2, "machine": "x86_64", "python": "3.11.7"})
    assert "| 1,280 B, one way | 5.2 µs |  |  |  |" in text
    assert "| 24.9 MB, one way |  |  | 6.5 ms |  |" in text
    assert "| 1,024 B, a second |  | 828,000 |  |  |" in text
    assert "| 24.9 MB, a second |  |  | 400 |  |" in text
    page = tmp_path / "README.md"
    page.write_text(f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n")
    readme.update(page, text)
    assert page.read_text() == f"before\n{readme.BEGIN}\n{text}\n{readme.END}\nafter\n"
    page.write_text("no place")
    with pytest.raises(ValueError, match="has no lines"):
        readme.update(page, text)
