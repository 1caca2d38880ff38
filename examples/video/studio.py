"""A clip, decoded in one process, watched in a second and recorded in a third.

    python examples/video/studio.py [CLIP] [--output recording.mp4]

The preview is slow and gets only the newest frame (`latest`); the recorder gets every one
(`block`); neither waits for the other, and a frame is in memory once for both. Without a clip, one
is generated. Needs the extra: pip install 'remotemedia[video]'.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

import remotemedia as rm

RATE = 25  # frames a second of the generated clip
SHADES = " .:-=+*#%@"
COLUMNS, ROWS = 48, 13


class Decoder(rm.Node):
    """Reads a clip, frame after frame, as fast as whoever may not lose one takes them."""

    frames = rm.Output(rm.Video)

    def __init__(self, clip: str) -> None:
        self.clip = clip

    def process(self) -> Iterator[rm.Addressed]:
        import av

        with av.open(self.clip) as container:
            for frame in container.decode(video=0):
                seconds = float(frame.time or 0.0)
                picture = rm.Video(frame.to_ndarray(format="rgb24"), format="rgb24")
                picture.timestamp_ns = int(seconds * 1e9)
                yield self.frames(picture)


class Preview(rm.Node):
    """Draws a frame as text, slowly, as a preview does that has better things to do."""

    def process(self, frame: rm.Video) -> rm.Text:
        time.sleep(0.1)  # stands for a screen that shows ten pictures a second
        height, width, _ = frame.pixels.shape
        rows = np.linspace(0, height - 1, ROWS).astype(int)
        columns = np.linspace(0, width - 1, COLUMNS).astype(int)
        grey = frame.pixels[np.ix_(rows, columns)].mean(axis=2) / 256 * len(SHADES)
        picture = "\n".join("".join(SHADES[int(shade)] for shade in row) for row in grey)
        return rm.Text(f"{frame.timestamp_ns / 1e9:.2f} s\n{picture}")


class Recorder(rm.Node):
    """Encodes every frame into a file."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.count = 0
        self._container: Any = None

    def initialize(self) -> None:
        import av

        self._container = av.open(self.path, "w")

    def process(self, frame: rm.Video) -> None:
        import av

        if not self.count:
            self._stream = self._container.add_stream("mpeg4", rate=RATE)
            self._stream.height, self._stream.width = frame.pixels.shape[:2]
            self._stream.pix_fmt = "yuv420p"
        picture = av.VideoFrame.from_ndarray(frame.pixels, format="rgb24")
        picture.pts, picture.time_base = self.count, Fraction(1, RATE)
        self._container.mux(self._stream.encode(picture))
        self.count += 1

    def finish(self) -> rm.Json:
        if self.count:
            self._container.mux(self._stream.encode())
        return rm.Json({"recorded": self.count, "file": self.path})

    def cleanup(self) -> None:
        if self._container is not None:
            self._container.close()

    out = rm.Output(rm.Json)


def generate(path: Path, seconds: int = 4) -> None:
    """Write a clip of a light that goes round."""
    import av

    y, x = np.mgrid[0:240, 0:320]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for number in range(seconds * RATE):
            angle = 2 * math.pi * number / (2 * RATE)
            distance = np.hypot(x - 160 - 100 * math.cos(angle), y - 120 - 70 * math.sin(angle))
            light = (255 * np.exp(-((distance / 40) ** 2))).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(np.dstack([light] * 3), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


async def main(clip: Path, output: Path) -> None:
    pipeline = (
        rm.Pipeline("studio")
        .add_node("decoder", Decoder, clip=str(clip))
        .add_node("preview", Preview)
        .add_node("recorder", Recorder, path=str(output))
        .connect("decoder.frames", "preview", policy="latest")
        .connect("decoder.frames", "recorder", policy="block", capacity=8)
    )
    async with rm.Runtime() as runtime, runtime.session(pipeline) as session:
        async for out in session.outputs():
            print(out.value if isinstance(out, rm.Json) else out.text)
        counts = session.stats()
    for port in counts.values():
        for one in port.connections:
            lost = sum(one.dropped.values())
            print(f"{one.name} ({one.policy}): {one.sent} sent, {lost} dropped")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clip", nargs="?", type=Path, help="a video file; none: one is generated")
    parser.add_argument("--output", type=Path, default=Path("recording.mp4"))
    arguments = parser.parse_args()
    clip = arguments.clip
    if clip is None:
        clip = arguments.output.with_name("generated.mp4")
        generate(clip)
    asyncio.run(main(clip, arguments.output))
