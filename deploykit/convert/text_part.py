"""The language model inside a model for more than text: its configuration, and its tensors by their usual names."""

import copy
from collections.abc import Mapping
from typing import Any, Final

from deploykit.convert.weights import StoredTensor

_PREFIXES: Final = {
    "language_model.model.": "model.",
    "language_model.lm_head.": "lm_head.",
    "model.language_model.": "model.",
}
"""What such checkpoints, older and newer ones, put before the names of their language model's tensors."""


def text_config(config: Any) -> Any:
    """Return the configuration of a model's language part: the model's own where it has a vocabulary itself."""
    if isinstance(getattr(config, "vocab_size", None), int):
        return config
    part = copy.deepcopy(config.get_text_config(decoder=True))
    if part is not config:
        # The whole model ties its head or doesn't, whatever its part says.
        part.tie_word_embeddings = getattr(config, "tie_word_embeddings", part.tie_word_embeddings)
    return part


def text_tensors(tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Return the tensors, the language part's under the names that they have in a model of text alone."""
    return {_usual_name(name): tensor for name, tensor in tensors.items()}


def _usual_name(name: str) -> str:
    for prefix, usual in _PREFIXES.items():
        if name.startswith(prefix):
            return usual + name.removeprefix(prefix)
    return name
