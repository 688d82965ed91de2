"""PyTorch's own hidden states, place by place: what a graph that differs is searched with."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DynamicCache

from deploykit.config import ConvertConfig
from deploykit.convert.checkpoint import open_checkpoint
from deploykit.convert.reference import load_model
from deploykit.errors import CheckpointError, UnsupportedModelError
from deploykit.spec import LOGITS

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]

_ATTENTION: Final = ("attn", "attention")
_MLP: Final = ("mlp", "feed_forward", "ffn", "moe")
_NORM: Final = ("norm", "ln_", "_ln")


def torch_hidden_states(checkpoint: str | Path, config: ConvertConfig) -> Callable[[IntArray], dict[str, FloatArray]]:
    """Return a function from token ids [S] to what PyTorch has at each place of the model, in the order it computes.

    Places: `embedding` [S, E] (what enters the first layer); for each layer N `layers.N/keys` and `layers.N/values`
    [K, S, D], `layers.N/attention` and `layers.N/mlp` (what each gives, [S, E], where the layer has a module of that
    kind) and `layers.N` (what leaves it); `norm` (what enters the head) and `logits` [S, V].

    Raises:
        CheckpointError: the checkpoint is missing, damaged or unsafe to read.
        UnsupportedModelError: the model's layers can't be told from its other modules.
    """
    model = load_model(open_checkpoint(checkpoint, config), config)
    layers = _layers(model)
    vocabulary = model.get_input_embeddings().num_embeddings
    places = ["embedding"]
    for number in range(len(layers)):
        places += [f"layers.{number}/{part}" for part in ("keys", "values", "attention", "mlp")] + [f"layers.{number}"]
    places += ["norm", LOGITS]

    def states(ids: IntArray) -> dict[str, FloatArray]:
        if ids.max(initial=0) >= vocabulary:
            raise CheckpointError(
                f"{checkpoint}: its vocabulary has {vocabulary} entries, too few for token {ids.max()}; "
                "compare with the checkpoint the artifact was made from"
            )
        seen: dict[str, FloatArray] = {}
        with ExitStack() as hooks, torch.inference_mode():
            for handle in _watch(model, layers, seen):
                hooks.callback(handle.remove)
            output = model(input_ids=torch.from_numpy(ids)[None], past_key_values=DynamicCache(), use_cache=True)
        seen[LOGITS] = _rows(output.logits)
        for number, layer in enumerate(output.past_key_values.layers):
            seen[f"layers.{number}/keys"] = np.array(layer.keys[0].float())
            seen[f"layers.{number}/values"] = np.array(layer.values[0].float())
        return {place: seen[place] for place in places if place in seen}

    return states


def _layers(model: Any) -> torch.nn.ModuleList:
    count = model.config.get_text_config().num_hidden_layers
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return module
    raise UnsupportedModelError(
        f"{model.config.model_type}: no list of {count} layers among the model's modules, so no layer can be named; "
        "compare without --bisect"
    )


def _watch(model: Any, layers: torch.nn.ModuleList, seen: dict[str, FloatArray]) -> Iterator[Any]:
    """Yield the handles of hooks that put copies of what they see into `seen`."""

    def leaves(place: str) -> Callable[..., None]:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            seen[place] = _rows(output)

        return hook

    def enters(place: str) -> Callable[..., None]:
        def hook(module: Any, inputs: Any, named: Any) -> None:
            bound = inspect.signature(module.forward).bind(*inputs, **named)
            seen[place] = _rows(next(iter(bound.arguments.values())))

        return hook

    yield layers[0].register_forward_pre_hook(enters("embedding"), with_kwargs=True)
    for number, layer in enumerate(layers):
        for part, words in (("attention", _ATTENTION), ("mlp", _MLP)):
            module = _part(layer, words)
            if module is not None:
                yield module.register_forward_hook(leaves(f"layers.{number}/{part}"))
        yield layer.register_forward_hook(leaves(f"layers.{number}"))
    head = model.get_output_embeddings()
    if head is not None:
        yield head.register_forward_pre_hook(enters("norm"), with_kwargs=True)


def _part(layer: torch.nn.Module, words: tuple[str, ...]) -> torch.nn.Module | None:
    for name, module in layer.named_children():
        if any(word in name for word in words) and not any(word in name for word in _NORM):
            return module
    return None


def _rows(value: Any) -> FloatArray:
    """Return the first tensor of a module's output as [S, width]."""
    tensor = value if isinstance(value, torch.Tensor) else value[0]
    return np.array(tensor.reshape(-1, tensor.shape[-1]).float())
