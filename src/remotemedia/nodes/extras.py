"""Libraries that only some nodes need, and what they may take of the machine.

They are imported inside of `needs_extra`, from `initialize`.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["default_threads", "needs_extra"]

# ONNX Runtime on Linux since 1.29, and the hub's client: both report what is done, unless told
# before they are loaded.
NO_TELEMETRY = ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY")


@contextmanager
def needs_extra(node_type: str, extra: str) -> Iterator[None]:
    """Import in this block what an extra installs; its libraries report nothing to their makers.

    Who wants them to, sets their variables in the environment to 0.

    Args:
        node_type: name of the node type that needs it.
        extra: name of the extra of this package.

    Raises:
        ModuleNotFoundError: it is not installed; the text is the command that installs it.
    """
    for variable in NO_TELEMETRY:
        os.environ.setdefault(variable, "1")
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the node type {node_type!r} needs the module {error.name!r}, which is not "
            f"installed: pip install 'remotemedia[{extra}]'",
            name=error.name,
        ) from error


def default_threads() -> int:
    """Return how many threads a model runs on unless told: half of what there is, at most 4.

    The other nodes of a pipeline work at the same time, and threads that wait for each other on a
    processor that is busy are slower than one.
    """
    return max(1, min(4, len(os.sched_getaffinity(0)) // 2))
