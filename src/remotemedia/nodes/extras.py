"""Libraries that only some nodes need: imported inside of `needs_extra`, from `initialize`.

The class says which, by `uses_extra`, so that one that is not installed is known before.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from remotemedia.core.node import Node

__all__ = ["Extra", "extra_of", "install_command", "installer", "needs_extra", "uses_extra"]

NodeClass = TypeVar("NodeClass", bound="type[Node]")

_MARK = "__remotemedia_extra__"

# ONNX Runtime on Linux since 1.29, and the hub's client: both report what is done, unless told
# before they are loaded.
NO_TELEMETRY = ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY")


@dataclass(frozen=True, slots=True)
class Extra:
    """An extra of this package, and what a node type always imports of it.

    Attributes:
        name: of the extra.
        modules: names without dots, so that looking for one imports nothing.
    """

    name: str
    modules: tuple[str, ...]

    @property
    def missing(self) -> tuple[str, ...]:
        """The modules that this interpreter does not find; none of them is imported."""
        from importlib.util import find_spec  # here: a node's process never asks

        return tuple(module for module in self.modules if find_spec(module) is None)

    @property
    def install(self) -> str:
        """The command that installs it."""
        return install_command(self.name)


def install_command(extra: str) -> str:
    """Return the command that installs an extra: from the clone that this came from, else by name.

    It installs it for the interpreter that this runs on.

    Args:
        extra: its name.
    """
    import json
    from importlib.metadata import PackageNotFoundError, distribution
    from urllib.parse import unquote, urlsplit

    try:
        record = json.loads(distribution("remotemedia").read_text("direct_url.json") or "{}")
    except PackageNotFoundError:  # it is on `PYTHONPATH`
        record = {}
    folder = unquote(urlsplit(record.get("url", "")).path) if "dir_info" in record else ""
    option = "-e " if folder and record["dir_info"].get("editable") else ""
    return f"{installer()} {option}'{folder or 'remotemedia'}[{extra}]'"


def installer() -> str:
    """Return the begin of a command that installs packages for the interpreter that this runs on.

    That is `pip install` where the shell finds the pip of this virtual environment. What uv makes
    has no pip.
    """
    import shlex
    import shutil
    import sys
    from importlib.util import find_spec

    python = shlex.quote(sys.executable)
    if find_spec("pip") is None:
        is_active = os.environ.get("VIRTUAL_ENV") == sys.prefix  # where uv looks first
        return "uv pip install" if is_active else f"uv pip install --python {python}"
    found = shutil.which("pip")
    is_ours = found is not None and os.path.dirname(found) == os.path.dirname(sys.executable)
    return (
        "pip install" if is_ours and sys.prefix != sys.base_prefix else f"{python} -m pip install"
    )


def uses_extra(name: str, *modules: str) -> Callable[[NodeClass], NodeClass]:
    """Declare what a node class imports in `needs_extra`, for who asks before it runs."""

    def decorate(target: NodeClass) -> NodeClass:
        setattr(target, _MARK, Extra(name, modules))
        return target

    return decorate


def extra_of(target: object) -> Extra | None:
    """Return what a node type said by `uses_extra`, also that of a class it is derived from."""
    found = getattr(target, _MARK, None)
    return found if isinstance(found, Extra) else None


@contextmanager
def needs_extra(node_type: str, extra: str) -> Iterator[None]:
    """Import in this block what an extra installs; its libraries report nothing to their makers.

    Who wants them to, sets their variables in the environment to 0.

    Args:
        node_type: name of the node type that needs it.
        extra: name of the extra of this package.

    Raises:
        ModuleNotFoundError: it is not installed; the text is the command that installs it.
    """
    for variable in NO_TELEMETRY:
        os.environ.setdefault(variable, "1")
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the node type {node_type!r} needs the module {error.name!r}, which is not "
            f"installed: {install_command(extra)}",
            name=error.name,
        ) from error
