"""Models of the hub: huggingface.co, or what the variable `HF_ENDPOINT` says."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["downloading", "given_path"]

PATH_BEGINS = ("/", "./", "../", "~")


def given_path(model: str, kind: str = "folder") -> Path | None:
    """Return the path of a model that is on this machine, None if it can only be a name.

    Args:
        model: as it was asked for; ~ is the home folder.
        kind: what it must be, "folder" or "file".

    Raises:
        FileNotFoundError: it begins as a path does and no name, and is none.
    """
    path = Path(model)
    with suppress(RuntimeError):  # there is no user of that name
        path = path.expanduser()
    if path.is_dir() if kind == "folder" else path.is_file():
        return path
    if model.startswith(PATH_BEGINS):
        raise FileNotFoundError(f"there is no {kind} {model}")
    return None


@contextmanager
def downloading(model: str, instead: str) -> Iterator[None]:
    """Say of a model that cannot be downloaded in this block what can be done.

    Args:
        model: as it was asked for.
        instead: what can be given in its place, such as "a folder".

    Raises:
        OSError: it cannot be: there is no such model, no network, or no room.
        ValueError: it is no name that a model can have.
    """
    try:
        yield
    except (OSError, ValueError) as error:  # as the hub's client raises them
        reason = str(error).partition("\n")[0]
        if not isinstance(error, OSError):
            raise ValueError(
                f"model {model!r} is not on this machine and no name of one on the hub: {reason} - "
                f"give {instead} as `model`"
            ) from error
        raise OSError(
            f"model {model!r} is not on this machine and could not be downloaded: {reason} - "
            f"download it where there is a network, or give {instead} as `model`"
        ) from error
