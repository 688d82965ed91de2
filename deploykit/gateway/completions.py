"""`/v1/completions`: texts that the model continues."""

from typing import Any

from fastapi import APIRouter, Request, Response

from deploykit.client import Choice
from deploykit.gateway.answering import Plan, Service, head_of, name_of, respond, trace_of
from deploykit.gateway.body import JsonRoute
from deploykit.gateway.catalogue import ServedModel
from deploykit.gateway.errors import Refusal
from deploykit.gateway.fields import MAX_PROMPTS
from deploykit.gateway.frames import CompletionFrames
from deploykit.gateway.keys import client_name
from deploykit.gateway.logprobs import completion_logprobs
from deploykit.gateway.prompts import check_source, prompt_tokens, room_for, text_of
from deploykit.gateway.replies import STREAMED, CompletionReply
from deploykit.gateway.sampling import sampling_of
from deploykit.gateway.schema import COMPLETION_TOKENS, CompletionRequest
from deploykit.gateway.upstream import Question
from deploykit.gateway.watch import watch_of


def completion_routes(service: Service) -> APIRouter:
    """Return the route."""
    router = APIRouter(route_class=JsonRoute)

    @router.post("/v1/completions", response_model=CompletionReply, responses=STREAMED, summary="Continue texts")
    async def complete(body: CompletionRequest, request: Request) -> Response:
        return await respond(service, request, body, lambda: _plan(service, body, request))

    return router


async def _plan(service: Service, body: CompletionRequest, request: Request) -> Plan:
    question = await _question(service, body, request)
    model, prefixes = question.model, await _prefixes(body, question)

    def write(index: int, choice: Choice) -> dict[str, Any]:
        logprobs = None
        if body.logprobs is not None:
            logprobs = completion_logprobs(choice.logprobs, model.vocabulary, offset=len(prefixes[index]))
        return {
            "index": index,
            "text": prefixes[index] + choice.text,
            "logprobs": logprobs,
            "finish_reason": choice.finish_reason,
        }

    head = head_of(model, prefix="cmpl", kind="text_completion")
    frames = CompletionFrames(head, prefixes=prefixes, usage=body.include_usage, vocabulary=model.vocabulary)
    return Plan(question=question, frames=frames, head=head, write=write)


async def _question(service: Service, body: CompletionRequest, request: Request) -> Question:
    """Return what Triton is asked.

    Raises:
        Refusal: the model or the context has no place for it.
        ClientError: the model's engine doesn't answer.
    """
    if len(body.prompt) * body.choices > MAX_PROMPTS:
        raise Refusal(
            f"at most {MAX_PROMPTS} answers a request: {len(body.prompt)} prompts, n {body.choices}", param="n"
        )
    model = service.catalogue.find(body.model)
    prompts = await _prompts(service, model, body)
    limit = body.max_tokens or COMPLETION_TOKENS
    watch_of(request.scope).say("\n".join(prompt if isinstance(prompt, str) else str(prompt) for prompt in body.prompt))
    return Question(
        model=model,
        prompts=prompts,
        choices=body.choices,
        sampling=sampling_of(body, model, max_tokens=limit, logprobs=body.logprobs, client=client_name(request.scope)),
        request_id=name_of(request),
        trace=trace_of(request),
    )


async def _prompts(service: Service, model: ServedModel, body: CompletionRequest) -> list[list[int]]:
    """Return the tokens of each prompt, which the model has room for."""
    special = body.add_special_tokens is not False
    if model.source is not None:
        if body.echo:
            raise Refusal("echo can't be true: this model's answer doesn't continue its prompt", param="echo")
        sources = [await prompt_tokens(model, prompt, context=None, special=special) for prompt in body.prompt]
        for tokens in sources:
            check_source(tokens, model.source, param="prompt")
        return sources
    context = await service.upstream.context(model)
    prompts = [await prompt_tokens(model, prompt, context=context, special=special) for prompt in body.prompt]
    for tokens in prompts:
        # Without a limit of the caller's own, an answer ends where the context is full.
        room_for(tokens, body.max_tokens, context=context, param="prompt")
    return prompts


async def _prefixes(body: CompletionRequest, question: Question) -> list[str]:
    """Return what each choice's text begins with: its prompt if asked for."""
    texts = [""] * len(body.prompt)
    if body.echo:
        texts = [prompt if isinstance(prompt, str) else await text_of(question.model, prompt) for prompt in body.prompt]
    return [text for text in texts for _ in range(question.choices)]
