"""What is installed on this machine, and what a pipeline needs and does not find."""

from __future__ import annotations

import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from remotemedia.core.validation import ValidatedPipeline
    from remotemedia.errors import Finding

__all__ = ["not_installed", "version_of"]


def version_of(package: str) -> str | None:
    """Return the version of a package; None if it is not installed, if on `PYTHONPATH` perhaps."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def not_installed(pipeline: ValidatedPipeline) -> Iterator[Finding]:
    """Find interpreters that are not there, and the extras that this one lacks.

    What another interpreter has is not known.
    """
    from remotemedia.errors import Finding
    from remotemedia.nodes.extras import extra_of

    for node in pipeline.nodes:
        where, interpreter = f"node {node.node_id!r}", node.config.python_executable
        if interpreter is not None:
            if Path(interpreter).is_absolute() and shutil.which(interpreter) is None:
                yield Finding(f"{where}, python_executable", f"there is no program {interpreter}")
            continue
        extra = extra_of(node.reference.resolve())
        if extra is not None and extra.missing:
            modules = ", ".join(extra.missing)
            problem = f"it needs the extra {extra.name!r}, which is not installed (no {modules})"
            yield Finding(where, problem, extra.install)
