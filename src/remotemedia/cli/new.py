"""`remotemedia new`: a project to begin with."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from remotemedia.cli.failure import INVALID, UNREADABLE, Failure
from remotemedia.core.ids import ID_RULE, is_id
from remotemedia.nodes.extras import installer

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["new"]

NODES = '''\
"""The nodes of {name}; pipeline.yaml names this file among its modules."""

import remotemedia as rm


class Shout(rm.Node):
    """Writes text in capitals, with a mark behind it.

    Args:
        mark: what is put behind it.
    """

    def __init__(self, mark: str = "!") -> None:
        self.mark = mark

    def process(self, text: rm.Text) -> rm.Text:
        """Take one text and send one; it may also yield several, or return None."""
        return rm.Text(text.text.upper() + self.mark)
'''

PIPELINE = """\
version: v1
name: "{name}"
modules: [nodes.py]
nodes:
  - {{id: shout, node_type: "nodes:Shout", params: {{mark: "!"}}}}
  # More nodes: `remotemedia nodes` lists what there is. Each is a process of its own.
# connections:
#   - {{from: shout, to: other, policy: block, capacity: 8}}
"""

TEST = '''\
"""Tests of {name}: its node by itself, and the whole pipeline with its processes."""

from pathlib import Path

import pytest
import remotemedia as rm

from nodes import Shout


def test_shout_writes_capitals(run_node):
    assert run_node(Shout, [rm.Text("hello")], mark="?") == [rm.Text("HELLO?")]


@pytest.mark.no_residue  # fails if a process, a file in /dev/shm or a descriptor is left
def test_the_pipeline_shouts():
    pipeline = rm.load_pipeline(Path(__file__).with_name("pipeline.yaml"))
    with rm.SyncRuntime() as runtime, runtime.session(pipeline) as session:
        assert [out.text for out in session.stream(rm.Text("hello"))] == ["HELLO!"]
'''

README = """\
# {name}

Needs `remotemedia`, which is installed from a clone of it, and pytest for the tests:

```console
$ pip install /path/to/clone pytest
$ remotemedia run pipeline.yaml --text hello
$ python -m pytest
```

`nodes.py` has the nodes, `pipeline.yaml` connects them, and `test_{module}.py` tests both.
"""


@click.command(short_help="Make a project to begin with.")
@click.argument("folder", metavar="NAME")
def new(folder: str) -> None:
    """Make a project in the new folder NAME: one node, one pipeline, one test that passes."""
    if not folder:
        raise Failure("the name of the project is empty", INVALID)
    path = Path(folder)
    name = path.resolve().name
    module = "".join(char if char.isalnum() else "_" for char in name.lower())
    if not is_id(name) or not name[0].isalpha():
        problem = f"use {ID_RULE}, and begin with a letter"
        raise Failure(f"{name!r} is no name for a project: {problem}", INVALID)
    texts = {
        "nodes.py": NODES,
        "pipeline.yaml": PIPELINE,
        f"test_{module}.py": TEST,
        "README.md": README,
    }
    _write(path, {file: text.format(name=name, module=module) for file, text in texts.items()})
    click.echo(f"made {folder}: {', '.join(texts)}\n")
    click.echo(f"  cd {shlex.quote(folder)}")
    click.echo("  remotemedia run pipeline.yaml --text hello")
    click.echo(f"  python -m pytest            # installed by: {installer()} pytest")


def _write(path: Path, files: Mapping[str, str]) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise Failure(f"the folder {path} is there and is not empty", INVALID)
        for file, text in files.items():
            (path / file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise Failure(f"{path} cannot be made: {error.strerror}", UNREADABLE) from error
