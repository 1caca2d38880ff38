"""How the nodes of a session end: what was sent is worked off, then all processes go."""

from __future__ import annotations

import asyncio
import logging
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

from remotemedia.core.findings import listed
from remotemedia.core.multiprocess import flow
from remotemedia.core.multiprocess.states import ProcessState
from remotemedia.core.uncancelled import begin_task
from remotemedia.errors import ChannelError

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from remotemedia.core.multiprocess.exchange import Exchange
    from remotemedia.core.multiprocess.parts import SessionParts

__all__ = ["Ending"]

START_SECONDS = 0.5
"""How long an end waits for processes that are just being started: it takes milliseconds.

A failure of another node is told only after it, and that within a second of happening."""
SLOW_SECONDS = 1.0
"""An end that takes longer says what it waits for, lest somebody thinks that Ctrl-C did nothing."""
SLOW_DRAIN_SECONDS = 5.0
"""So does a drain: models have what they were sent to work off, which is no trouble by itself."""
_log = logging.getLogger("remotemedia.session")


class Ending:
    """Ends the nodes of a session, politely or now.

    Args:
        parts: of the session; its nodes are taken as they are when it ends.
    """

    def __init__(self, parts: SessionParts) -> None:
        self._nodes = parts.nodes
        self._starts = parts.starts
        self._wiring = parts.wiring
        self._launcher = parts.launcher
        self._config = parts.config
        self._draining: asyncio.Task[None] | None = None
        self._is_cut_short = False
        self._step: asyncio.Future[object] | None = None
        self._is_killing = False

    async def drain(self, exchange: Exchange) -> None:
        """Wait until all that was sent is out; no longer than `drain_timeout_seconds`."""
        if self._is_cut_short:
            return
        for node in self._nodes.values():
            if (
                not flow.is_fed(self._wiring.pipeline, node.node_id)
                and node.state is ProcessState.READY
            ):
                node.drain()
        slow = asyncio.get_running_loop().call_later(SLOW_DRAIN_SECONDS, self._log_slow_drain)
        self._draining = begin_task(exchange.drain())
        try:
            await asyncio.wait([self._draining], timeout=self._config.drain_timeout_seconds)
            if not self._draining.done():
                self._log_cut_off()
        finally:
            slow.cancel()
            self._draining.cancel()
        with suppress(asyncio.CancelledError, ChannelError):
            await self._draining

    def cut_short(self) -> None:
        """Wait no longer for what is still to come out."""
        self._is_cut_short = True
        if self._draining is not None:
            self._draining.cancel()

    def kill(self) -> None:
        """Give nodes no more time to end by themselves, in an end under way or to come."""
        self.cut_short()
        self._is_killing = True
        if self._step is not None:
            self._step.cancel()

    async def stop(self, grace_seconds: float) -> None:
        """End all processes, in this order.

        1. Processes that are just being started are awaited. 2. All nodes are asked to stop, at
        once, and stopped ones go on. 3. Who has not exited after nine tenths of the grace period is
        terminated, and killed at its end, descendants too; at once, where `kill` was called.
        """
        nodes = list(self._nodes.values())
        slow = asyncio.get_running_loop().call_later(
            SLOW_SECONDS, self._log_slow_stop, grace_seconds
        )
        if starts := list(self._starts):  # those that end meanwhile leave the other list
            await self._unless_killing(asyncio.wait(starts, timeout=START_SECONDS))
            for start in starts:
                start.cancel()  # it kills its process, and waits for the end of that
            await asyncio.wait(starts)
        for node in nodes:
            node.stop()
            if node.launched is not None:
                # A stopped process acts on nothing but SIGKILL, nor is its end told by a stopped
                # spawner, which this rouses.
                node.launched.signal(signal.SIGCONT)
        exits = [asyncio.ensure_future(node.wait_exit()) for node in nodes]
        if exits and grace_seconds:
            await self._unless_killing(asyncio.wait(exits, timeout=grace_seconds * 0.9))
        try:
            launched = [node.launched for node in nodes if node.launched is not None]
            await self._unless_killing(self._launcher.end(launched, grace_seconds * 0.1))
            if self._is_killing:
                await self._launcher.end(launched, 0.0)
            await asyncio.gather(*exits)
        finally:
            slow.cancel()

    async def _unless_killing(self, step: Coroutine[object, object, object]) -> None:
        """Take a step to its end, or to the moment that `kill` is called."""
        self._step = asyncio.ensure_future(step)
        if self._is_killing:
            self._step.cancel()
        await asyncio.wait([self._step])
        if not self._step.cancelled():
            self._step.result()

    def _log_slow_drain(self) -> None:
        waits = listed(one.node_id for one in self._nodes.values() if not one.is_drained)
        what = f"for {waits} to work off what was sent" if waits else "for its outputs to be taken"
        _log.warning(
            "session %r is closing and waits %s; what is not done after drain_timeout_seconds "
            "(%g s) is dropped, and terminate() ends it now",
            *(self._wiring.session_id, what, self._config.drain_timeout_seconds),
            extra={"is_slow_drain": True},
        )

    def _log_cut_off(self) -> None:
        _log.warning(
            "session %r was not worked off after drain_timeout_seconds (%g s): what had not come "
            "out, or was not received, is dropped; give it more time, or receive faster",
            *(self._wiring.session_id, self._config.drain_timeout_seconds),
        )

    def _log_slow_stop(self, grace_seconds: float) -> None:
        waits = listed(one.node_id for one in self._nodes.values() if not one.has_exited)
        waits = waits or "what its nodes have started"
        _log.warning(
            "session %r is ending and waits for %s to exit; what has not exited after "
            "grace_period_seconds (%g s) is killed",
            *(self._wiring.session_id, waits, grace_seconds),
        )
