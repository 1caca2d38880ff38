"""Speech to speech with one model."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator  # noqa: TC003 (a node's annotations are read)
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import msgspec

from remotemedia.core.node import Node
from remotemedia.core.ports import Addressed, Output
from remotemedia.core.registry import node
from remotemedia.data import Audio, Text
from remotemedia.nodes.extras import needs_extra, uses_extra
from remotemedia.nodes.formats import check_mono
from remotemedia.nodes.hub import given_path
from remotemedia.nodes.lfm2_decoding import SAMPLE_RATE_HZ, SoundDecoder, TextDecoder
from remotemedia.nodes.options import Seed, Temperature, Threads, Turns  # noqa: TC001 (a node's annotations are read)
from remotemedia.nodes.threads import default_threads, made_in_thread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from remotemedia.data import Metadata
    from remotemedia.nodes.threads import Outlet

__all__ = ["Lfm2Audio"]

MODELS = {"large": "LiquidAI/LFM2.5-Audio-1.5B"}
INPUT_RATE_HZ = 16_000
# The smallest number of samples that the encoder makes something of: 9 frames of 10 ms.
SHORTEST_INPUT_FRAMES = 1_600

Tokens: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=32_000)]
Candidates: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2048)]


@node("lfm2_audio")
@uses_extra("lfm2", "liquid_audio", "torch")
class Lfm2Audio(Node):
    """Answers speech with speech and its text, with LFM2-Audio; both leave as they are made.

    Each message is a turn of the user: put `silero_vad` before it. Each session has a chat of its
    own, whose last turns the model is told again with each new one. An interrupt ends the answer
    after the next step of the model; what was made of it stays in the chat. The metadata of what
    is sent is that of the turn. Its library needs Python 3.12: where the rest runs on an older
    one, give this node an interpreter of its own.

    Ports: `in` takes Audio of one channel at 16,000 Hz, or Text; `audio` sends Audio of one
    channel at 24,000 Hz, `text` sends Text, one sentence per message.

    Args:
        model: large (1.5 billion parameters) or a repository on the hub, downloaded when they are
            used first, or a folder.
        system: what the model is told first. It was taught with the default.
        device: cpu, cuda, cuda:1 and so on, or auto: cuda if there is one.
        dtype: what is calculated in: float32, bfloat16, or auto: bfloat16 on cuda, else float32.
        max_tokens: the longest answer in steps of the model, of text and sound, 1 to 32,000; one
            of sound is 80 ms.
        audio_temperature: 0, always the likeliest sound, to 2.
        audio_top_k: how many sounds it draws from, 0 to 2,048; 0: all.
        text_temperature: 0, always the likeliest word, to 2.
        history_turns: how many turns it is told again at most, 0 to 1,000.
        seed: makes it draw the same again, 0 to 2,147,483,647; None: not.
        threads: threads of the processor that it may use, 0 to 256; 0: half of those that the
            process may use, at most 4.
    """

    audio = Output(Audio)
    text = Output(Text)

    def __init__(
        self,
        model: str = "large",
        *,
        system: str = "Respond with interleaved text and audio.",
        device: str = "auto",
        dtype: Literal["auto", "float32", "bfloat16"] = "auto",
        max_tokens: Tokens = 1024,
        audio_temperature: Temperature = 1.0,
        audio_top_k: Candidates = 4,
        text_temperature: Temperature = 0.0,
        history_turns: Turns = 8,
        seed: Seed | None = None,
        threads: Threads = 0,
    ) -> None:
        self.model = model
        self.system = system
        self.device = device
        self.dtype = dtype
        self.max_tokens = max_tokens
        self.audio_temperature = audio_temperature
        self.audio_top_k = audio_top_k
        self.text_temperature = text_temperature
        self.history_turns = history_turns
        self.seed = seed
        self.threads = threads
        self._turns: list[_Turn] = []

    async def initialize(self) -> None:
        """Load the model, downloading it first if it is on the hub."""
        await asyncio.to_thread(self._load)

    async def process(self, turn: Audio | Text) -> AsyncIterator[Addressed]:
        """Send the answer, sentence by sentence and piece by piece of sound."""
        if isinstance(turn, Audio):
            check_mono(turn, "lfm2_audio", INPUT_RATE_HZ)
            if turn.frames < SHORTEST_INPUT_FRAMES:
                return
        asked = _Turn(turn.text if isinstance(turn, Text) else self._torch.tensor(turn.samples.T))
        make = partial(self._generate, asked, turn.metadata)
        async with aclosing(made_in_thread(make)) as outputs:
            async for output in outputs:
                yield output

    def _load(self) -> None:
        self.progress(0.0, "importing torch and liquid-audio")
        with _needs_python(), needs_extra("lfm2_audio", "lfm2"):
            import liquid_audio
            import torch
        self._torch, self._library = torch, liquid_audio
        torch.set_num_threads(self.threads or default_threads())
        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if self.dtype == "auto":
            self._dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
        else:
            self._dtype = getattr(torch, self.dtype)
        name = MODELS.get(self.model, self.model)
        # The library takes any text for a name on the hub.
        place = given_path(name) or name
        self.progress(0.3, f"loading the tokenizer of {name}")
        processor = liquid_audio.LFM2AudioProcessor.from_pretrained(place, device=device)
        self._processor = processor.eval()
        self.progress(0.4, f"loading {name}")
        model = liquid_audio.LFM2AudioModel.from_pretrained(place, device=device, dtype=self._dtype)
        self._model = model.eval()
        self.progress(0.9, "loading what makes its sound")
        self._processor._audio_detokenizer = _detokenizer(self._processor, device)
        self.progress(1.0, f"loaded {name}")

    def _generate(self, turn: _Turn, metadata: Metadata, outlet: Outlet[Addressed]) -> None:
        """Make the answer, in a thread; put what it says where it is waited for."""
        if self.seed is not None:
            self._torch.manual_seed(self.seed)
        sound = SoundDecoder(self._decode)
        words = TextDecoder(lambda ids: self._processor.text.decode(ids, skip_special_tokens=True))

        def put_all(samples: list[Any], sentences: list[str]) -> None:
            for one in samples:
                outlet.put(self.audio(Audio(one, SAMPLE_RATE_HZ, metadata=metadata)))
            for sentence in sentences:
                outlet.put(self.text(Text(sentence, metadata=metadata)))

        try:
            for token in self._model.generate_interleaved(
                **self._chat(turn),
                max_new_tokens=self.max_tokens,
                audio_temperature=self.audio_temperature,
                audio_top_k=self.audio_top_k or None,
                text_temperature=self.text_temperature,
            ):
                turn.answer.append(token)
                if not outlet.is_wanted:
                    return
                if token.numel() == 1:
                    put_all([], words.add(int(token)))
                else:
                    put_all(sound.add(token.tolist()), [])
            put_all(sound.rest(), words.rest())
        finally:
            self._turns.append(turn)
            del self._turns[: max(0, len(self._turns) - self.history_turns)]

    def _chat(self, turn: _Turn) -> Any:
        """Return the chat so far and a new turn, as the model takes it."""
        chat = self._library.ChatState(
            self._processor, codebooks=self._model.codebooks, dtype=self._dtype
        )
        chat.new_turn("system")
        chat.add_text(self.system)
        chat.end_turn()
        for one in (*self._turns, turn):
            chat.new_turn("user")
            if isinstance(one.asked, str):
                chat.add_text(one.asked)
            else:
                chat.add_audio(one.asked, INPUT_RATE_HZ)
            chat.end_turn()
            chat.new_turn("assistant")
            if one is not turn:
                self._append_answer(chat, one.answer)
                chat.end_turn()
        return chat

    def _append_answer(self, chat: Any, answer: list[Any]) -> None:
        torch, modality = self._torch, self._library.LFMModality
        if not answer:
            return
        texts = [token for token in answer if token.numel() == 1]
        sounds = [token for token in answer if token.numel() > 1]
        chat.append(
            text=torch.stack(texts, 1) if texts else chat.text[:, :0],
            audio_out=torch.stack(sounds, 1) if sounds else chat.audio_out[:, :0],
            modality_flag=torch.tensor(
                [modality.TEXT if one.numel() == 1 else modality.AUDIO_OUT for one in answer]
            ),
        )

    def _decode(self, frames: list[list[int]]) -> Any:
        """Return the sound of some frames: codes of one each."""
        codes = self._torch.tensor(frames, device=self._processor.device).T[None]
        return self._processor.decode(codes)[0].float().cpu().numpy()


@dataclass
class _Turn:
    """What the user said, as samples of shape (1, frames) or text, and the tokens of the answer."""

    asked: Any
    answer: list[Any] = field(default_factory=list)


@contextmanager
def _needs_python() -> Iterator[None]:
    """Say that the interpreter is too old where that is why a library is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if sys.version_info >= (3, 12):
            raise
        raise ModuleNotFoundError(
            f"{error}; it needs Python 3.12, and this is {sys.version.split()[0]}: install the "
            f"extra for a newer one, and give the node that interpreter by python_executable",
            name=error.name,
        ) from error


def _detokenizer(processor: Any, device: str) -> Any:
    """Return what makes sound of codes, on a device; the library's own way is cuda alone."""
    from liquid_audio import LFM2AudioDetokenizer
    from safetensors.torch import load_file
    from transformers import Lfm2Config

    folder = Path(processor.detokenizer_path or "")
    if processor.detokenizer_path is None or not folder.is_dir():
        raise ValueError(
            f"{processor.name} has no folder audio_detokenizer; use LFM2.5-Audio or later"
        )
    config = Lfm2Config.from_pretrained(folder / "config.json")
    # llama.cpp's name for what the model does with a mask.
    config.layer_types = [
        "full_attention" if kind == "sliding_attention" else kind for kind in config.layer_types
    ]
    detokenizer = LFM2AudioDetokenizer(config)
    detokenizer.load_state_dict(load_file(folder / "model.safetensors"))
    return detokenizer.eval().to(device)
