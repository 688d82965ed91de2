"""`serve`: the engine behind a real Triton, on this machine."""

from deploykit.serve.server import LocalServer, serve

__all__ = ["LocalServer", "serve"]
