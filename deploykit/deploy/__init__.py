"""`deploy`: a packaged model to manifests that a cluster takes."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deploykit.deploy.writing import Deployed, deploy

__all__ = ["Deployed", "deploy"]


def __getattr__(name: str) -> Any:
    # Deferred: the command line reads its defaults in `config`, and `check` its facts, without what describes objects.
    if name in __all__:
        from deploykit.deploy import writing

        return getattr(writing, name)
    raise AttributeError(f"module 'deploykit.deploy' has no attribute {name!r}")
