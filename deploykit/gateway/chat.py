"""`/v1/chat/completions`: the next message of a conversation."""

from typing import Any

from fastapi import APIRouter, Request, Response

from deploykit.client import Choice
from deploykit.gateway.answering import Plan, Service, head_of, name_of, respond, trace_of
from deploykit.gateway.body import JsonRoute
from deploykit.gateway.frames import ChatFrames
from deploykit.gateway.keys import client_name
from deploykit.gateway.logprobs import chat_logprobs
from deploykit.gateway.prompts import rendered, room_for, text_tokens
from deploykit.gateway.replies import STREAMED, ChatReply
from deploykit.gateway.sampling import sampling_of
from deploykit.gateway.schema import ChatRequest
from deploykit.gateway.upstream import Question
from deploykit.gateway.watch import watch_of


def chat_routes(service: Service) -> APIRouter:
    """Return the route."""
    router = APIRouter(route_class=JsonRoute)

    @router.post("/v1/chat/completions", response_model=ChatReply, responses=STREAMED, summary="Answer messages")
    async def chat(body: ChatRequest, request: Request) -> Response:
        return await respond(service, request, body, lambda: _plan(service, body, request))

    return router


async def _plan(service: Service, body: ChatRequest, request: Request) -> Plan:
    question = await _question(service, body, request)
    vocabulary = question.model.vocabulary

    def write(index: int, choice: Choice) -> dict[str, Any]:
        return {
            "index": index,
            "message": {"role": "assistant", "content": choice.text, "refusal": None},
            "logprobs": chat_logprobs(choice.logprobs, vocabulary) if body.logprobs else None,
            "finish_reason": choice.finish_reason,
        }

    frames = ChatFrames(
        head_of(question.model, prefix="chatcmpl", kind="chat.completion.chunk"),
        choices=question.choices,
        usage=body.include_usage,
        vocabulary=vocabulary,
    )
    head = head_of(question.model, prefix="chatcmpl", kind="chat.completion")
    return Plan(question=question, frames=frames, head=head, write=write)


async def _question(service: Service, body: ChatRequest, request: Request) -> Question:
    """Return what Triton is asked.

    Raises:
        Refusal: the model, its chat template or the context has no place for it.
        ClientError: the model's engine doesn't answer.
    """
    model = service.catalogue.find(body.model)
    context = await service.upstream.context(model)
    text = await rendered(model, body.messages, body.shown_tools, body)
    # Templates write out whatever special tokens begin a prompt.
    special = bool(body.add_special_tokens)
    tokens = await text_tokens(model, text, context=context, special=special, param="messages")
    limit = room_for(tokens, body.limit, context=context, param="messages")
    logprobs = body.top_logprobs or 0 if body.logprobs else None
    watch_of(request.scope).say(text)
    return Question(
        model=model,
        prompts=[tokens],
        choices=body.choices,
        sampling=sampling_of(body, model, max_tokens=limit, logprobs=logprobs, client=client_name(request.scope)),
        request_id=name_of(request),
        trace=trace_of(request),
    )
