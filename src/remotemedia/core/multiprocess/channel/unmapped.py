"""Why a process could not map the memory that a message came in.

The library takes such a message off the queue and says nothing; the reader sees that it is missing.
"""

from __future__ import annotations

import os
import resource


def why_unmapped() -> str:
    """Say what keeps this process from mapping shared memory now; empty if nothing is seen to."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return (
            f"the memory they came in could not be mapped, because no file can be opened "
            f"({error.strerror}); raise RLIMIT_NOFILE (ulimit -n) or close files"
        )
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        return (
            f"the memory they came in could not be mapped within the {limit:,} bytes of address "
            f"space that RLIMIT_AS (ulimit -v) leaves this process; segments are large and sparse, "
            f"so leave it unlimited"
        )
    return ""
