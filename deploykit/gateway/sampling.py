"""From a request's fields to the engine's parameters."""

from typing import Any, Final

from deploykit.gateway.catalogue import ServedModel
from deploykit.gateway.errors import Refusal
from deploykit.gateway.schema import Generation

TEMPERATURE: Final = 1.0
"""Where nobody says, as OpenAI's API has it; the engine itself would be greedy."""
_LARGEST_SEED: Final = 2**63 - 1
_AS_THEY_ARE: Final = (
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "min_tokens",
    "ignore_eos",
    "stop",
    "stop_token_ids",
    "bad_words",
    "logit_bias",
    "priority",
    "n",
)


def sampling_of(
    request: Generation, model: ServedModel, *, max_tokens: int, logprobs: int | None, client: str
) -> dict[str, Any]:
    """Return the parameters that `deploykit.client` sends.

    Args:
        request: what was asked for.
        model: the model that is asked.
        max_tokens: tokens of the answer at most.
        logprobs: how many of the likeliest tokens to name; None for no log probabilities.
        client: the name of the caller's key; where there are no keys, the `user` whom the request names counts.

    Raises:
        Refusal: a token that the model doesn't have, or a shortest answer that is longer than the longest.
    """
    _check_tokens(request, model)
    if request.min_tokens is not None and request.min_tokens > max_tokens:
        raise Refusal(
            f"min_tokens must be at most max_tokens, {max_tokens}; got {request.min_tokens}", param="min_tokens"
        )
    given = {name: value for name in _AS_THEY_ARE if (value := getattr(request, name)) is not None}
    given["max_tokens"] = max_tokens
    given["temperature"] = TEMPERATURE if request.temperature is None else request.temperature
    if request.top_p == 0:
        # Nothing but the likeliest token is left, and the engine takes no 0.
        given["temperature"] = 0
    elif request.top_p is not None:
        given["top_p"] = request.top_p
    if request.seed is not None:
        # OpenAI's seeds have a sign, the engine's have none.
        given["seed"] = request.seed & _LARGEST_SEED
    if logprobs is not None:
        given["logprobs"] = logprobs
    if who := client or request.user:
        given["client"] = who
    return given


def _check_tokens(request: Generation, model: ServedModel) -> None:
    biased = [int(token) for token in request.logit_bias or ()]
    for name, tokens in (("stop_token_ids", request.stop_token_ids or ()), ("logit_bias", biased)):
        check_vocabulary(tokens, model, param=name)


def check_vocabulary(tokens: "list[int] | tuple[int, ...]", model: ServedModel, *, param: str) -> None:
    """Pass token ids that the model has.

    Raises:
        Refusal: one of them isn't.
    """
    if tokens and (most := max(tokens)) >= model.vocab_size:
        raise Refusal(f"{param}: token id {most} is not one of the model's, 0 to {model.vocab_size - 1}", param=param)
