"""The extension; everything else stands in `pyproject.toml`."""

from pathlib import Path
from tempfile import TemporaryDirectory

from setuptools import Extension, setup

FOLDER = "src/remotemedia/core/multiprocess/native"

# Elsewhere: what a build leaves behind is taken into the next one, also when its source is gone.
build_base = TemporaryDirectory()

setup(
    options={"build": {"build_base": build_base.name}},
    ext_modules=[
        Extension(
            "remotemedia.core.multiprocess.native._native",
            sources=sorted(str(path) for path in Path(FOLDER).glob("*.c")),
            depends=[f"{FOLDER}/native.h"],
            extra_compile_args=["-std=gnu11"],
            optional=True,  # without a compiler the same is done in Python
        )
    ],
)
