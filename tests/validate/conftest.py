"""Converted artifacts of tiny random checkpoints, and PyTorch's logits for them."""

from pathlib import Path

import numpy as np
import pytest

from deploykit.artifact import Artifact
from deploykit.config import QuantizeConfig
from deploykit.convert import convert, torch_reference
from deploykit.quantize import quantize
from deploykit.validate import Reference
from deploykit.validate.decoder import FloatArray, IntArray


@pytest.fixture(scope="session")
def fused(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return convert(tiny_llama, tmp_path_factory.mktemp("validate") / "fused")


@pytest.fixture(scope="session")
def int8(fused: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return quantize(fused, tmp_path_factory.mktemp("validate") / "int8", QuantizeConfig(precision="int8"))


@pytest.fixture(scope="session")
def pytorch(tiny_llama: Path) -> Reference:
    run = torch_reference(tiny_llama)
    known: dict[bytes, FloatArray] = {}

    def reference(ids: IntArray) -> FloatArray:
        # The same rows come up in test after test.
        if ids.tobytes() not in known:
            known[ids.tobytes()] = np.asarray(run(ids))
        return known[ids.tobytes()]

    return reference
