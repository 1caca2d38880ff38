"""An LFM2-Audio with random weights, small enough for a test: run as a module, with the folder."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

from tests.lfm2_nodes import install

install()

import torch  # noqa: E402
from liquid_audio import LFM2AudioDetokenizer, LFM2AudioModel  # noqa: E402
from liquid_audio.model.conformer.encoder import ConformerEncoderConfig  # noqa: E402
from liquid_audio.model.lfm2_audio import DepthformerConfig, LFM2AudioConfig  # noqa: E402
from liquid_audio.processor import PreprocessorConfig  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from tokenizers import Tokenizer, decoders, models, pre_tokenizers  # noqa: E402
from transformers import Lfm2Config, PreTrainedTokenizerFast  # noqa: E402

# The library knows the marks by their numbers.
MARKS = {
    "<|startoftext|>": 1,
    "<|im_start|>": 6,
    "<|im_end|>": 7,
    "<|audio_start|>": 128,
    "<|text_end|>": 130,
}

ENCODER = ConformerEncoderConfig(
    feat_in=128,
    feat_out=-1,
    n_layers=1,
    d_model=32,
    subsampling="dw_striding",
    subsampling_factor=8,
    subsampling_conv_channels=16,
    causal_downsampling=False,
    reduction=None,
    reduction_position=None,
    reduction_factor=1,
    ff_expansion_factor=2,
    self_attention_model="rel_pos",
    n_heads=4,
    att_context_size=[[-1, -1]],
    xscaling=False,
    untie_biases=True,
    pos_emb_max_len=5000,
    conv_kernel_size=9,
    conv_norm_type="batch_norm",
    conv_context_size=None,
    dropout=0.0,
    dropout_pre_encoder=0.0,
    dropout_emb=0.0,
    dropout_att=0.0,
)
PREPROCESSOR = PreprocessorConfig(
    sample_rate=16_000,
    normalize="per_feature",
    window_size=0.025,
    window_stride=0.01,
    window="hann",
    features=128,
    n_fft=512,
    log=True,
    frame_splicing=1,
    dither=0.0,
    pad_to=0,
    pad_value=0.0,
)


def save_checkpoint(folder: Path) -> None:
    """Write a folder that the library loads."""
    tokenizer = _tokenizer()
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    backbone = _backbone(hidden_size=64, vocab_size=len(tokenizer), attention="full_attention")
    depthformer = DepthformerConfig(layers=1, dim=128, tie=True)
    numbers = {
        "codebooks": 8,
        "tie_audio_embeddings": True,
        "semantic_codebook_factor": 100.0,
        "codebook_weight": "log",
        "interleaved_n_text": 6,
        "interleaved_n_audio": 12,
    }
    model = LFM2AudioModel(
        LFM2AudioConfig(
            architectures=["Lfm2AudioForConditionalGeneration"],
            preprocessor=PREPROCESSOR,
            encoder=ENCODER,
            lfm=Lfm2Config(**backbone),
            depthformer=depthformer,
            **numbers,
        )
    )
    with torch.no_grad():  # these two end an answer: never the likeliest
        model.lfm.embed_tokens.weight[[MARKS["<|im_end|>"], MARKS["<|text_end|>"]]] = 0
    _save(model, folder / "model.safetensors")
    config = {
        "architectures": ["Lfm2AudioForConditionalGeneration"],
        "preprocessor": dataclasses.asdict(PREPROCESSOR),
        "encoder": dataclasses.asdict(ENCODER),
        "lfm": backbone,
        "depthformer": dataclasses.asdict(depthformer),
        **numbers,
    }
    (folder / "config.json").write_text(json.dumps(config))
    _save_detokenizer(folder / "audio_detokenizer")


def _save_detokenizer(folder: Path) -> None:
    folder.mkdir()
    sizes = _backbone(hidden_size=512, vocab_size=8, attention="sliding_attention")
    config = {**sizes, "model_type": "lfm2", "sliding_window": 30}
    (folder / "config.json").write_text(json.dumps(config))
    layers = {**config, "layer_types": ["conv", "full_attention"]}
    _save(LFM2AudioDetokenizer(Lfm2Config(**layers)), folder / "model.safetensors")


def _save(module: torch.nn.Module, path: Path) -> None:
    save_file({name: value.clone() for name, value in module.state_dict().items()}, path)


def _backbone(*, hidden_size: int, vocab_size: int, attention: str) -> dict[str, object]:
    return {
        "hidden_size": hidden_size,
        "intermediate_size": 64,
        "block_auto_adjust_ff_dim": False,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "layer_types": ["conv", attention],
        "vocab_size": vocab_size,
    }


def _tokenizer() -> PreTrainedTokenizerFast:
    """Letters of bytes, around the marks at their numbers."""
    letters = iter(sorted(pre_tokenizers.ByteLevel.alphabet()))
    at = {number: mark for mark, number in MARKS.items()}
    names = [at[number] if number in at else next(letters) for number in range(256 + len(at))]
    tokenizer = Tokenizer(models.BPE({name: number for number, name in enumerate(names)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(MARKS))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


if __name__ == "__main__":
    save_checkpoint(Path(sys.argv[1]))
