"""Environments of the peers we are measured beside, each made once and apart from ours."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ENVIRONMENTS = HERE / ".envs"

REQUIREMENTS = {
    # optimum-onnx pins transformers below 4.58 itself; torch's CPU build is named so that pip takes no other.
    "optimum": ["optimum-onnx[onnxruntime]==0.1.0", "torch==2.13.0", "requests"],
    "builder": ["onnxruntime-genai==0.18.0", "torch==2.13.0", "transformers==5.23.0", "onnx_ir==1.1.0", "requests"],
    "genai": ["onnxruntime-genai==0.18.0", "numpy"],
    # Built from source (minutes); gguf writes its models.
    "llamacpp": ["llama-cpp-python==0.3.36", "gguf==0.19.0", "safetensors"],
    "ctranslate2": ["ctranslate2==4.8.5", "torch==2.13.0", "transformers==4.57.6"],
    "client": [str(HERE.parent)],
    "aiperf": ["aiperf==0.13.0"],
    # 290 MB: what checks manifests.
    "checkov": ["checkov==3.3.30"],
    "numpy2": ["numpy>=2", "onnxruntime==1.32.0", "tokenizers==0.23.3", "prometheus-client", "tritonclient[grpc]"],
}

BUILDS = {"llamacpp": {"CMAKE_ARGS": "-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF"}}
"""Settings of what is compiled: with this machine's own instructions, and without the part for images."""


def environment(name: str) -> Path:
    """Return the `bin` folder of a peer's environment, made if it isn't there."""
    folder = ENVIRONMENTS / name
    done = folder / ".complete"
    if not done.exists():
        print(f"making the environment of {name} …", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run(
            [folder / "bin" / "pip", "install", "--quiet", *REQUIREMENTS[name]],
            check=True,
            env={**os.environ, **BUILDS.get(name, {})},
        )
        done.touch()
    return folder / "bin"


if __name__ == "__main__":
    for wanted in sys.argv[1:] or REQUIREMENTS:
        print(environment(wanted))
