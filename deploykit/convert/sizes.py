"""Sizes in config.json that can't be meant: refused before they cost time or memory."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from deploykit.errors import CheckpointError

_COUNTS: Final = ("layer", "expert", "block", "num_labels", "codebook")
"""Parts of the names of fields that configuration classes make lists of, or models loops."""
_MOST: Final = 100_000
"""Largest such count: a thousand times the deepest model there is."""
_WIDEST: Final = 1 << 16
"""Largest head: a hundred times the widest there is. Rotary frequencies are computed for half as many."""
_ROTARY: Final = (
    *("rope_theta", "partial_rotary_factor", "factor", "attention_factor", "beta_fast", "beta_slow"),
    *("low_freq_factor", "high_freq_factor", "mscale", "mscale_all_dim", "original_max_position_embeddings"),
)
"""Numbers of a rotary embedding, which its formulas use unseen."""
_SIZES: Final = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
)


def check_raw(file: Path, raw: dict[str, Any]) -> None:
    """Check config.json before transformers makes lists as long as it says.

    Raises:
        CheckpointError: a count is past all models, or a number is none.
    """
    _check_rotary(file, raw)
    for name, value in _numbers(raw, "", 0):
        if isinstance(value, float) and math.isnan(value):
            raise CheckpointError(f"{file}: {name} is NaN; correct it, or download the checkpoint again")
        if name in _SIZES and value < 1:
            raise CheckpointError(f"{file}: {name} is {value!r}, not a whole number above 0; correct it")
        if abs(value) > _MOST and _counts_parts(name.rpartition(".")[2].lower()):
            raise CheckpointError(
                f"{file}: {name} says {value}, more than any model has; download the checkpoint again"
            )


def _check_rotary(file: Path, raw: dict[str, Any]) -> None:
    scaling = [part for part in (raw.get("rope_parameters"), raw.get("rope_scaling")) if isinstance(part, dict)]
    # Layers of several types have parameters of their own.
    own = [part for whole in scaling for part in whole.values() if isinstance(part, dict)]
    for part in (raw, *scaling, *own):
        for name in _ROTARY:
            if isinstance(value := part.get(name), str | list | dict):
                raise CheckpointError(f"{file}: {name} is {value!r}, not a number; correct it")
        turned = part.get("partial_rotary_factor")
        if turned is not None and not 0 < turned <= 1:
            raise CheckpointError(f"{file}: partial_rotary_factor is {turned!r}, not above 0 and at most 1; correct it")
        base = part.get("rope_theta")
        if base is not None and not base > 0:
            raise CheckpointError(f"{file}: rope_theta is {base!r}, not above 0; correct it")


def _counts_parts(name: str) -> bool:
    """Return whether a field counts parts of the model: not the vocabulary that each layer of Gemma 3n looks up."""
    return "vocab" not in name and any(part in name for part in _COUNTS)


def check_sizes(file: Path, config: Any) -> None:
    """Check the sizes that every decoder has, where it gives them as one number.

    Raises:
        CheckpointError: one is no whole number above 0, or heads can't share keys and values evenly.
    """
    sizes = {name: _for_all_layers(config, name) for name in _SIZES}
    if hasattr(config, "num_hidden_layers"):
        sizes["num_hidden_layers"] = config.num_hidden_layers or 0
    for name, value in sizes.items():
        if value is None or (isinstance(value, list | tuple | dict) and name != "num_hidden_layers"):
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise CheckpointError(f"{file}: {name} is {value!r}, not a whole number above 0; correct it")
    _check_heads(file, {name: value for name, value in sizes.items() if isinstance(value, int)})


def _for_all_layers(config: Any, name: str) -> Any:
    """Return a field, or None where the configuration has none or one for each layer."""
    try:
        return getattr(config, name, None)
    except Exception:  # transformers forbids to read what differs by layer, by an error of its own
        return None


def _check_heads(file: Path, sizes: dict[str, int]) -> None:
    hidden, heads, shared = (sizes.get(name) for name in ("hidden_size", "num_attention_heads", "num_key_value_heads"))
    if heads and shared and heads % shared:
        raise CheckpointError(
            f"{file}: {heads} attention heads can't share {shared} key/value heads evenly; correct num_attention_heads "
            "or num_key_value_heads"
        )
    width = sizes.get("head_dim") or (hidden // heads if hidden and heads else 1)
    if not 1 <= width <= _WIDEST:
        raise CheckpointError(
            f"{file}: a hidden_size of {hidden} and {heads} attention heads make heads of {width}, past all models "
            f"(1 to {_WIDEST}); correct head_dim, hidden_size or num_attention_heads"
        )


def check_implied(folder: Path, implied: int, stored: int) -> None:
    """Check that a model of so many parameters can come from weights that hold so many.

    Raises:
        CheckpointError: config.json implies far more, which would be made in memory for nothing.
    """
    # Room for tables that are computed, and for heads that repeat the embedding.
    if implied > 3 * stored + (1 << 24):
        raise CheckpointError(
            f"{folder}: config.json implies {implied} weights, but the files hold {stored}; "
            "the two don't belong together"
        )


def _numbers(value: Any, name: str, depth: int) -> Iterator[tuple[str, Any]]:
    """Yield every number of a JSON value under its dotted name."""
    if isinstance(value, bool) or depth > 20:
        return
    if isinstance(value, int | float):
        yield name, value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _numbers(part, f"{name}.{key}".lstrip("."), depth + 1)
    elif isinstance(value, list):
        for part in value:
            yield from _numbers(part, name, depth + 1)
