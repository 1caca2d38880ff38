"""The systems that are measured beside each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.records import REFERENCE, USED_REFERENCE
from benchmarks.systems.mp_queue import MpQueue
from benchmarks.systems.ours import Remotemedia
from benchmarks.systems.raw_iceoryx2 import RawIceoryx2
from benchmarks.systems.zeromq import ZeroMq

if TYPE_CHECKING:
    from benchmarks.rings import System

SYSTEMS: tuple[System, ...] = (
    Remotemedia("remotemedia"),
    Remotemedia("remotemedia-copy"),
    RawIceoryx2(REFERENCE),
    RawIceoryx2(USED_REFERENCE),
    ZeroMq(),
    MpQueue(),
)
