"""Two nodes of one pipeline on two interpreters, with packages and a Python version of their own.

    python examples/other_interpreter/versions.py /path/to/another/bin/python

The other interpreter needs remotemedia installed, in the same version, and nothing else of this
one. Without one, this interpreter is used for both.
"""

from __future__ import annotations

import platform
import sys

import remotemedia as rm


class Sign(rm.Node):
    """Adds which Python has seen the message."""

    def process(self, text: rm.Text) -> rm.Text:
        return rm.Text(f"{text.text} -> Python {platform.python_version()} ({sys.executable})")


def main(other: str) -> None:
    pipeline = (
        rm.Pipeline("versions")
        .add_node("here", Sign)
        .add_node(rm.NodeConfig(Sign, "there", python_executable=other))
        .connect("here", "there")
    )
    with rm.SyncRuntime() as runtime, runtime.session(pipeline) as session:
        for out in session.stream(rm.Text("start")):
            print(out.text)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else sys.executable)
