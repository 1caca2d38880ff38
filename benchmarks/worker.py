"""One of the other processes of a ring: `python -m benchmarks.worker SYSTEM JSON`."""

from __future__ import annotations

import importlib
import json
import sys

from benchmarks.rings import Ends, Job, do_job

MODULES = {
    "remotemedia": "benchmarks.systems.ours",
    "remotemedia-copy": "benchmarks.systems.ours",
    "raw-iceoryx2": "benchmarks.systems.raw_iceoryx2",
    "raw-iceoryx2-used": "benchmarks.systems.raw_iceoryx2",
    "pyzmq": "benchmarks.systems.zeromq",
}


def main() -> None:
    """Open the ends that the arguments describe, and do the job."""
    system, arguments = sys.argv[1], json.loads(sys.argv[2])
    module = importlib.import_module(MODULES[system])
    job = Job(**arguments.pop("job"))
    ends: Ends = module.open_ends(system, job, **arguments)
    do_job(ends, job)


if __name__ == "__main__":
    main()
