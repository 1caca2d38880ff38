"""The microphone and the speaker, which need a library of the system."""

from __future__ import annotations

from typing import Any

from remotemedia.cli.failure import UNREADABLE, Failure

__all__ = ["sound_devices"]


def sound_devices() -> Any:
    """Return the library that records and plays.

    Raises:
        Failure: it is not installed, or lacks the library that it stands on.
    """
    try:
        import sounddevice
    except ModuleNotFoundError as error:
        hint = "run pip install 'remotemedia[mic]'"
        problem = f"a microphone or speaker needs the package sounddevice: {hint}"
        raise Failure(problem, UNREADABLE) from error
    except OSError as error:
        hint = "install it (Debian, Ubuntu: libportaudio2)"
        problem = f"a microphone or speaker needs PortAudio, and: {error}; {hint}"
        raise Failure(problem, UNREADABLE) from error
    return sounddevice
