"""A VibeVoice with random weights, small enough for a test.

Run as a script, with the folder and how many pieces of sound it makes of a text at the least.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    VibeVoiceAcousticTokenizerFeatureExtractor,
    VibeVoiceConfig,
    VibeVoiceForConditionalGeneration,
    VibeVoiceProcessor,
)

MARKS = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|endoftext|>")

TEMPLATE = """\
{%- for message in messages -%}
{%- for part in message['content'] if part['type'] == 'audio' -%}
Voice {{ message['role'] }}:<|vision_start|><|vision_pad|><|vision_end|>
{% endfor -%}
{%- for part in message['content'] if part['type'] == 'text' -%}
Speaker {{ message['role'] }}: {{ part['text'] }}
{% endfor -%}
{%- endfor -%}
Speech:<|vision_start|>"""


def save_checkpoint(folder: Path, pieces: int) -> None:
    """Write model and processor as a folder that `from_pretrained` loads."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_bytes_tokenizer(), eos_token=MARKS[3], pad_token=MARKS[3]
    )
    start, end, pad, eos = tokenizer.convert_tokens_to_ids(list(MARKS))
    audio = {"hidden_size": 8, "num_filters": 2, "depths": [1] * 7}
    torch.manual_seed(0)
    model = VibeVoiceForConditionalGeneration(
        VibeVoiceConfig(
            text_config={
                "model_type": "qwen2",
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "vocab_size": len(tokenizer),
            },
            audio_config={"model_type": "vibevoice_acoustic_tokenizer", **audio},
            semantic_model_config={
                "model_type": "vibevoice_acoustic_tokenizer_encoder",
                **audio,
                "hidden_size": 16,
            },
            diffusion_head_config={"num_hidden_layers": 1, "intermediate_size": 64},
            pad_token_id=eos,
            eos_token_id=eos,
            audio_bos_token_id=start,
            audio_eos_token_id=end,
            audio_token_id=pad,
        )
    )
    # Random weights would end at random: say how long it goes on.
    model.generation_config.update(
        min_new_tokens=pieces, suppress_tokens=[start, end], pad_token_id=eos, eos_token_id=eos
    )
    model.save_pretrained(folder)
    processor = VibeVoiceProcessor(
        VibeVoiceAcousticTokenizerFeatureExtractor(), tokenizer, chat_template=TEMPLATE
    )
    processor.save_pretrained(folder)


def _bytes_tokenizer() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(MARKS))
    return tokenizer


if __name__ == "__main__":
    save_checkpoint(Path(sys.argv[1]), int(sys.argv[2]))
