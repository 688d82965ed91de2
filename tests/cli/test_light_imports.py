"""What each part of the package may load, proved in a fresh interpreter."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "tokenizers", "rich", "tritonclient")


def loaded(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("statement", "allowed"),
    [
        ("import deploykit", set()),
        ("import deploykit.cli.main", set()),
        ("import deploykit.artifact, deploykit.config, deploykit.spec, deploykit.errors, deploykit.progress", set()),
        ("import deploykit.client", set()),
        ("import deploykit.engine", {"onnxruntime", "tokenizers"}),
        ("import deploykit.serve", {"onnxruntime", "tokenizers"}),
        ("import deploykit.validate", {"onnxruntime", "tokenizers", "onnx", "onnx_ir"}),
        ("import deploykit.chat, deploykit.chat_template", set()),
        ("import deploykit.doctor, deploykit.inspect, deploykit.outline", set()),
        ("import deploykit.pull", set()),
        ("import deploykit.package", {"onnx", "onnx_ir", "onnxruntime", "tokenizers", "tritonclient"}),
        ("import deploykit.quantize, deploykit.optimize", {"onnx", "onnx_ir", "onnxscript", "onnxruntime"}),
    ],
)
def test_loads_no_more_than_it_needs(statement: str, allowed: set[str]) -> None:
    assert loaded(statement) <= allowed
