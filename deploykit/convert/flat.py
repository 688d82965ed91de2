"""A PyTorch model with its cache laid flat, as the traced graph will have it, and a proof that it means the same."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, DynamicCache
from transformers.cache_utils import DummyLayer, DynamicLayer, DynamicSlidingWindowLayer, LinearAttentionCacheLayerMixin

from deploykit.convert.spelling import Spelling

_ROW: Final = 6
"""Tokens of the row that both forms are tried on: more than the smallest windows and blocks of tiny models."""
_TOLERANCE: Final = 1e-3
"""Largest difference, as a share of the largest logit: rounding stays far below it, wrong positions far above."""


class FlatDecoder(torch.nn.Module):
    """A model whose cache is a flat list of tensors: layer 0 key, layer 0 value, and so on."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self._takes_positions = "position_ids" in _parameters(model)
        self.first_position = 0
        """Position of a row's first token: not 0 where a model counts on from its padding id (RoBERTa)."""
        self._embeddings = [
            module for module in model.modules() if {"past_key_values_length", "position_ids"} <= _parameters(module)
        ]
        """Position embeddings that would count padding, but can be told (BART and what shares its blocks)."""
        # Looked at before the first run, since short rows turn it off for good.
        self._sparse = any(getattr(module, "attention_type", None) == "block_sparse" for module in model.modules())
        self._own = _own_cache(model.config)
        self._kept = [number for number, layer in enumerate(self._own) if not isinstance(layer, DummyLayer)]
        """Layers that keep something: not those that have no attention, or share another layer's keys and values."""

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, past: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, ...]:
        """Return logits [B, S, V] and the cache with the new tokens, each [B, K, T, D].

        Args:
            input_ids: [B, S].
            attention_mask: [B, T].
            past: each [B, K, P, D].
        """
        cache = self._cache(past)
        counted = (attention_mask.cumsum(-1) - 1).clamp(min=0)[:, -input_ids.shape[1] :] + self.first_position
        positions = {"position_ids": counted} if self._takes_positions else {}
        with Spelling(), _told(self._embeddings, counted):
            output = self.model(
                input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache, use_cache=True, **positions
            )
        if not isinstance(output.past_key_values, DynamicCache):
            raise TypeError(f"the cache is a {type(output.past_key_values).__name__}, not a DynamicCache")
        kept = [layer for layer in output.past_key_values.layers if layer.keys is not None]
        return output.logits, *(tensor for layer in kept for tensor in (layer.keys, layer.values))

    def first_run(self, ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return logits and cache of token ids [B, S], and remember which layers keep something."""
        cache = self._cache([])
        self.model(input_ids=ids, attention_mask=torch.ones_like(ids), past_key_values=cache, use_cache=True)
        self._kept = [number for number, layer in enumerate(cache.layers) if layer.keys is not None]
        found: tuple[torch.Tensor, ...] = self(ids, torch.ones_like(ids), [])
        return found

    def _cache(self, past: Sequence[torch.Tensor]) -> DynamicCache:
        """Return a cache that holds `past`."""
        # Not of the model's configuration, whose layers crop their past to a window: the mask does that.
        cache = DynamicCache()
        cache.layers.extend(DummyLayer() if isinstance(layer, DummyLayer) else DynamicLayer() for layer in self._own)
        for layer, key, value in zip(self._kept, past[::2], past[1::2], strict=bool(past)):
            cache.update(key, value, layer)
        return cache

    def settle(self, vocabulary: int) -> str | None:
        """Find the model's first position, and return what keeps the flat form from giving the model's logits, or None.

        Args:
            vocabulary: V; the ids tried are its last ones, among which there is no padding id.
        """
        if self._sparse:
            return (
                "in long rows its tokens see blocks of the row, later ones among them (attention_type block_sparse); "
                "set attention_type to original_full in config.json, if that is meant"
            )
        ids = torch.arange(vocabulary - _ROW, vocabulary)[None].clamp(min=0)
        wanted = self.model(input_ids=ids, use_cache=False).logits
        padding = getattr(self.model.config, "pad_token_id", None)
        found = _differs(wanted, self._alone(ids))
        if found and isinstance(padding, int):
            self.first_position = padding + 1
            found = _differs(wanted, self._alone(ids))
        if found:
            return f"with a cache of plain keys and values its logits differ by {found:.2g} of the largest"
        if step := _differs(wanted[:, -1:], self._stepped(ids)):
            return f"a step on a past of keys and values gives logits that differ by {step:.2g} of the largest"
        if side := _differs(wanted, self._padded(ids)):
            return (
                "its positions don't follow the attention mask: with padding on the left, which batches of a traced "
                f"graph need, its logits differ by {side:.2g} of the largest"
            )
        return None

    def _alone(self, ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self(ids, torch.ones_like(ids), [])[0]
        return logits

    def _stepped(self, ids: torch.Tensor) -> torch.Tensor:
        mask = torch.ones_like(ids)
        _, *past = self(ids[:, :-1], mask[:, :-1], [])
        logits: torch.Tensor = self(ids[:, -1:], mask, past)[0]
        return logits

    def _padded(self, ids: torch.Tensor) -> torch.Tensor:
        padding = torch.zeros_like(ids[:, :2])
        logits: torch.Tensor = self(torch.cat([padding, ids], 1), torch.cat([padding, torch.ones_like(ids)], 1), [])[0]
        return logits[:, 2:]


def kept_besides(config: Any) -> str | None:
    """Return what a model of this configuration keeps from token to token besides keys and values, or None."""
    # Asked for first: a model's own kinds of cache are known once its module is loaded.
    model = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    for layer in _own_cache(config):
        if isinstance(layer, LinearAttentionCacheLayerMixin):
            return f"a recurrent state ({type(layer).__name__})"
        if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer, DummyLayer):
            return f"more than keys and values ({type(layer).__name__})"
    if model is not None and "past_key_values" not in _parameters(model):
        return "a state of its own or nothing (its forward takes no past_key_values)"
    return None


def _own_cache(config: Any) -> list[Any]:
    """Return the layers of the cache that transformers itself would make for such a model."""
    return list(DynamicCache(config=config).layers)


def _parameters(module: Any) -> set[str]:
    return set(inspect.signature(module.forward).parameters)


@contextmanager
def _told(embeddings: Sequence[Any], positions: torch.Tensor) -> Iterator[None]:
    """Give position embeddings these positions [B, S] for a while, instead of the ones they would count themselves."""

    def told(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        bound = inspect.signature(module.forward).bind(*args, **kwargs).arguments
        return (), {**bound, "position_ids": positions}

    def flattened(_module: Any, _args: Any, output: torch.Tensor) -> torch.Tensor:
        # Some put an axis before positions they are told, since they expect those of one row.
        return output.squeeze(0) if output.dim() == 4 else output

    handles = [module.register_forward_pre_hook(told, with_kwargs=True) for module in embeddings]
    handles += [module.register_forward_hook(flattened) for module in embeddings]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _differs(wanted: torch.Tensor, found: torch.Tensor) -> float | None:
    """Return the largest difference as a share of the largest logit, or None where it is no more than rounding."""
    gap = float((wanted - found).abs().max() / wanted.abs().max().clamp(min=1e-6))
    # Written so that NaN differs.
    return None if gap <= _TOLERANCE else gap
