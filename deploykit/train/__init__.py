"""Train a decoder, an encoder-decoder or a classifier on text: from nothing, or from a checkpoint."""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from deploykit.train.config import AugmentConfig, DataConfig, LoraConfig, ModelConfig, OptimConfig, TrainConfig

if TYPE_CHECKING:
    from deploykit.train.result import TrainResult
    from deploykit.train.run import train
    from deploykit.train.search import SweepResult, sweep
    from deploykit.transformer.attention import MultiHeadAttention, scaled_dot_product_attention
    from deploykit.transformer.model import Transformer
    from deploykit.transformer.pretrained import TransformerConfig, TransformerForConditionalGeneration

__all__ = [
    "AugmentConfig",
    "DataConfig",
    "LoraConfig",
    "ModelConfig",
    "MultiHeadAttention",
    "OptimConfig",
    "SweepResult",
    "TrainConfig",
    "TrainResult",
    "Transformer",
    "TransformerConfig",
    "TransformerForConditionalGeneration",
    "scaled_dot_product_attention",
    "sweep",
    "train",
]

# Loaded when first asked for: the command line reads the configuration, and must not wait for PyTorch.
_LATER: Final = {
    "MultiHeadAttention": "deploykit.transformer.attention",
    "SweepResult": "deploykit.train.search",
    "TrainResult": "deploykit.train.result",
    "Transformer": "deploykit.transformer.model",
    "TransformerConfig": "deploykit.transformer.pretrained",
    "TransformerForConditionalGeneration": "deploykit.transformer.pretrained",
    "scaled_dot_product_attention": "deploykit.transformer.attention",
    "sweep": "deploykit.train.search",
    "train": "deploykit.train.run",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATER[name]), name)
