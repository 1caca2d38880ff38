"""Parameters that several nodes have, with their ranges."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

__all__ = ["Seed", "Temperature", "Threads", "Turns"]

Seed: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
"""What a model's random numbers begin with; the libraries refuse what is below 0."""
Temperature: TypeAlias = Annotated[float, msgspec.Meta(ge=0, le=2)]
"""How freely a model draws: 0, always the likeliest, to 2."""
Threads: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=256)]
"""Threads of the processor that a model may use; 0: as many as `default_threads` says."""
Turns: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=1000)]
"""How many turns of a chat a model is told again at most."""
