"""A small configuration of any causal language model that transformers knows."""

from dataclasses import fields
from typing import Any

from checkpoints import SIZES
from transformers import CONFIG_MAPPING

_SMALL: dict[str, Any] = {
    # Sizes by the names that configurations give them: 2 layers, 4 heads of 16, context 128.
    **dict.fromkeys(
        ("hidden_size", "n_embd", "d_model", "embedding_size", "word_embed_proj_dim", "backbone_hidden_size"), 64
    ),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "swa_num_attention_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads", "type_vocab_size"), 2),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim", "dff"), 96),
    **dict.fromkeys(("ffn_hidden_size", "intermediate_size_mlp", "prefix_dense_intermediate_size"), 96),
    **dict.fromkeys(("head_dim", "swa_head_dim", "kv_channels", "index_head_dim"), 16),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"), 128),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "moe_k", "top_k_experts"), 2),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"), 32),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "first_k_dense_replace"), 1),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "rotary_dim", "hidden_size_per_layer_input"), 8),
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "v_head_dim": 12,
    "laurel_rank": 8,
    "shared_intermediate_size": 32,
    # Shorter than any row: masks must apply it.
    **dict.fromkeys(("sliding_window", "attention_chunk_size"), 6),
    "is_decoder": True,
    "init_std": 0.2,
}
_OPTIONAL = ("sliding_window", "q_lora_rank")
"""Set only where the family's own default is set."""


def small(model_type: str, **own: Any) -> dict[str, Any]:
    """Return the fields of a small configuration of `model_type`; `own` come before all others."""
    if model_type in SIZES:
        return {**SIZES[model_type], **own}
    kind: Any = CONFIG_MAPPING[model_type]
    names = {field.name for field in fields(kind)}
    chosen = {name: value for name, value in _SMALL.items() if name in names and name not in own}
    if "kv_lora_rank" in names and "num_key_value_heads" in chosen:
        chosen["num_key_value_heads"] = 4  # each head has keys and values of its own, made of the shared latent
    try:
        default = kind(**{"num_hidden_layers": 2} if "layer_types" in names else {})
    except Exception:  # some have no default configuration
        return {**chosen, **own}
    for name in list(chosen):
        try:
            value = getattr(default, name, None)
        except Exception:  # it differs by layer
            value = None
        # Lists by layer, switches of the same name, and what the family leaves out.
        left_out = isinstance(value, list | tuple | dict) or (value is None and name in _OPTIONAL)
        if left_out or isinstance(value, bool) is not isinstance(chosen[name], bool):
            del chosen[name]
    return {**chosen, **own}
