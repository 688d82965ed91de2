"""The model to train."""

from transformers import LlamaConfig, LlamaForCausalLM

from deploykit.config import TrainConfig
from deploykit.train.tokenizer import BOS, EOS, PAD


def build_model(config: TrainConfig, *, vocab_size: int) -> LlamaForCausalLM:
    """Return a Llama with fresh weights from torch's global generator, input and output embeddings tied."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_key_value_heads,
            max_position_embeddings=config.max_context,
            tie_word_embeddings=True,
            # A layer then gives out what it takes in, in scale; at this width the usual 0.02 makes for a slow start.
            initializer_range=config.hidden_size**-0.5,
            bos_token_id=BOS,
            eos_token_id=EOS,
            pad_token_id=PAD,
        )
    )
