"""`pull`: a packaged model from an object store, every file checked."""

from deploykit.pull.pull import Pulled, pull

__all__ = ["Pulled", "pull"]
