"""PyTorch's own answer: the model that the graphs are compared with, and that the traced graph is made of."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from deploykit.config import ConvertConfig
from deploykit.convert.checkpoint import Checkpoint, is_encoder_decoder, open_checkpoint
from deploykit.convert.sizes import check_implied
from deploykit.errors import CheckpointError, UnsupportedModelError
from deploykit.quiet import quiet

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]


def torch_reference(checkpoint: str | Path, config: ConvertConfig) -> Callable[..., FloatArray]:
    """Return a function from token ids [S] to PyTorch's fp32 logits [S, V], without cache or padding.

    An encoder-decoder's takes the source's ids [S'] as well; the answer's begin with `EncoderSpec.decoder_prompt`.

    Raises:
        CheckpointError: the checkpoint is missing, damaged or unsafe to read.
    """
    opened = open_checkpoint(checkpoint, config)
    model = load_model(opened, config)
    vocabulary = model.get_input_embeddings().num_embeddings
    # Marian may have a vocabulary for each side.
    written = getattr(opened.config, "decoder_vocab_size", None) or vocabulary

    def row(ids: IntArray, entries: int) -> torch.Tensor:
        if ids.max(initial=0) >= entries:
            raise CheckpointError(
                f"{checkpoint}: its vocabulary has {entries} entries, too few for token {ids.max()}; "
                "compare with the checkpoint the artifact was made from"
            )
        return torch.from_numpy(np.ascontiguousarray(ids, np.int64))[None]

    def logits(ids: IntArray, source: IntArray | None = None) -> FloatArray:
        if source is None:
            fed = {"input_ids": row(ids, vocabulary)}
        else:
            fed = {"input_ids": row(source, vocabulary), "decoder_input_ids": row(ids, written)}
        with torch.inference_mode():
            try:
                return np.asarray(model(**fed, use_cache=False).logits[0].float())
            except Exception as error:  # whatever a model may raise
                reason = " ".join(str(error).split())[:300]
                raise CheckpointError(
                    f"{checkpoint}: PyTorch itself can't run it on {len(ids)} tokens: {reason}; correct config.json"
                ) from error

    return logits


def load_model(checkpoint: Checkpoint, config: ConvertConfig) -> Any:
    """Return the PyTorch model in fp32, for inference, with attention in plain products and a softmax.

    Raises:
        CheckpointError: weights are missing, of another shape, NaN or infinite.
        UnsupportedModelError: transformers can't make a model of it.
    """
    if implied := _implied(checkpoint):
        stored = sum(math.prod(tensor.shape) for tensor in checkpoint.weights.tensors.values())
        check_implied(checkpoint.folder, implied, stored)
    try:
        with quiet():
            model, report = _auto_class(checkpoint).from_pretrained(
                checkpoint.folder,
                dtype=torch.float32,
                # sdpa exports rows that are masked as a whole (left padding) as NaN; eager keeps them finite.
                attn_implementation="eager",
                # Of the ways to run experts, the one that the exporter knows; models without experts ignore it.
                experts_implementation="batched_mm",
                trust_remote_code=config.trust_remote_code,
                local_files_only=True,
                output_loading_info=True,
                use_safetensors=checkpoint.weights.source.name.startswith("model.safetensors"),
            )
    except Exception as error:  # whatever a model's constructor may raise
        raise _explained(checkpoint, error) from error
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise CheckpointError(
            f"{checkpoint.weights.source}: no tensor {missing[0]!r} ({len(missing)} missing in all); "
            "the checkpoint is incomplete or doesn't fit its config.json"
        )
    _check_finite(model)
    return model.eval().requires_grad_(False)


def _auto_class(checkpoint: Checkpoint) -> Any:
    return AutoModelForSeq2SeqLM if is_encoder_decoder(checkpoint.config) else AutoModelForCausalLM


def _explained(checkpoint: Checkpoint, error: Exception) -> CheckpointError:
    text = " ".join(str(error).split())[:300]
    # A key alone says nothing: some configurations name a kind that has no entry in one of transformers' tables.
    reason = _mismatch(checkpoint) or (f"{text} is unknown" if isinstance(error, KeyError) else text)
    if isinstance(error, (ImportError, NotImplementedError)):
        return UnsupportedModelError(f"{checkpoint.folder}: {checkpoint.config.model_type} can't be run here: {reason}")
    return CheckpointError(f"{checkpoint.folder}: the weights don't fit config.json: {reason}")


def _hollow(checkpoint: Checkpoint) -> Any:
    """Return the model without memory for its weights, or None where it can't even be made so."""
    try:
        with quiet(), torch.device("meta"):
            return _auto_class(checkpoint).from_config(checkpoint.whole)
    except Exception:  # whatever a model's constructor may raise: loading it raises the same, and is explained
        return None


def _implied(checkpoint: Checkpoint) -> int:
    """Return how many elements the model's weights and tables have, or 0 where that can't be told."""
    model = _hollow(checkpoint)
    parts = () if model is None else (*model.parameters(), *model.buffers())
    return sum(math.prod(part.shape) for part in parts)


def _mismatch(checkpoint: Checkpoint) -> str | None:
    """Return the first tensor whose shape is not the model's, which transformers only says in a log."""
    model = _hollow(checkpoint)
    for name, tensor in ({} if model is None else model.state_dict()).items():
        stored = checkpoint.weights.tensors.get(name)
        if stored is not None and stored.shape != tuple(tensor.shape):
            return f"tensor {name!r} has the shape {list(stored.shape)}, not {list(tensor.shape)}"
    return None


def _check_finite(model: Any) -> None:
    for name, tensor in model.state_dict().items():
        # Both are NaN where one element is; unlike `isfinite` this makes no copy, which for an embedding is large.
        if tensor.is_floating_point() and tensor.numel() and not all(map(math.isfinite, torch.aminmax(tensor))):
            raise CheckpointError(
                f"tensor {name!r} holds NaN or infinity; "
                "the checkpoint is damaged or its training diverged, use an earlier one"
            )
