"""deploykit: from a Transformer checkpoint to a quantized ONNX model that streams tokens from Triton."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "export"]

if TYPE_CHECKING:
    from deploykit.pipeline import export


def __getattr__(name: str) -> Any:
    # Deferred, so that `import deploykit.client` stays light.
    if name == "export":
        from deploykit.pipeline import export

        return export
    raise AttributeError(f"module 'deploykit' has no attribute {name!r}")
