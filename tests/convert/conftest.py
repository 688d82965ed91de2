"""Each fused family three times: fused, traced, and as PyTorch's logits."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from deploykit.artifact import Artifact
from deploykit.config import ConvertConfig
from deploykit.convert import convert, torch_reference
from deploykit.validate.decoder import Decoder

Reference = Callable[[NDArray[np.int64]], NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class Trio:
    """One checkpoint in three forms that must agree."""

    fused: Decoder
    traced: Decoder
    pytorch: Reference


@pytest.fixture(scope="session", params=["gpt2", "llama", "qwen2"])
def trio(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trio:
    checkpoint: Path = request.getfixturevalue(f"tiny_{request.param}")
    folder = tmp_path_factory.mktemp(request.param)
    fused = convert(checkpoint, folder / "fused", ConvertConfig(method="fused"))
    if request.param == "llama":
        traced: Artifact = request.getfixturevalue("traced")
    else:
        traced = convert(checkpoint, folder / "traced", ConvertConfig(method="traced"))
    return Trio(
        fused=Decoder(fused.graph(), fused.manifest.decoder),
        traced=Decoder(traced.graph(), traced.manifest.decoder),
        pytorch=torch_reference(checkpoint),
    )
