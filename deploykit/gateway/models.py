"""`/v1/models` and `/health`: what is served, and whether it is ready."""

from fastapi import APIRouter

from deploykit.gateway.answering import Service
from deploykit.gateway.catalogue import ServedModel
from deploykit.gateway.readiness import Readiness, not_ready
from deploykit.gateway.replies import ERRORS, HealthReply, ModelReply, ModelsReply


def model_routes(service: Service, readiness: Readiness) -> APIRouter:
    """Return the routes."""
    router = APIRouter()

    @router.get("/v1/models", responses=ERRORS, summary="List the models")
    async def models() -> ModelsReply:
        return ModelsReply(object="list", data=[_reply(service, model) for model in service.catalogue.models])

    @router.get("/v1/models/{model:path}", responses=ERRORS, summary="Describe a model")
    async def model(model: str) -> ModelReply:
        return _reply(service, service.catalogue.find(model))

    @router.get("/health", responses=ERRORS, summary="Say whether Triton and every model are ready")
    async def health() -> HealthReply:
        if trouble := await readiness.trouble(service.catalogue.models):
            raise not_ready(trouble)
        return HealthReply(status="ok")

    # Some load balancers probe so. It isn't in the document, which would have the same operation twice.
    router.head("/health", include_in_schema=False)(health)
    return router


def _reply(service: Service, model: ServedModel) -> ModelReply:
    return ModelReply(
        id=model.name,
        object="model",
        created=model.created,
        owned_by="deploykit",
        max_model_len=service.upstream.known_context(model),
    )
