"""The OpenAPI document, which names the models that are served."""

import copy
from typing import Any, Final

from fastapi import FastAPI

from deploykit.gateway.catalogue import Catalogue

_EXAMPLES: Final[dict[str, dict[str, Any]]] = {
    "ChatRequest": {"messages": [{"role": "user", "content": "Name a prime."}], "max_tokens": 16},
    "CompletionRequest": {"prompt": "def greet(name):", "max_tokens": 16},
    "TokenizeRequest": {"prompt": "def greet(name):"},
    "DetokenizeRequest": {"tokens": [5, 6]},
}


def describe_models(app: FastAPI, catalogue: Catalogue) -> None:
    """Have the document say which names a request can have for `model`, as of the moment it is asked for."""
    make = app.openapi

    def openapi() -> dict[str, Any]:
        document = copy.deepcopy(make())
        names = [model.name for model in catalogue.models]
        for kind, example in _EXAMPLES.items():
            schema = document["components"]["schemas"][kind]
            schema["properties"]["model"]["enum"] = names
            schema["examples"] = [{"model": name, **example} for name in names]
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to another document
