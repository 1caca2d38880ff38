"""The pytest plugin: loaded wherever the package is installed, inert until a test asks for it.

- fixture `run_node`: see `remotemedia.testing.run_node`.
- fixture `no_residue`, or `@pytest.mark.no_residue`: the test fails if it leaves a process, a file
  in shared memory or the runtime folder, or a descriptor. For all tests of a folder, in its
  conftest.py:

      @pytest.fixture(autouse=True)
      def leaves_nothing(no_residue): ...
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from remotemedia.testing.one_node import Outputs

MARK = "no_residue"


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers",
        f"{MARK}: fail if the test leaves a process, a file of remotemedia or a descriptor",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give marked tests the fixture, before their own: it looks last."""
    for item in items:
        is_marked = item.get_closest_marker(MARK) is not None
        if is_marked and isinstance(item, pytest.Function) and MARK not in item.fixturenames:
            item.fixturenames.insert(0, MARK)


@pytest.fixture
def run_node() -> Callable[..., Outputs]:
    """Run one node in this process: `run_node(Node, inputs, **parameters) == outputs`."""
    from remotemedia.testing.one_node import run_node as run

    return run


@pytest.fixture(scope="session")
def remotemedia_folder() -> Iterator[Path]:
    """A runtime folder and a prefix of this run's own: others may use the library meanwhile."""
    import secrets
    import shutil
    import tempfile
    from pathlib import Path

    from remotemedia.core.multiprocess.transport import folder

    with pytest.MonkeyPatch.context() as patch:
        base = Path(tempfile.mkdtemp(prefix="rmt", dir="/tmp"))  # short, for sockets
        patch.setenv("XDG_RUNTIME_DIR", str(base))
        patch.setattr(folder, "PREFIX", f"rmt{secrets.token_hex(3)}")
        yield folder.private_folder()
        shutil.rmtree(base)


@pytest.fixture
def no_residue(request: pytest.FixtureRequest, remotemedia_folder: Path) -> Iterator[None]:  # noqa: ARG001
    """Fail the test if it leaves a process, a file of ours or a descriptor."""
    from remotemedia.testing.residue import Residue

    before = Residue.now()
    yield
    if request.node.funcargs:  # else what other fixtures gave would still be referred to
        request.node.funcargs.clear()
    left = Residue.since(before)
    if left:
        pytest.fail(f"the test left behind:\n{left}", pytrace=False)
