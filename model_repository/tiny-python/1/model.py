"""The model as Triton's Python backend loads it; the work is done in deploykit."""

from deploykit.serve.backend import TritonPythonModel

__all__ = ["TritonPythonModel"]
