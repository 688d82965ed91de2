"""`convert`: a checkpoint becomes an ONNX decoder with a key/value cache, and PyTorch its reference."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from deploykit.config import ConvertConfig
from deploykit.convert.convert import convert

__all__ = ["convert", "torch_reference"]


def torch_reference(checkpoint: str | Path, config: ConvertConfig | None = None) -> Callable[..., NDArray[np.float32]]:
    """Return a function from token ids [S] to PyTorch's fp32 logits [S, V], without cache or padding.

    That of an encoder-decoder is called with the answer's ids and the source's.

    Raises:
        CheckpointError: the checkpoint is missing, damaged or unsafe to read.
    """
    # Loading PyTorch's models takes seconds, which a conversion to a fused graph doesn't need.
    from deploykit.convert import reference

    return reference.torch_reference(checkpoint, config or ConvertConfig())
