"""The way of a message that is like the one before it, in C.

At full speed the bytecodes of a message cost as much as its two trips through the library, and
after some milliseconds asleep, when they have left the caches, more than the wake-up. So what most
messages have in common is done in C: an array without metadata, in a chunk that is known, of the
layout that came in that chunk before, while there is credit and nobody else refers to it. All else
goes to a method in Python, which takes the common case too: C decides nothing that Python does not
decide the same way, and both pass the same tests.

In C no code of Python runs between the first count of a message and the last, so that no signal
handler and no other thread comes in between; the extension never gives up the GIL.

Where the extension was not built, for want of a compiler, or `REMOTEMEDIA_PURE_PYTHON` is set,
`portable` takes its place.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from remotemedia.data.layout import Layout
from remotemedia.data.media import Audio, Video
from remotemedia.data.message import NO_METADATA, ArrayMessage
from remotemedia.data.wire import HEADER

__all__ = [
    "IS_NATIVE",
    "PURE_PYTHON",
    "Chunk",
    "Emitter",
    "LoanBase",
    "Receiver",
    "SampleLender",
    "SampleTaker",
]

PURE_PYTHON = "REMOTEMEDIA_PURE_PYTHON"
"""Environment variable: set to anything, this process does without the extension."""

if TYPE_CHECKING:
    IS_NATIVE = True
    from remotemedia.core.multiprocess.native.portable import (
        Chunk,
        Emitter,
        LoanBase,
        Receiver,
        SampleLender,
        SampleTaker,
    )
else:
    try:
        if os.environ.get(PURE_PYTHON):
            raise ImportError
        from remotemedia.core.multiprocess.native import _native as chosen

        chosen.bind(
            ArrayMessage, Audio, Video, Layout, NO_METADATA, HEADER.unpack, np.empty(1, np.uint8)
        )
        IS_NATIVE = True
    except ImportError:
        from remotemedia.core.multiprocess.native import portable as chosen

        IS_NATIVE = False
    Chunk, Emitter, Receiver = chosen.Chunk, chosen.Emitter, chosen.Receiver
    LoanBase, SampleLender, SampleTaker = (
        chosen.LoanBase,
        chosen.SampleLender,
        chosen.SampleTaker,
    )
