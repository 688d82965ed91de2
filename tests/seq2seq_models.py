"""Small encoder-decoder checkpoints with random weights, made on the spot."""

from pathlib import Path
from typing import Any

import torch
from checkpoints import make_tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import CONFIG_MAPPING, AutoModelForSeq2SeqLM, PreTrainedTokenizerFast

T5: dict[str, Any] = {
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 96,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 2,
    "n_positions": 128,
}
BART: dict[str, Any] = {
    "d_model": 64,
    **dict.fromkeys(("encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 96),
    "max_position_embeddings": 128,
    "decoder_start_token_id": 1,
    "forced_eos_token_id": None,
}
OWN: dict[str, Any] = {
    "d_model": 64,
    "nhead": 4,
    "num_layers": 2,
    "dim_feedforward": 96,
    "max_position_embeddings": 128,
    "decoder_start_token_id": 0,
}
SIZES: dict[str, dict[str, Any]] = {
    "deploykit_transformer": OWN,
    **dict.fromkeys(("t5", "mt5", "umt5"), T5),
    **dict.fromkeys(("bart", "mbart", "marian", "pegasus", "m2m_100"), BART),
}


def make_source_tokenizer() -> PreTrainedTokenizerFast:
    """Return `make_tokenizer`, which ends what it encodes with </s>."""
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", tokenizer.eos_token_id)]
    )
    return tokenizer


def make_pair(folder: Path, model_type: str, *, seed: int = 0, scale: float = 0.2, **config: Any) -> Path:
    """Save a random encoder-decoder of `model_type` with its tokenizer in `folder` and return it.

    Args:
        scale: standard deviation of the weights; wide enough that logits are far apart and greedy text isn't constant.
        config: fields of the model's configuration, over those in `SIZES`.
    """
    if model_type == "deploykit_transformer":
        import deploykit.transformer.pretrained  # noqa: F401 - makes the model known to transformers
    tokenizer = make_source_tokenizer()
    settings = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **SIZES[model_type],
        **config,
    }
    torch.manual_seed(seed)
    model = AutoModelForSeq2SeqLM.from_config(CONFIG_MAPPING[model_type](**settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name:
                # Biases start at 0 and norms at 1: a graph that forgot one would still agree.
                parameter.add_(torch.randn_like(parameter) * 0.1)
            elif parameter.requires_grad:
                parameter.copy_(torch.randn_like(parameter) * scale)
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.normal_()
    # transformers keeps such a field of a configuration only if it comes from a file.
    model.generation_config.forced_bos_token_id = config.get("forced_bos_token_id")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
