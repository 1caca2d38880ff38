"""How much is measured, and of which sizes."""

from __future__ import annotations

from dataclasses import dataclass

SIZES = (1_280, 921_600, 6_220_800, 24_883_200)
SMALL = SIZES[0]


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        rounds: how often the systems take turns.
        trips: the most round trips per round.
        trips_seconds: how long a round of them lasts at most, if there are a few by then.
        node_trips: round trips per round between two nodes.
        paced: paced round trips per round.
        batch: messages of a throughput batch.
        idle_seconds: how long an idle reader is watched.
        kills: nodes that are killed.
        session_rounds: sessions of which each kind is measured.
        starts: sessions that are started to measure how long that takes.
        products: of matrices, for each of three nodes.
        worked_off: messages per round that two nodes work for.
        sizes: of the hop.
        speech_seconds: how much of a recording is spoken to the voice assistant: one utterance,
            and two.
        speech_rounds: how often.
    """

    rounds: int = 10
    trips: int = 20_000
    trips_seconds: float = 0.5
    node_trips: int = 4_000
    paced: int = 50
    batch: int = 20_000
    idle_seconds: float = 10.0
    sizes: tuple[int, ...] = SIZES
    kills: int = 100
    session_rounds: int = 5
    starts: int = 15
    products: int = 200
    worked_off: int = 40
    speech_seconds: tuple[float, ...] = (8.9, 13.44)
    speech_rounds: int = 5


QUICK = Effort(
    rounds=4,
    trips=2_000,
    trips_seconds=0.06,
    node_trips=500,
    paced=10,
    batch=2_000,
    idle_seconds=2.0,
    sizes=(SIZES[0], SIZES[3]),
    kills=3,
    session_rounds=1,
    starts=1,
    products=20,
    worked_off=10,
    speech_seconds=(8.9,),
    speech_rounds=1,
)
FULL = Effort()
