"""An encoder-decoder packaged for Triton: all that serving needs, and tried before it is written."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from altering import altered, replace_weight

from deploykit.artifact import Artifact
from deploykit.config import PackageConfig, QuantizeConfig
from deploykit.errors import ArtifactError
from deploykit.package import package
from deploykit.package.model_config import model_config_text
from deploykit.quantize import quantize


@pytest.fixture(scope="module")
def int8(pair: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return quantize(pair, tmp_path_factory.mktemp("pairs") / "int8", QuantizeConfig(precision="int8"))


def test_the_repository_holds_both_graphs_of_what_is_served(int8: Artifact, tmp_path: Path) -> None:
    config = PackageConfig(name="translate")
    result = package(int8, tmp_path / "out", config)
    model = result.path / "model_repository/translate"
    inner = Artifact.open(model / "1")
    assert inner.precisions() == ["int8"]
    assert all(file.is_file() for file in inner.graphs("int8"))
    assert inner.manifest.decoder == int8.manifest.decoder
    assert (model / "config.pbtxt").read_text() == model_config_text(config)
    record = inner.manifest.history[-1]
    assert record.stage == "package"
    assert set(record.result["load_seconds"]) == {"int8"}
    assert record.result["padding"] == "both"


def test_packaging_again_gives_the_same_files(int8: Artifact, tmp_path: Path) -> None:
    once, twice = (package(int8, tmp_path / name) for name in ("once", "twice"))
    files = {name: entry for name, entry in once.manifest.files.items() if not name.endswith("manifest.json")}
    assert files == {name: entry for name, entry in twice.manifest.files.items() if name in files}


def spoil(graph: ir.Graph) -> None:
    """Put NaN in a graph's last norm."""
    name = [name for name in graph.initializers if name.endswith("final_layer_norm.weight")][-1]
    replace_weight(graph, name, lambda weight: np.full_like(weight, np.nan))


@pytest.mark.parametrize("encoder", [True, False])
def test_a_model_that_gives_nan_is_not_packaged(pair: Artifact, tmp_path: Path, encoder: bool) -> None:
    broken = altered(pair, tmp_path / "broken", spoil, encoder=encoder)
    with pytest.raises(ArtifactError, match="the fp32 model gives NaN or Inf"):
        package(broken, tmp_path / "out")
    assert not (tmp_path / "out").exists()
