"""What a forked child inherits: all of it stays its parent's.

A child made by `os.fork` or `multiprocessing` has copies of our descriptors, mappings and objects.
Nothing of that may be given back or waited on there, since the parent goes on with it. So whatever
would harm the parent is entered here, and is told in the child, before anything else runs there.
"""

from __future__ import annotations

import os
import weakref
from typing import NoReturn, Protocol

from remotemedia.errors import ChannelError, ExecutorError

_OF_PARENT = "before the process was forked and belongs to the parent"


class Inheritable(Protocol):
    """What has to be told that it is in a forked child now."""

    def disown(self) -> None:
        """Leave everything to the parent, and raise `inherited` wherever this is used.

        No lock may be taken: the thread that had it may not exist here.
        """


_entered: weakref.WeakSet[Inheritable] = weakref.WeakSet()


def tell_children(thing: Inheritable) -> None:
    """Have `disown` called in every child that is forked while this exists."""
    _entered.add(thing)


def inherited() -> ChannelError:
    """Make the error for what a forked child may not use."""
    return ChannelError(
        f"this was opened {_OF_PARENT}: channel ends cannot be used after a fork; let the parent "
        f"write a Ticket, and open it in the child with Endpoint.open"
    )


def inherited_whole(what: str) -> ExecutorError:
    """Make the error for what a forked child may not use and has no way to share.

    Args:
        what: a session, an executor or a runtime, in a few words.
    """
    return ExecutorError(
        f"{what} was started {_OF_PARENT}: make another Runtime here, or fork before the first "
        f"session is started"
    )


class Inherited:
    """Takes the place of what may not be used: to call it, or anything of it, raises."""

    def __call__(self, *_: object) -> NoReturn:  # noqa: D102 (says the class)
        raise inherited()

    def __getattr__(self, _: str) -> NoReturn:
        raise inherited()


def _tell() -> None:
    for thing in list(_entered):
        thing.disown()
    _entered.clear()


os.register_at_fork(after_in_child=_tell)
