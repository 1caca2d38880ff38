"""Models of the hub: huggingface.co, or what the variable `HF_ENDPOINT` says."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["downloading"]


@contextmanager
def downloading(model: str, instead: str) -> Iterator[None]:
    """Say of a model that cannot be downloaded in this block what can be done.

    Args:
        model: as it was asked for.
        instead: what can be given in its place, such as "a folder".

    Raises:
        OSError: it cannot be: there is no such model, no network, or no room.
    """
    try:
        yield
    except (OSError, ValueError) as error:  # as the hub's client raises them
        reason = str(error).partition("\n")[0]
        raise OSError(
            f"model {model!r} is not on this machine and could not be downloaded: {reason} - "
            f"download it where there is a network, or give {instead} as `model`"
        ) from error
