"""Libraries that only some nodes need: imported inside of `needs_extra`, from `initialize`."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["needs_extra"]

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
