"""Which audio a model takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from remotemedia.errors import DataError

if TYPE_CHECKING:
    from remotemedia.data import Audio

__all__ = ["check_mono"]


def check_mono(audio: Audio, node_type: str, *sample_rates: int) -> None:
    """Raise `DataError` unless audio has one channel and one of these rates; it says what to do."""
    if audio.channels == 1 and audio.sample_rate in sample_rates:
        return
    rates = " or ".join(f"{rate:,}" for rate in sample_rates)
    raise DataError(
        f"{node_type} takes one channel at {rates} Hz, not {audio.channels} at "
        f"{audio.sample_rate:,} Hz: put audio.resample before it, with sample_rate: "
        f"{sample_rates[0]} and mono: true"
    )
