"""Rotary embeddings whose frequencies go by the length of the row, held at those of short rows for a trace."""

from collections.abc import Iterator
from typing import Any

BY_LENGTH = ("dynamic", "longrope")
"""Kinds of rotary embedding that transformers computes anew for the longest row of a batch."""


def hold_frequencies(model: Any) -> int | None:
    """Let a model's rotary embeddings keep their first frequencies, and return for how many tokens those hold.

    In a traced graph one long row would change the tokens of all rows in its batch. None where nothing goes by length.
    """
    limits = []
    for module in model.modules():
        for layer_type, kind, parameters in _kinds(module):
            if kind not in BY_LENGTH:
                continue
            usual = model.config.get_text_config().max_position_embeddings
            limits.append(
                int(parameters.get("original_max_position_embeddings", usual) if kind == "longrope" else usual)
            )
            if layer_type is None:
                module.rope_type = "held"
            else:
                module.rope_type = {**module.rope_type, layer_type: "held"}
    return min(limits, default=None)


def _kinds(module: Any) -> Iterator[tuple[str | None, str, dict[str, Any]]]:
    """Yield the layer type, None where all share one, the kind and the parameters of a module's rotary embeddings."""
    kinds = getattr(module, "rope_type", None)
    parameters = getattr(getattr(module, "config", None), "rope_parameters", None) or {}
    if isinstance(kinds, str):
        yield None, kinds, parameters
    elif isinstance(kinds, dict):
        for layer_type, kind in kinds.items():
            yield layer_type, kind, parameters.get(layer_type, {})
