"""`lfm2_audio` on a Python that its library is too new for.

The library is loaded as it is, but for its syntax: `type X = ...` and `def f[T](...)` are written
as Python 3.11 knows them. What it wants of torchaudio, whose packages bring a gigabyte, is soxr's.
"""

from __future__ import annotations

import re
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from remotemedia.nodes.lfm2_audio import Lfm2Audio

if TYPE_CHECKING:
    from collections.abc import Sequence

_ALIAS = re.compile(r"^type (\w+) = (.*)$", re.MULTILINE)
_GENERIC = re.compile(r"^(\s*def \w+)\[[^\n]*?\](?=\()", re.MULTILINE)


class _Rewriting(SourceFileLoader):
    def get_code(self, fullname: str) -> Any:
        path = self.get_filename(fullname)
        text = self.get_data(path).decode()
        text = _ALIAS.sub(lambda found: f"{found[1]} = {found[2]!r}", text)
        text = _GENERIC.sub(r"\1", text)
        future = "from __future__ import annotations\n"
        return compile(text if future in text else future + text, path, "exec", dont_inherit=True)


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] != "liquid_audio":
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.origin is not None and spec.origin.endswith(".py"):
            spec.loader = _Rewriting(fullname, spec.origin)
        return spec


def _resample(wave: Any, rate: int, wanted: int) -> Any:
    import soxr
    import torch

    return torch.from_numpy(soxr.resample(wave[0].numpy(), rate, wanted))[None]


def install() -> None:
    """Make the library loadable in this process."""
    if sys.version_info < (3, 12) and not any(isinstance(one, _Finder) for one in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    if "torchaudio" not in sys.modules and find_spec("torchaudio") is None:
        torchaudio: Any = ModuleType("torchaudio")
        torchaudio.__spec__ = ModuleSpec("torchaudio", None)
        torchaudio.functional = ModuleType("torchaudio.functional")
        torchaudio.functional.resample = _resample
        sys.modules["torchaudio"] = torchaudio
        sys.modules["torchaudio.functional"] = torchaudio.functional


class AnyPythonLfm2(Lfm2Audio):
    """The node, whatever Python runs the tests."""

    def _load(self) -> None:
        install()
        super()._load()
