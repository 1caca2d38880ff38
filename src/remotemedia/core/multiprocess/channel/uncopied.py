"""What cannot be copied, because a copy would own the same memory, queue and numbers again."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from typing import SupportsIndex


class Uncopied:
    """Refuses to be copied or pickled, and says how another process takes part."""

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError(
            f"a {type(self).__name__} cannot be copied or pickled; for another process, plan an "
            f"endpoint and hand over its ticket (ChannelRegistry.ticket), and open that there with "
            f"Endpoint.open"
        )
