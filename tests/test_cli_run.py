"""`remotemedia run`: inputs of every kind, outputs, ends and exit codes."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
from typing import TYPE_CHECKING, cast

import numpy as np
import pytest
import soundfile
from rich.console import Console

import remotemedia as rm
from remotemedia.cli import failure
from remotemedia.cli.failure import explained
from remotemedia.cli.job import GRACE_SECONDS
from remotemedia.cli.screen import MAX_LINE_ROWS, LineScreen
from remotemedia.cli.sinks import json_line
from remotemedia.cli.watch import percentile
from remotemedia.cli.wording import progress_text
from remotemedia.errors import InitTimeout, ProcessCrashed
from tests.cli_helpers import COMMAND, NODES, OnTerminal, inside, remotemedia, start, write_pipeline

if TYPE_CHECKING:
    from pathlib import Path

RATE = 16_000


@pytest.fixture
def echo(tmp_path: Path) -> Path:
    return write_pipeline(tmp_path, ("Boom", {}))


@pytest.fixture
def gain(tmp_path: Path) -> Path:
    return write_pipeline(tmp_path, ("Gain", {"factor": 1.0}))


def write_sound(path: Path, frames: int, channels: int = 1, rate: int = RATE) -> None:
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, (frames, channels))
    soundfile.write(path, noise.astype(np.float32), rate)


def json_lines(done: subprocess.CompletedProcess[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def is_clear(done: subprocess.CompletedProcess[str]) -> bool:
    """Whether the error is one paragraph that is no traceback."""
    error = done.stderr.partition("error: ")[2]
    return bool(error) and "Traceback" not in done.stderr and "\n\n" not in error.strip()


def test_a_text_goes_in_and_its_output_to_standard_output(echo: Path) -> None:
    done = remotemedia("run", echo, "--text", "hello")
    assert (done.returncode, done.stdout) == (0, "hello\n")
    assert "boom -> output" in done.stderr
    assert "from an input to its first output" in done.stderr


def test_lines_of_standard_input_and_of_a_file_are_messages(echo: Path, tmp_path: Path) -> None:
    assert remotemedia("run", echo, "-i", "-", "-q", stdin="a\r\n\nb").stdout == "a\nb\n"
    (tmp_path / "lines.txt").write_text("\N{BOM}1\n\n2\n", encoding="utf-8")
    out = tmp_path / "out.text"
    done = inside("run", echo, "-i", tmp_path / "lines.txt", "-o", out)
    assert (out.read_text(), done.stdout) == ("1\n2\n", "")
    assert "2 lines" in done.stderr


def test_json_and_files_are_sent_as_what_the_input_takes(tmp_path: Path) -> None:
    keys = write_pipeline(tmp_path, ("Keys", {}))
    (tmp_path / "one.json").write_text('{\n  "a": 1,\n  "b": 2\n}')
    (tmp_path / "two.jsonl").write_text('{"c": 1}\n\n{"d": 1}\n')
    (tmp_path / "bad.jsonl").write_text('{"c": 1}\n{oops}\n')
    assert inside("run", keys, "-i", tmp_path / "one.json", "-q").stdout == "a b\n"
    assert inside("run", keys, "-i", tmp_path / "two.jsonl", "-q").stdout == "c\nd\n"
    done = inside("run", keys, "-i", tmp_path / "bad.jsonl", "-q")
    assert (done.returncode, done.stdout) == (3, "c\n")
    assert "line 2 of" in done.stderr
    sound = tmp_path / "in.wav"
    write_sound(sound, 1)
    paths = write_pipeline(tmp_path, ("Paths", {}))
    assert inside("run", paths, "-i", sound, "-q").stdout == f"{sound}\n"


def test_json_gives_a_line_per_output_and_a_summary(echo: Path) -> None:
    done = remotemedia("run", echo, "-i", "-", "--json", "-q", stdin="a\nb\n")
    *outputs, summary = json_lines(done)
    assert [(one["type"], one["input"], one["text"]) for one in outputs] == [
        ("Text", 1, "a"),
        ("Text", 2, "b"),
    ]
    assert (summary["type"], summary["inputs"], summary["outputs"]) == ("summary", 2, 2)
    first = cast("dict[str, float]", summary["first_output"])
    assert first["count"] == 2
    assert 0 < first["p50_seconds"] <= first["max_seconds"] < 10
    connections = cast("list[dict[str, object]]", summary["connections"])
    assert [one["sent"] for one in connections] == [2, 2]
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("count", "percent", "expected"),
    [(1, 50, 1), (1, 99, 1), (2, 50, 1), (2, 99, 2), (3, 50, 2), (100, 50, 50), (100, 99, 99)],
)
def test_a_percentile_is_of_the_nearest_rank(count: int, percent: float, expected: float) -> None:
    assert percentile(range(count, 0, -1), percent) == expected


def test_json_has_null_where_json_has_no_number() -> None:
    message = rm.Json([float("nan"), float("-inf"), 1.5], metadata={"mean": float("inf")})
    assert '"value":[null,null,1.5],"metadata":{"mean":null}' in json_line(message)


def test_json_says_which_output_each_message_left_by(tmp_path: Path) -> None:
    sides = write_pipeline(tmp_path, ("Sides", {}))
    *outputs, _ = json_lines(inside("run", sides, "--text", "a", "--json", "-q"))
    assert {(one["output"], one["input"], one["text"]) for one in outputs} == {
        ("sides.left", 1, "a"),
        ("sides.right", 1, "a"),
    }


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_sound_goes_through_in_every_format(gain: Path, tmp_path: Path, suffix: str) -> None:
    source, target = tmp_path / f"in.{suffix}", tmp_path / f"out.{suffix}"
    write_sound(source, RATE // 2)
    done = inside("run", gain, "-i", source, "-o", target)
    assert done.returncode == 0, done.stderr
    about = soundfile.info(target)
    # MP3 adds silence at both ends.
    assert about.frames == pytest.approx(RATE // 2, abs=2400 if suffix == "mp3" else 0)
    assert about.samplerate == RATE
    if suffix in ("wav", "flac"):
        assert np.array_equal(soundfile.read(source)[0], soundfile.read(target)[0])


def test_sound_of_a_file_has_the_times_of_a_recording(tmp_path: Path) -> None:
    pipeline = tmp_path / "p.yaml"
    pipeline.write_text("version: v1\nnodes: [{id: r, node_type: audio.resample}]")
    write_sound(tmp_path / "in.wav", 44_100, rate=44_100)
    *outputs, _ = json_lines(inside("run", pipeline, "-i", tmp_path / "in.wav", "--json", "-q"))
    position, began_ns = 0, cast("int", outputs[0]["timestamp_ns"])
    for out in outputs:
        passed = cast("int", out["timestamp_ns"]) - began_ns
        assert passed == pytest.approx(position * 1e9 / 16_000, abs=50_000)
        position += cast("int", out["frames"])
    assert position == pytest.approx(16_000, abs=2)


def test_realtime_takes_as_long_as_the_sound(gain: Path, tmp_path: Path) -> None:
    write_sound(tmp_path / "in.wav", RATE)
    arguments = ("run", gain, "-i", tmp_path / "in.wav", "-o", tmp_path / "out.wav", "--json", "-q")
    done = inside(*arguments, "--realtime")
    summary = json_lines(done)[-1]
    assert summary["inputs"] == summary["outputs"] == 50
    first = cast("dict[str, float]", summary["first_output"])
    assert first["p50_seconds"] < 0.02, "each chunk is out before the next one comes"


def test_no_more_sound_is_sent_than_asked_for(gain: Path, tmp_path: Path) -> None:
    write_sound(tmp_path / "in.wav", RATE)
    inside("run", gain, "-i", tmp_path / "in.wav", "-o", tmp_path / "out.wav", "--seconds", "0.3")
    assert soundfile.info(tmp_path / "out.wav").frames == 0.3 * RATE


def test_the_first_sound_is_timed_from_the_end_of_speech_in_real_time(tmp_path: Path) -> None:
    pipeline = write_pipeline(tmp_path, ("SpokenUntil", {"seconds": 0.2}))
    write_sound(tmp_path / "in.wav", RATE // 2)
    arguments = ("run", pipeline, "-i", tmp_path / "in.wav", "--json", "-q")
    summary = json_lines(inside(*arguments, "--realtime"))[-1]
    sound = cast("dict[str, float]", summary["speech_end_to_first_sound"])
    assert sound["count"] == 1
    assert 0.3 <= sound["p50_seconds"] == sound["max_seconds"] < 0.4
    assert json_lines(inside(*arguments))[-1]["speech_end_to_first_sound"] == {"count": 0}


def test_a_parameter_is_changed(tmp_path: Path, gain: Path) -> None:
    write_sound(tmp_path / "in.wav", 320)
    inside(
        "run", gain, "-i", tmp_path / "in.wav", "-o", tmp_path / "o.wav", "--set", "gain.factor=0"
    )
    assert not soundfile.read(tmp_path / "o.wav")[0].any()


@pytest.mark.parametrize(
    ("frames", "channels", "rate"), [(1, 1, RATE), (8000, 2, 8000)], ids=["one sample", "stereo"]
)
def test_odd_sound_comes_out_as_it_is(
    gain: Path, tmp_path: Path, frames: int, channels: int, rate: int
) -> None:
    write_sound(tmp_path / "in.wav", frames, channels, rate)
    done = inside("run", gain, "-i", tmp_path / "in.wav", "-o", tmp_path / "out.wav")
    about = soundfile.info(tmp_path / "out.wav")
    assert done.returncode == 0
    assert (about.frames, about.channels, about.samplerate) == (frames, channels, rate)


def test_silence_of_which_nothing_comes_is_no_error(tmp_path: Path) -> None:
    loud = write_pipeline(tmp_path, ("Loud", {}))
    soundfile.write(tmp_path / "in.wav", np.zeros(RATE, np.float32), RATE)
    done = inside("run", loud, "-i", tmp_path / "in.wav")
    assert (done.returncode, done.stdout) == (0, "")
    assert "nothing came out" in done.stderr


@pytest.mark.parametrize(("node", "out"), [("Loud", "out.txt"), ("SoundOnly", "out.wav")])
def test_an_old_file_that_was_not_written_is_said_to_be_old(
    tmp_path: Path, node: str, out: str
) -> None:
    pipeline = write_pipeline(tmp_path, (node, {}))
    soundfile.write(tmp_path / "in.wav", np.zeros(RATE // 10, np.float32), RATE)
    command = ("run", pipeline, "-i", tmp_path / "in.wav", "-o", tmp_path / out)
    assert "so it was not written\n" in inside(*command).stderr
    (tmp_path / out).write_bytes(b"old")
    done = inside(*command)
    assert "not written; the file that was there is unchanged" in done.stderr
    assert (tmp_path / out).read_bytes() == b"old"


def test_what_there_is_of_a_wav_that_is_cut_off_is_used(gain: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.wav", tmp_path / "cut.wav"
    write_sound(whole, RATE)
    cut.write_bytes(whole.read_bytes()[:10_000])
    done = inside("run", gain, "-i", cut, "-o", tmp_path / "out.wav")
    assert done.returncode == 0
    assert "cut off" in done.stderr
    assert soundfile.info(tmp_path / "out.wav").frames == (10_000 - 44) // 2


def test_a_file_that_breaks_in_the_middle_gives_what_came_before(
    gain: Path, tmp_path: Path
) -> None:
    whole, cut, out = (tmp_path / name for name in ("whole.flac", "cut.flac", "out.wav"))
    write_sound(whole, RATE)
    cut.write_bytes(whole.read_bytes()[:-8000])
    done = inside("run", gain, "-i", cut, "-o", out)
    assert done.returncode == 3
    assert is_clear(done)
    assert "could be read up to" in done.stderr
    assert soundfile.info(out).frames > 0


def wav_head(data_bytes: int, channels: int = 1, rate: int = RATE) -> bytes:
    """Return the head of a WAV file that says it holds so many bytes of sound."""
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, rate, 2 * rate, 2 * channels, 16)
    riff = struct.pack("<4sI4s", b"RIFF", 36 + data_bytes, b"WAVE")
    return riff + form + struct.pack("<4sI", b"data", data_bytes)


UNREADABLE = {
    "missing.wav": (None, "there is no file"),
    "zero.wav": (b"", "is empty"),
    "text.wav": (b"hello, this is text", "it holds text ('hello, this is text')"),
    "header.wav": (b"RIFF\x24\x00\x00\x00WAVEfmt ", "cut off: it has 16 of 44 bytes; there is no"),
    "frameless.wav": (wav_head(0), "is a sound file of 0 frames; there is no sound in it"),
    "headonly.wav": (wav_head(32_000), "it has 44 of 32,044 bytes; there is no sound in it"),
    "rate.wav": (wav_head(320, rate=0) + bytes(320), "a sample rate that no sound has"),
    "bytes.mp3": (bytes(range(256)), "is no sound file that can be read: it begins as no format"),
    "latin.txt": (b"\xe9t\xe9\n", "is no UTF-8 text"),
}


def test_a_sound_file_of_too_many_channels_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "many.wav"
    path.write_bytes(wav_head(20_480, channels=1024) + bytes(20_480))
    done = inside("run", write_pipeline(tmp_path, ("Gain", {})), "-q", "-i", path)
    assert done.returncode == 3
    assert done.stderr.endswith("many.wav has 1,024 channels, and sound here has at most 256\n")


@pytest.mark.parametrize("name", UNREADABLE)
def test_an_input_that_cannot_be_read_is_one_clear_error(tmp_path: Path, name: str) -> None:
    content, problem = UNREADABLE[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    pipeline = write_pipeline(tmp_path, ("Boom" if name.endswith("txt") else "Gain", {}))
    done = inside("run", pipeline, "-i", tmp_path / name)
    assert done.returncode == 3
    assert is_clear(done)
    assert problem in done.stderr
    assert "ready in" not in done.stderr or name == "latin.txt", "nothing was started"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_sound_file_of_what_is_no_sound_is_refused_by_its_name(
    gain: Path, tmp_path: Path, value: float
) -> None:
    samples = np.zeros(RATE, np.float32)
    samples[RATE // 2 :] = value
    soundfile.write(tmp_path / "in.wav", samples, RATE, subtype="FLOAT")
    done = inside("run", gain, "-i", tmp_path / "in.wav")
    assert done.returncode == 3
    assert is_clear(done)
    problem = "in.wav holds NaN or infinities from about 0.50 s on: they are no sound"
    assert problem in done.stderr


def test_sound_on_standard_input_is_refused_with_what_to_do_instead(gain: Path) -> None:
    done = inside("run", gain, "-i", "-")
    assert done.returncode == 2
    assert "sound is not read from standard input: name a file" in done.stderr


def test_a_folder_is_no_input(gain: Path, tmp_path: Path) -> None:
    done = inside("run", gain, "-i", tmp_path)
    assert done.returncode == 3
    assert "is a folder" in done.stderr


def test_the_input_is_not_overwritten_while_it_is_read(gain: Path, tmp_path: Path) -> None:
    path = tmp_path / "in.wav"
    write_sound(path, RATE)
    done = inside("run", gain, "-i", path, "-o", tmp_path / "." / "in.wav")
    assert done.returncode == 2
    assert "it is the input" in done.stderr
    assert soundfile.info(path).frames == RATE


def test_what_cannot_be_written_is_known_before_anything_starts(
    gain: Path, echo: Path, tmp_path: Path
) -> None:
    done = inside("run", echo, "--text", "x", "-o", "/proc/no.txt")
    assert done.returncode == 3
    assert "you may not write it" in done.stderr or "cannot be written" in done.stderr
    done = inside("run", gain, "-i", "/dev/zero")
    assert done.returncode == 3
    assert "is a device" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--set", "gian.factor=1", "--text", "x"], "did you mean 'gain'?"),
        (["--set", "gain.factr=1", "--text", "x"], "did you mean 'factor'?"),
        (["--set", "gain.factor=loud", "--text", "x"], "must be float"),
        (["--set", "gain.factor=[", "--text", "x"], "the value is no YAML: did not find"),
        (["--set", "factor", "--text", "x"], "must be node.param=value"),
        (["--text", "x"], "gain.in takes Audio"),
        ([], "it needs an input"),
        (["--text", "x", "--input", "y"], "cannot both be given"),
        (["--input", "SOUND", "-o", "x.foo"], "its ending says no format"),
        (["--input", "SOUND", "-o", "no/x.wav"], "there is no folder no"),
        (["--input", "SOUND", "-o", "x.wav", "-o", "x.wav"], "x.wav: it is given twice\n"),
        (["--input", "SOUND", "-o", "x.wav", "-o", "./x.wav"], "given twice, also as x.wav"),
        (["--input", "SOUND", "-o", "-", "-o", "-"], "--output -: it is given twice"),
        (["--input", "SOUND", "-o", "x.wav", "--to", "gian"], "there is 'gain.in'"),
        (["--inptu", "x"], "No such option"),
    ],
    ids=str,
)
def test_a_mistake_of_the_command_line_starts_nothing(
    gain: Path, tmp_path: Path, arguments: list[str], problem: str
) -> None:
    write_sound(tmp_path / "in.wav", 1)
    sound = str(tmp_path / "in.wav")
    done = inside("run", gain, *(sound if one == "SOUND" else one for one in arguments))
    assert (done.returncode, done.stdout) == (2, "")
    assert problem in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--input", "https://a.org/b.wav"], "https://a.org/b.wav: a URL is not taken"),
        (["--text", "x", "--realtime"], "--realtime can be given for sound only, and --text is"),
        (["--text", "x", "--seconds", "1"], "--seconds can be given for sound only"),
    ],
    ids=str,
)
def test_what_is_for_sound_files_is_refused_of_others(
    echo: Path, arguments: list[str], problem: str
) -> None:
    done = inside("run", echo, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert problem in done.stderr


def test_json_has_the_error_where_nothing_was_started(echo: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("version: v1\nnodes:\n  - {id: a, node_type: text.uper}\n")
    for words, code, problem in (
        ((echo, "-i", tmp_path / "missing.txt"), 3, "there is no file"),
        ((wrong, "--text", "x"), 2, "unknown node type 'text.uper'"),
        ((tmp_path / "no.yaml", "--text", "x"), 2, "no.yaml"),
        ((echo, "--text", "x", "-o", tmp_path / "x.wav"), 2, "takes Audio"),
    ):
        done = inside("run", *words, "--json")
        [error] = json_lines(done)
        assert (done.returncode, error["type"], error["exit_code"]) == (code, "error", code)
        assert problem in str(error["error"])
        assert problem in done.stderr


def test_a_sound_file_is_no_output_for_text(echo: Path, tmp_path: Path) -> None:
    done = inside("run", echo, "--text", "x", "-o", tmp_path / "x.wav")
    assert done.returncode == 2
    assert "takes Audio, and boom.out sends Text" in done.stderr


def test_an_unknown_node_type_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("version: v1\nnodes:\n  - {id: a, node_type: text.uper}\n")
    done = inside("run", path, "--text", "x")
    assert done.returncode == 2
    assert (
        "line 3, node 'a': unknown node type 'text.uper' (did you mean 'text.upper'?)"
        in done.stderr
    )


def test_one_of_several_inputs_is_chosen_by_name(tmp_path: Path) -> None:
    mixer = write_pipeline(tmp_path, ("Mixer", {}))
    done = inside("run", mixer, "--text", "a")
    assert done.returncode == 2
    assert "--to mixer.left" in done.stderr
    assert inside("run", mixer, "--text", "a", "--to", "mixer.right", "-q").stdout == "right a\n"


def test_a_node_that_fails_is_one_clear_error_and_a_traceback_on_demand(echo: Path) -> None:
    done = inside("run", echo, "--text", "raise")
    assert done.returncode == 1
    assert is_clear(done)
    assert "RuntimeError: it was asked to" in done.stderr
    assert "cli_nodes.py:" in done.stderr
    done = inside("run", echo, "--text", "raise", "--traceback", "--json", "-q")
    assert "Traceback" in done.stderr
    assert [(one["type"], one.get("exit_code")) for one in json_lines(done)] == [
        ("error", 1),
        ("summary", None),
    ]


def test_a_node_that_is_killed_is_named(echo: Path) -> None:
    done = remotemedia("run", echo, "-i", "-", stdin="one\nkill\n")
    assert (done.returncode, done.stdout) == (1, "one\n")
    assert "error: node 'boom'" in done.stderr
    assert "killed by SIGKILL" in done.stderr


@pytest.mark.parametrize(
    ("phase", "fraction", "message", "text"),
    [
        ("loading", 0.3, "the model", "loading 30% the model"),
        ("loading", 0.0, "importing torch", "importing torch"),
        ("loading", 0.6, "loading tiny.en", "60% loading tiny.en"),
        ("loading", 1.0, "loaded tiny.en", "100% loaded tiny.en"),
        ("loading", 0.5, "", "loading 50%"),
    ],
)
def test_how_far_a_node_is_has_one_verb(
    phase: str, fraction: float, message: str, text: str
) -> None:
    assert progress_text(phase, fraction, message) == text


def test_what_nodes_print_and_how_far_they_are_is_shown_in_lines(tmp_path: Path) -> None:
    done = remotemedia("run", write_pipeline(tmp_path, ("Loading", {})), "--text", "x")
    assert "loading: loading 25% the model\n" in done.stderr
    assert "loading | loaded it\n" in done.stderr
    assert "loading | with a warning\n" in done.stderr
    assert "tested: 1 node ready in" in done.stderr


def test_a_pipeline_of_sources_needs_no_input_and_ends_by_itself(tmp_path: Path) -> None:
    assert inside("run", write_pipeline(tmp_path, ("Count", {"to": 3})), "-q").stdout == "1\n2\n3\n"
    sunk = write_pipeline(tmp_path, ("Count", {"to": 3}), ("Swallow", {}))
    done = inside("run", sunk)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_input_and_lets_out_what_is_under_way(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    slow = write_pipeline(tmp_path, ("Slow", {"seconds": 0.05}))
    with start("run", slow, "-i", "-") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("".join(f"{n}\n" for n in range(20)))
        process.stdin.flush()
        assert process.stdout.readline() == "0\n"
        process.send_signal(number)
        rest, errors = process.communicate(timeout=30)
    assert process.returncode == code, errors
    assert "ending when what is under way is out" in errors
    assert ("Ctrl-C again" in errors) == (number == signal.SIGINT)
    assert rest.split() == [str(n) for n in range(1, 20)]


def test_a_second_signal_kills_nodes_at_once(tmp_path: Path) -> None:
    slow = write_pipeline(tmp_path, ("Slow", {"seconds": 600.0}))
    with start("run", slow, "-i", "-") as process:
        assert process.stderr is not None
        assert process.stdin is not None
        assert "ready" in process.stderr.readline()
        process.stdin.write("a\n")
        process.stdin.flush()
        process.send_signal(signal.SIGINT)
        assert "ending when" in process.stderr.readline()
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert time.monotonic() - began < GRACE_SECONDS * 0.9, "the node had a grace period"
    assert process.returncode == 130


def test_ctrl_c_while_modules_are_imported_ends_it_at_once_and_quietly(tmp_path: Path) -> None:
    (tmp_path / "stubborn.py").write_text(
        "import time\nfrom contextlib import suppress\nfrom pathlib import Path\n\n"
        "Path(__file__).with_name('begun').touch()\n"
        "with suppress(KeyboardInterrupt):\n    time.sleep(60)\n"
    )
    path = tmp_path / "p.yaml"
    path.write_text(
        "version: v1\nmodules: [stubborn.py]\nnodes: [{id: up, node_type: text.upper}]\n"
    )
    with start("run", path, "--text", "a") as process:
        deadline = time.monotonic() + 30
        while not (tmp_path / "begun").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 130


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_it_starts_ends_it(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    loading = write_pipeline(tmp_path, ("Loading", {"seconds": 600.0}))
    with start("run", loading, "-i", "-") as process:
        assert process.stderr is not None
        assert "loading" in process.stderr.readline()
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == code
    assert "interrupted while starting" in errors


def test_it_ends_when_who_reads_its_output_has_gone(tmp_path: Path) -> None:
    count = write_pipeline(tmp_path, ("Count", {"pause_seconds": 0.01}))
    with start("run", count) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "1\n"
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait(30) == 141
    assert "Traceback" not in errors


@pytest.mark.parametrize("command", ["nodes", "graph", "validate"])
def test_every_command_ends_alike_when_who_reads_its_output_has_gone(
    tmp_path: Path, command: str
) -> None:
    count = write_pipeline(tmp_path, ("Count", {}))
    reading, writing = os.pipe()
    os.close(reading)
    arguments = [] if command == "nodes" else [str(count)]
    ended = subprocess.run(
        [sys.executable, "-m", "remotemedia", command, *arguments],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=60,
    )
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_it_ends_when_nobody_sees_any_more_how_it_goes(tmp_path: Path) -> None:
    count = write_pipeline(tmp_path, ("Count", {"pause_seconds": 0.01}))
    with start("run", count) as process:
        assert process.stderr is not None
        process.stderr.close()
        assert process.wait(30) == 141


@pytest.mark.parametrize("command", [["run", "PIPELINE", "--text", "x", "-q"], ["nodes"]], ids=str)
def test_a_disk_that_is_full_is_a_clear_error(echo: Path, command: list[str]) -> None:
    words = [str(echo) if word == "PIPELINE" else word for word in command]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, *words], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert done.returncode == 3
    assert done.stderr.endswith("cannot be written: No space left on device\n")
    assert "Traceback" not in done.stderr


def without(streams: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Run the command with standard streams closed or led elsewhere, as a shell writes that."""
    command = ["sh", "-c", f'exec "$@" {streams}', "sh", *COMMAND, *map(str, words)]
    around = {**os.environ, "PYTHONUNBUFFERED": ""}  # what is in a buffer may fail once more
    return subprocess.run(command, env=around, capture_output=True, text=True, timeout=60)


def test_a_closed_standard_input_is_a_clear_error(echo: Path) -> None:
    done = without("<&-", "run", echo, "-i", "-", "-q")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "error: standard input cannot be read: Bad file descriptor\n"


@pytest.mark.parametrize(("streams", "why"), [(">&-", "Bad file desc"), (">/dev/full", "No space")])
@pytest.mark.parametrize(
    "command", [["run", "PIPELINE", "--text", "x", "-q"], ["validate", "PIPELINE"], ["nodes"]]
)
def test_a_standard_output_that_is_closed_or_full_is_a_clear_error(
    echo: Path, command: list[str], streams: str, why: str
) -> None:
    done = without(streams, *(echo if word == "PIPELINE" else word for word in command))
    assert done.returncode == 3
    assert f"output cannot be written: {why}" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("streams", ["2>&-", "2>/dev/full", "<&- 2>&-"])
def test_a_run_needs_no_standard_error(echo: Path, tmp_path: Path, streams: str) -> None:
    done = without(streams, "run", echo, "--text", "x", "-o", tmp_path / "o.txt", "-o", "-")
    assert (done.returncode, done.stdout) == (0, "x\n")
    assert (tmp_path / "o.txt").read_text() == "x\n"


@pytest.mark.parametrize("streams", ["2>&-", "2>/dev/full"])
def test_exit_codes_are_the_same_without_standard_error(tmp_path: Path, streams: str) -> None:
    (tmp_path / "bad.yaml").write_text("version: v1\nnodes: [{id: a, node_type: nope}]\n")
    for command in ("run", "validate", "graph"):
        assert without(streams, command, tmp_path / "bad.yaml").returncode == 2, command


def test_many_lines_on_a_terminal_do_not_hold_the_pipeline_up(echo: Path, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("".join(f"{n}\n" for n in range(3000)))
    with OnTerminal("run", echo, "-i", tmp_path / "in.txt") as terminal:
        assert terminal.wait_ended() == 0
    lines = [line.strip() for line in terminal.text.splitlines()]
    assert [line for line in lines if line.isdigit()] == [str(n) for n in range(3000)]


def test_a_start_that_takes_too_long_fails_and_names_the_node(tmp_path: Path) -> None:
    loading = write_pipeline(tmp_path, ("Loading", {"seconds": 600.0}))
    done = inside("run", loading, "--text", "x", "--start-timeout", "1")
    assert done.returncode == 1
    assert is_clear(done)
    hint = "raise --start-timeout if it only needs longer"
    assert re.search(rf"node 'loading' was still \w+ after 1 s; {hint}", done.stderr)


@pytest.mark.parametrize("stack", ["", '  File "nodes.py", line 7, in initialize\n'])
def test_a_start_that_takes_too_long_is_told_with_its_stack_where_that_is_asked_for(
    stack: str,
) -> None:
    late = InitTimeout("asr", "init_timeout_secs", 1.0, "loading", stack)
    told = explained(late, with_traceback=True)
    assert told.startswith("node 'asr' was still loading after 1 s; raise --start-timeout if")
    assert told.endswith(stack)


def test_a_failure_is_placed_in_code_that_is_neither_ours_nor_of_the_standard_library() -> None:
    frames = (
        f'  File "{contextlib.__file__}", line 158, in __exit__\n',
        f'  File "{failure.__file__}", line 2, in route\n',
        '  File "<frozen importlib._bootstrap>", line 1, in _find\n',
    )
    mine = '  File "/home/ann/nodes.py", line 7, in process\n'
    library = '  File "/usr/lib/python3.11/site-packages/torch/nn.py", line 9, in forward\n'

    def told(*lines: str) -> str:
        crash = ProcessCrashed("a", "s", 1, "failed", traceback="".join(lines))
        return explained(crash, with_traceback=False)

    assert "\n  at " not in told(*frames)
    assert "\n  at /home/ann/nodes.py:7, in process;" in told(mine, *frames)
    assert "\n  at /usr/lib/python3.11/site-packages/torch/nn.py:9, in forward;" in told(library)


def test_a_terminal_shows_a_live_view_and_the_summary(tmp_path: Path) -> None:
    path = write_pipeline(tmp_path, ("Loading", {"seconds": 1.0}), ("Slow", {"seconds": 0.1}))
    (tmp_path / "in.txt").write_text("".join(f"line {n}\n" for n in range(100)))
    with OnTerminal("run", path, "-i", tmp_path / "in.txt") as terminal:
        terminal.wait_for(r"starting for \S+ m?s")
        terminal.wait_for(r"loading +cli_nodes:Loading +loading \d+% the model +\d+ % +\S+ MiB")
        terminal.wait_for(r"line 3\n")
        terminal.wait_for(r"loading -> slow +block +\S+/s +\d+/100 ")
        terminal.press("\x03")
        terminal.wait_for("ending; Ctrl-C again ends it now")
        terminal.press("\x03")
        assert terminal.wait_ended() == 130
    assert "messages" in terminal.text
    assert "\x1b[?25h" in terminal.seen, "the cursor is shown again"


@pytest.mark.parametrize(("rows", "nodes"), [(24, 9), (14, 4)])
def test_a_view_that_is_taller_than_the_terminal_leaves_no_row(
    tmp_path: Path, rows: int, nodes: int
) -> None:
    names = [f"node{number}" for number in range(nodes)]
    about = {
        "version": "v1",
        "name": "a-name-that-makes-the-first-row-of-the-view-longer-than-the-terminal",
        "modules": [str(NODES)],
        "nodes": [
            {"id": name, "node_type": "cli_nodes:Slow", "params": {"seconds": 0.02}}
            for name in names
        ],
        "connections": [{"from": a, "to": b} for a, b in itertools.pairwise(names)],
    }
    path = tmp_path / "p.json"
    path.write_text(json.dumps(about))
    lines = tmp_path / "in.txt"
    lines.write_text("a\n" * 30)
    with OnTerminal("run", path, "-i", lines, columns=80, rows=rows) as terminal:
        assert terminal.wait_ended() == 0
    assert re.search(rf"^node \d/{nodes} ", terminal.text, re.MULTILINE), "the view was cut"
    assert re.search(r"^node\d -> \w+ +block +\S+/s ", terminal.text, re.MULTILINE)
    assert "..." not in terminal.text
    shown = [line for line in terminal.screen if line]
    assert shown[:30] == ["a"] * 30
    assert shown[30].startswith("connection"), "the summary is next"
    assert shown.count(shown[30]) == 1
    assert len([line for line in shown if line.startswith("input -> node0")]) == 1


def test_a_long_line_of_a_node_takes_a_few_rows_of_a_terminal_and_is_whole_elsewhere(
    tmp_path: Path,
) -> None:
    path = write_pipeline(tmp_path, ("Chatty", {"length": 5000}))
    with OnTerminal("run", path, "--text", "a") as terminal:
        found = terminal.wait_for(r"chatty \| x+ \[[\d,]+ more characters\]")
        assert terminal.wait_ended() == 0
    assert 290 < len(found) <= 300, "three rows of 100 columns"
    assert "chatty | " + "x" * 5000 + "\n" in inside("run", path, "--text", "a").stderr


@pytest.mark.parametrize(("width", "name"), [(40, "node"), (20, "n" * 64), (33, "n" * 60)])
def test_a_line_is_cut_to_its_rows_whatever_the_width_and_the_name(width: int, name: str) -> None:
    screen = LineScreen()
    screen.console = Console(
        file=io.StringIO(), force_terminal=True, width=width, soft_wrap=True, color_system=None
    )
    with screen.console.capture() as capture:
        screen.node_line(name, "x" * 5000)
    head, _, rest = capture.get().rstrip("\n").partition(" | ")
    mark = rest.lstrip("x")
    kept = len(rest) - len(mark)
    assert (head, mark) == (name, f" [{5000 - kept:,} more characters]")
    assert not kept or len(head) + len(" | ") + len(rest) <= MAX_LINE_ROWS * width


def test_who_types_gets_lines_and_no_live_view(echo: Path) -> None:
    with OnTerminal("run", echo, "-i", "-") as terminal:
        terminal.wait_for("ready in")
        terminal.press("hello\n")
        terminal.wait_for(r"hello\nhello\n")
        terminal.press("\x04")
        assert terminal.wait_ended() == 0
    assert "Ctrl-C ends it" not in terminal.text


def test_a_dumb_terminal_gets_lines_and_no_live_view(echo: Path) -> None:
    with OnTerminal("run", echo, "--text", "hello", term="dumb") as terminal:
        terminal.wait_for("1 node ready in")
        assert terminal.wait_ended() == 0
    assert "hello\n" in terminal.text
    assert "Ctrl-C ends it" not in terminal.text
    assert "\x1b" not in terminal.seen
