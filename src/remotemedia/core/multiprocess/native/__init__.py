"""The way of a message that is like the one before it, in C.

At full speed the bytecodes of a message cost as much as its two trips through the library, and
after some milliseconds asleep, when they have left the caches, more than the wake-up. So what most
messages have in common is done in C: an array without metadata, in a chunk that is known, of the
layout that came in that chunk before, while there is credit and nobody else refers to it. All else
goes to a method in Python, which takes the common case too: C decides nothing that Python does not
decide the same way, and both pass the same tests.

While a message is sent in C, no code of Python runs between its first count and its last, so that
no signal handler and no other thread comes in between; the extension never gives up the GIL. While
one is received, Python 3.11 may collect garbage where an object is made. What that runs may find
the message taken and its latency not counted yet, and may close the reader: so the reader is looked
at again afterwards.

Where the extension was not built, for want of a compiler, or `REMOTEMEDIA_PURE_PYTHON` is set,
`portable` takes its place. So it does where what was built does not fit, which is logged.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import numpy as np

from remotemedia.data.layout import Layout
from remotemedia.data.media import Audio, Video
from remotemedia.data.message import NO_METADATA, ArrayMessage
from remotemedia.data.wire import HEADER

__all__ = [
    "FAULT",
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
FAULT = ""
"""Why the extension cannot be used, where it was built."""

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
            raise ModuleNotFoundError
        import remotemedia.core.multiprocess.native._native as chosen

        chosen.bind(
            ArrayMessage, Audio, Video, Layout, NO_METADATA, HEADER.unpack, np.empty(1, np.uint8)
        )
        IS_NATIVE = True
    except ImportError as error:
        if not isinstance(error, ModuleNotFoundError):
            FAULT = str(error)
            logging.getLogger("remotemedia").warning(
                "the extension in C cannot be used, and messages take twice as long: %s; install "
                "this package again",
                FAULT,
            )
        from remotemedia.core.multiprocess.native import portable as chosen

        IS_NATIVE = False
    Chunk, Emitter, Receiver = chosen.Chunk, chosen.Emitter, chosen.Receiver
    LoanBase, SampleLender, SampleTaker = (
        chosen.LoanBase,
        chosen.SampleLender,
        chosen.SampleTaker,
    )
