"""The extension; everything else stands in `pyproject.toml`."""

from pathlib import Path

from setuptools import Extension, setup

FOLDER = "src/remotemedia/core/multiprocess/native"

setup(
    ext_modules=[
        Extension(
            "remotemedia.core.multiprocess.native._native",
            sources=sorted(str(path) for path in Path(FOLDER).glob("*.c")),
            depends=[f"{FOLDER}/native.h"],
            extra_compile_args=["-std=gnu11"],
            optional=True,  # without a compiler the same is done in Python
        )
    ]
)
