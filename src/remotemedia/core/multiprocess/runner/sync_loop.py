"""The loop of a synchronous node: the main thread waits, works, and waits again."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from remotemedia.core.multiprocess.runner.context import close_outputs, outputs_of
from remotemedia.core.multiprocess.runner.work import Found, Stopped, Wake, Work
from remotemedia.errors import ChannelClosed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["SyncLoop"]


class SyncLoop(Work):
    """Runs a node without an event loop."""

    def run(self, source: Callable[[], object] | None) -> None:
        """Work until no message will come any more, and let `finish` emit what is left.

        Args:
            source: the `process` of a node without inputs.

        Raises:
            Stopped: the runner was told to stop.
            Exception: what the node raised.
        """
        try:
            if source is not None:
                self._emit_all(outputs_of(source()), is_source=True)
            else:
                self._serve()
            self.is_finishing = True
            self._emit_all(outputs_of(self.node.finish()))
        except ChannelClosed:
            if self.commands.is_stopping:
                raise Stopped from None
            raise
        self.finish_outputs()

    def _serve(self) -> None:
        handlers, commands = self.handlers, self.commands
        wait_for = cast("Callable[..., Found]", self.endpoint.doorbell.wait_for)
        outputs: Iterator[object] | None
        while True:
            only = self.only
            message = None if only is None or commands.has_news else only.receive_soon()
            if message is not None and only is not None:
                subscriber = only
            else:
                found = wait_for(self.attempt, None, has_looked=only is not None)
                if isinstance(found, Wake):
                    if found is Wake.FINISHED:
                        return
                    self._heed(found)
                    continue
                subscriber, message = found
                del found  # the message is to die with its handler
            if subscriber.epoch != self.epoch:
                self.enter(subscriber.epoch)
                self.node.interrupt()  # heard of here before the control connection told it
            began = self.begin(subscriber, message)
            try:
                result = handlers[subscriber](message)
                del message
                if result is not None:
                    outputs = outputs_of(result)
                    del result  # it may hold the message
                    self._emit_all(outputs)
                    del outputs
            except (Stopped, ChannelClosed):
                raise
            except Exception as error:
                message = result = outputs = None  # none lives on while it waits for the next
                self.note_failure(error)  # raises it again, unless the node is to live on
            self.end(began)

    def _heed(self, wake: Wake) -> None:
        if wake is Wake.ENDED:
            self.announce_ended()
        elif self.attach():
            self.node.interrupt()

    def _emit_all(self, outputs: Iterator[object], *, is_source: bool = False) -> None:
        try:
            for output in outputs:
                if is_source and self.is_outdated and self.attach():
                    self.node.interrupt()  # what comes from here on is wanted
                publisher, message = self.context.route(output)
                publisher.send(message)
                if self._is_over(is_source=is_source):
                    return
        finally:
            close_outputs(outputs)

    def _is_over(self, *, is_source: bool) -> bool:
        """Whether what is still to come of this is not wanted any more."""
        commands = self.commands
        if is_source:
            if commands.has_news and not commands.is_draining and self.attach():
                self.node.interrupt()
            return commands.is_draining
        if commands.is_stopping:
            raise Stopped
        if commands.changes:
            self.change_connections(commands.take_changes())
        return self.is_outdated  # the hook is called as soon as the loop looks for news
