"""A model with fresh weights, in Hugging Face's layout."""

from collections.abc import Sequence
from typing import Any

from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

from deploykit.train.config import ModelConfig, Task
from deploykit.train.tokenizer import BOS, EOS, PAD
from deploykit.transformer.pretrained import TransformerConfig, TransformerForConditionalGeneration


def build_model(config: ModelConfig, *, task: Task, vocab_size: int, labels: Sequence[str] = ()) -> Any:
    """Return a model for `task`, its weights from torch's global generator.

    Running text is learned by a Llama, pairs by the Transformer of Vaswani et al. 2017, labels and numbers by a BERT.

    Args:
        config: the sizes; what is None takes the default of the task.
        task: what the model learns.
        vocab_size: rows of the embedding.
        labels: names of the classes, in the order of their numbers.

    Raises:
        ConfigError: the sizes don't fit each other.
    """
    # Any: none of the sizes is None any more, which their types can't tell.
    sizes: Any = config.filled(task)
    if task == "text-generation":
        return LlamaForCausalLM(_llama(sizes, vocab_size))
    if task == "text2text-generation":
        return TransformerForConditionalGeneration(_transformer(sizes, vocab_size))
    return BertForSequenceClassification(_bert(sizes, vocab_size, head_fields(task, labels)))


def head_fields(task: Task, labels: Sequence[str]) -> dict[str, Any]:
    """Return what config.json says of a head: the names of its classes, or that it gives one number."""
    if task == "text-regression":
        return {"num_labels": 1, "problem_type": "regression"}
    return {
        "num_labels": len(labels),
        "problem_type": "single_label_classification",
        "id2label": dict(enumerate(labels)),
        "label2id": {label: number for number, label in enumerate(labels)},
    }


def _llama(sizes: Any, vocab_size: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=sizes.hidden_size,
        intermediate_size=sizes.intermediate_size,
        num_hidden_layers=sizes.num_layers,
        num_attention_heads=sizes.num_heads,
        num_key_value_heads=sizes.num_key_value_heads,
        max_position_embeddings=sizes.max_context,
        tie_word_embeddings=True,
        # A layer then gives out what it takes in, in scale; at this width the usual 0.02 makes for a slow start.
        initializer_range=sizes.hidden_size**-0.5,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )


def _transformer(sizes: Any, vocab_size: int) -> TransformerConfig:
    return TransformerConfig(
        vocab_size=vocab_size,
        d_model=sizes.hidden_size,
        nhead=sizes.num_heads,
        num_layers=sizes.num_layers,
        dim_feedforward=sizes.intermediate_size,
        dropout=sizes.dropout,
        norm_first=sizes.norm_first,
        share_embeddings=sizes.share_embeddings,
        max_position_embeddings=sizes.max_context,
    )


def _bert(sizes: Any, vocab_size: int, head: dict[str, Any]) -> BertConfig:
    return BertConfig(
        vocab_size=vocab_size,
        hidden_size=sizes.hidden_size,
        intermediate_size=sizes.intermediate_size,
        num_hidden_layers=sizes.num_layers,
        num_attention_heads=sizes.num_heads,
        max_position_embeddings=sizes.max_context,
        hidden_dropout_prob=sizes.dropout,
        attention_probs_dropout_prob=sizes.dropout,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
        **head,
    )
