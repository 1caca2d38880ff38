"""Sphinx configuration. The state machines are drawn from their tables at each build."""

from pathlib import Path

from remotemedia.core.multiprocess.states import PROCESS, SESSION

project = "remotemedia"
author = "The remotemedia authors"
copyright = "The remotemedia authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
myst_heading_anchors = 2
html_theme = "furo"
exclude_patterns = ["_build", "_states.md"]

_drawn = "\n\n".join(
    f"**{machine.name}**\n\n```text\n{machine.diagram()}\n```" for machine in (SESSION, PROCESS)
)
(Path(__file__).parent / "_states.md").write_text(_drawn + "\n")
