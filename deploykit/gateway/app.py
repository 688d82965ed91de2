"""The gateway's endpoints as an ASGI application."""

from importlib.metadata import version

from fastapi import FastAPI

from deploykit.client import AsyncClient
from deploykit.config import GatewayConfig
from deploykit.gateway.answering import Service
from deploykit.gateway.catalogue import Catalogue
from deploykit.gateway.chat import chat_routes
from deploykit.gateway.completions import completion_routes
from deploykit.gateway.document import describe_models
from deploykit.gateway.errors import Failures, add_handlers
from deploykit.gateway.models import model_routes
from deploykit.gateway.readiness import Readiness
from deploykit.gateway.tokenize import tokenize_routes
from deploykit.gateway.upstream import Upstream


def create_app(catalogue: Catalogue, backend: AsyncClient, settings: GatewayConfig) -> FastAPI:
    """Return the application: OpenAI's API in front of Triton, open to everybody; `guard` stands in front of it.

    Args:
        catalogue: the models.
        backend: the client that asks Triton; it should try once, since callers try again themselves.
        settings: how long an answer may take.
    """
    service = Service(catalogue=catalogue, upstream=Upstream(backend), timeout=settings.timeout)
    app = FastAPI(
        title="deploykit gateway",
        version=version("deploykit"),
        description="OpenAI's API for the models that deploykit serves.",
        docs_url=None,
        redoc_url=None,
        # Behind a proxy that speaks TLS they would lead to an address without, and a caller's key along with them.
        redirect_slashes=False,
    )
    add_handlers(app)
    app.add_middleware(Failures)
    for router in (
        model_routes(service, Readiness(backend)),
        chat_routes(service),
        completion_routes(service),
        tokenize_routes(service),
    ):
        app.include_router(router)
    describe_models(app, catalogue)
    return app
