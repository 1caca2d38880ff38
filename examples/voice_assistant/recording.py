"""Prints where a recording of speech is: a reading of 44 s, which moonshine-voice ships.

pip install --no-deps moonshine-voice==0.1.5
python examples/voice_assistant/recording.py
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


def recording() -> Path:
    spec = find_spec("moonshine_voice")  # for its recordings alone: it is not imported
    if spec is None or spec.origin is None:
        raise SystemExit("the recording is missing: pip install --no-deps moonshine-voice==0.1.5")
    return Path(spec.origin).parent / "assets" / "two_cities.wav"


if __name__ == "__main__":
    print(recording())
