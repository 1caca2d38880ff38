"""Testing nodes and what they leave; as a pytest plugin too, see `remotemedia.testing.plugin`.

Names are loaded when they are first used: the plugin is part of every run of pytest.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from remotemedia.testing.one_node import Inputs as Inputs
    from remotemedia.testing.one_node import Outputs as Outputs
    from remotemedia.testing.one_node import run_node as run_node
    from remotemedia.testing.residue import Residue as Residue

_MODULE_OF = {
    "Inputs": "one_node",
    "Outputs": "one_node",
    "Residue": "residue",
    "run_node": "one_node",
}

__all__ = list(_MODULE_OF)


def __getattr__(name: str) -> object:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module 'remotemedia.testing' has no attribute {name!r}")
    return getattr(importlib.import_module(f"remotemedia.testing.{module}"), name)
