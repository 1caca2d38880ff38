"""Sphinx configuration."""

project = "remotemedia"
author = "The remotemedia authors"
copyright = "The remotemedia authors"
extensions = ["myst_parser"]
html_theme = "furo"
exclude_patterns = ["_build"]
