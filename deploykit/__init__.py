"""deploykit: from a Transformer checkpoint to a quantized ONNX model that streams tokens from Triton."""

import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "export"]

# ONNX Runtime 1.29 and later report to their maker on Linux, too, and read this before they are imported. Whoever wants
# that sets it to 0. It holds for child processes as well, such as Triton's backends.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from deploykit.pipeline import export


def __getattr__(name: str) -> Any:
    # Deferred, so that `import deploykit.client` stays light.
    if name == "export":
        from deploykit.pipeline import export

        return export
    raise AttributeError(f"module 'deploykit' has no attribute {name!r}")
