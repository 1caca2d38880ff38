"""Settings of the executor: the contract's defaults, and values that are refused."""

from __future__ import annotations

import sys
from dataclasses import FrozenInstanceError

import pytest

from remotemedia.core.multiprocess.config import MultiprocessConfig


def test_the_defaults_are_those_of_the_contract() -> None:
    config = MultiprocessConfig()
    assert config.max_processes_per_session == 10
    assert config.channel_capacity == 100
    assert config.init_timeout_secs == 30
    assert config.python_executable == sys.executable
    assert config.enable_backpressure is True
    assert (config.grace_period_seconds, config.spin_microseconds) == (5.0, 50)
    assert config.max_held_messages == 4


def test_a_config_does_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        MultiprocessConfig().channel_capacity = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    "values",
    [
        {"max_processes_per_session": None},
        {"max_processes_per_session": 1},
        {"channel_capacity": 65_536},
        {"grace_period_seconds": 0},
        {"spin_microseconds": 0},
        {"init_timeout_secs": 0.5},
    ],
)
def test_values_at_the_edge_of_their_range_are_taken(values: dict[str, float | None]) -> None:
    MultiprocessConfig(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_processes_per_session", 0),
        ("max_processes_per_session", True),
        ("channel_capacity", 0),
        ("channel_capacity", 65_537),
        ("channel_capacity", "100"),
        ("channel_capacity", None),
        ("init_timeout_secs", 0),
        ("init_timeout_secs", float("nan")),
        ("init_timeout_secs", float("inf")),
        ("grace_period_seconds", -1),
        ("spin_microseconds", -1),
        ("max_held_messages", 0),
        ("python_executable", ""),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_name(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^{name} is "):
        MultiprocessConfig(**{name: value})  # type: ignore[arg-type]
