"""`/tokenize` and `/detokenize`, as vLLM's server has them: texts and conversations to tokens, and back."""

from fastapi import APIRouter, Request, Response

from deploykit.gateway.answering import Service, in_time, unless_left
from deploykit.gateway.body import JsonRoute
from deploykit.gateway.prompts import INLINE, rendered, text_of, text_tokens
from deploykit.gateway.replies import ERRORS, DetokenizeReply, TokenizeReply
from deploykit.gateway.sampling import check_vocabulary
from deploykit.gateway.schema import DetokenizeRequest, TokenizeRequest


def tokenize_routes(service: Service) -> APIRouter:
    """Return the routes."""
    router = APIRouter(route_class=JsonRoute)

    @router.post(
        "/tokenize", response_model=TokenizeReply, responses=ERRORS, summary="Turn a text or messages into tokens"
    )
    async def tokenize(body: TokenizeRequest, request: Request) -> TokenizeReply | Response:
        if body.messages is None and len(body.prompt or "") <= INLINE:
            # Nothing to wait for, so nothing to give up.
            return await _tokenized(service, body)
        return await unless_left(request, in_time(lambda: _tokenized(service, body), service.timeout))

    @router.post("/detokenize", response_model=DetokenizeReply, responses=ERRORS, summary="Turn tokens into their text")
    async def detokenize(body: DetokenizeRequest, request: Request) -> DetokenizeReply | Response:
        if len(body.tokens) <= INLINE:
            return await _detokenized(service, body)
        return await unless_left(request, in_time(lambda: _detokenized(service, body), service.timeout))

    return router


async def _tokenized(service: Service, body: TokenizeRequest) -> TokenizeReply:
    model = service.catalogue.find(body.model)
    if body.messages is None:
        text, param = body.prompt or "", "prompt"
        special = body.add_special_tokens is not False
    else:
        text, param = await rendered(model, body.messages, body.tools, body), "messages"
        special = bool(body.add_special_tokens)
    tokens = await text_tokens(model, text, context=None, special=special, param=param)
    return TokenizeReply(
        count=len(tokens),
        max_model_len=service.upstream.known_context(model),
        tokens=tokens,
        token_strs=[model.vocabulary.entry(token) for token in tokens] if body.return_token_strs else None,
    )


async def _detokenized(service: Service, body: DetokenizeRequest) -> DetokenizeReply:
    model = service.catalogue.find(body.model)
    check_vocabulary(body.tokens, model, param="tokens")
    return DetokenizeReply(prompt=await text_of(model, body.tokens))
