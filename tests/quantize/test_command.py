"""`deploykit quantize`: what its options become."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from deploykit.artifact import Artifact
from deploykit.cli.main import commands
from deploykit.cli.options import QUANTIZING
from deploykit.config import QuantizeConfig


def run(source: Artifact, out: Path, *words: str) -> Artifact:
    result = CliRunner().invoke(
        commands, ["quantize", str(source.path), "-o", str(out), *words], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    return Artifact.open(out)


def test_defaults_are_those_of_the_configuration(tied: Artifact, tmp_path: Path) -> None:
    options = run(tied, tmp_path / "out", "--quantize", "int4").manifest.history[-1].options
    assert options == {"precision": "int4", "block_size": 32, "rounding": "rtn", "symmetric": True, "head_bits": 8}
    assert set(QUANTIZING) <= set(QuantizeConfig.__dataclass_fields__)


@pytest.mark.parametrize(("flag", "symmetric"), [("--symmetric", True), ("--asymmetric", False)])
def test_every_option_arrives(flag: str, symmetric: bool, tied: Artifact, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("print(name)\n" * 2000, encoding="utf-8")
    words = ["--quantize", "int4", "--block-size", "64", "--rounding", "gptq", "--sensitive", "12", "--head-bits", "4"]
    words += ["--table-bits", "8", "--calibration", str(text), "--more-bits", "layers.0", "--more-bits", "o_proj", flag]
    record = run(tied, tmp_path / "out", *words).manifest.history[-1]
    assert record.options == {
        "precision": "int4",
        "block_size": 64,
        "rounding": "gptq",
        "symmetric": symmetric,
        "head_bits": 4,
        "table_bits": 8,
        "more_bits": ["layers.0", "o_proj"],
        "sensitive": 12,
    }
    assert record.result["calibration"]["text"] == "end of text.txt"
