"""A signal handler that raises, at every place where one can run, one after another."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Struck(BaseException):
    """What the handler raises."""


def strikes(action: Callable[[], object], *files: str) -> Iterator[int]:
    """Do something again and again, each time interrupted one place later; until it is not.

    Gives the number of the place after each interruption. `files` are the ends of the names of the
    files whose code is interrupted.
    """
    place = 0
    while _is_struck(action, files, place):
        yield place
        place += 1
    assert place > 3, "nothing of it could be interrupted: are these the files?"


def _is_struck(action: Callable[[], object], files: tuple[str, ...], place: int) -> bool:
    left = place

    def look(frame: Any, event: str, _: object) -> None:
        nonlocal left
        # Handlers run when a Python function is entered, and after a call of one in C.
        if event in ("call", "c_return") and frame.f_code.co_filename.endswith(files):
            left -= 1
            if left < 0:
                sys.setprofile(None)
                raise Struck

    outer = sys.getprofile()
    sys.setprofile(look)
    try:
        action()
    except Struck:
        return True
    finally:
        sys.setprofile(outer)
    return False
