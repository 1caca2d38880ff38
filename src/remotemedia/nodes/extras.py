"""Libraries that only some nodes need: imported inside of `needs_extra`, from `initialize`."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["needs_extra"]


@contextmanager
def needs_extra(node_type: str, extra: str) -> Iterator[None]:
    """Import in this block what an extra installs.

    Args:
        node_type: name of the node type that needs it.
        extra: name of the extra of this package.

    Raises:
        ModuleNotFoundError: it is not installed; the text is the command that installs it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the node type {node_type!r} needs the module {error.name!r}, which is not "
            f"installed: pip install 'remotemedia[{extra}]'",
            name=error.name,
        ) from error
