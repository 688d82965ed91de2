"""From texts and messages to the tokens that Triton is sent, as long as the context lets them be."""

from typing import Any, Final

from deploykit.chat_template import VariableError
from deploykit.errors import QueueFullError, RequestError
from deploykit.gateway.catalogue import ServedModel
from deploykit.gateway.errors import Refusal, queue_full
from deploykit.gateway.fields import Prompt
from deploykit.gateway.sampling import check_vocabulary
from deploykit.gateway.schema import ChatTemplateFields

INLINE: Final = 2048
"""Characters that are tokenized at once, in half a millisecond; longer texts go to a thread, and others go on."""


async def prompt_tokens(model: ServedModel, prompt: Prompt, *, context: int | None, special: bool = True) -> list[int]:
    """Return the tokens of a completion's prompt.

    Args:
        model: whose tokens.
        prompt: a text, or token ids.
        context: of the model's engine, in tokens; None where the prompt is an encoder's.
        special: whether the tokenizer adds its own at the ends of a text.

    Raises:
        Refusal: the prompt is longer than the context, has no tokens, or some that aren't the model's.
    """
    if isinstance(prompt, str):
        return await text_tokens(model, prompt, context=context, special=special, param="prompt")
    check_vocabulary(prompt, model, param="prompt")
    return prompt


async def text_tokens(model: ServedModel, text: str, *, context: int | None, special: bool, param: str) -> list[int]:
    """Return the tokens of a text; of any length where the context is None.

    Raises:
        Refusal: the model has no tokenizer, the text is longer than the context, or has no tokens; or too many wait.
    """
    tokenizer = model.tokens_from()

    # A text so long that it can't fit isn't encoded first: that would take seconds.
    if context is not None and (least := len(text) // model.vocabulary.longest) >= context:
        raise too_long(f"at least {least}", None, context=context, param=param)

    def encode() -> list[int]:
        # The plain call would keep Python's lock, and every other request waiting, for seconds where a text is long.
        return list(tokenizer.encode_batch_fast([text], add_special_tokens=special)[0].ids)

    tokens = encode() if len(text) <= INLINE else await model.encoding.run(encode)
    if context is not None and not tokens:
        raise Refusal("the prompt has no tokens once the tokenizer has cleaned it; send other text", param=param)
    return tokens


async def text_of(model: ServedModel, tokens: list[int]) -> str:
    """Return what tokens say, special ones included.

    Raises:
        Refusal: the model has no tokenizer, or too many wait.
    """
    tokenizer = model.tokens_from()

    def decode() -> str:
        return str(tokenizer.decode_batch([tokens], skip_special_tokens=False)[0])

    return decode() if len(tokens) <= INLINE else await model.encoding.run(decode)


async def rendered(
    model: ServedModel, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None, fields: ChatTemplateFields
) -> str:
    """Return the prompt that the model's chat template makes of messages.

    Raises:
        Refusal: the model has no chat template, or it refuses these messages; or too many wait.
    """
    template = model.template
    if template is None:
        raise Refusal(
            "this model has no chat template, so it can't chat; use /v1/completions, "
            "or add a chat template to the checkpoint and export it again",
            param="model",
        )

    def render() -> str:
        return template.render(
            messages,
            tools=tools,
            add_generation_prompt=fields.generation_prompt,
            continue_final_message=bool(fields.continue_final_message),
            **(fields.chat_template_kwargs or {}),
        )

    try:
        return await model.rendering.run(render)
    except QueueFullError:
        raise queue_full() from None
    except RequestError as error:
        of_variables = isinstance(error, VariableError)
        raise Refusal(str(error), param="chat_template_kwargs" if of_variables else "messages") from None


def check_source(tokens: list[int], source: int, *, param: str) -> None:
    """Check that an encoder can read a prompt; its answer has a context of its own.

    Raises:
        Refusal: it is too long, or has no tokens.
    """
    if not tokens:
        raise Refusal("the prompt has no tokens once the tokenizer has cleaned it; send other text", param=param)
    if len(tokens) > source:
        raise Refusal(
            f"this model's encoder reads at most {source} tokens, but the prompt has {len(tokens)}; shorten it",
            param=param,
            code="context_length_exceeded",
        )


def room_for(tokens: list[int], max_tokens: int | None, *, context: int, param: str) -> int:
    """Return how many tokens an answer may have: those asked for, or all that the context has room for.

    Raises:
        Refusal: there is no room for them behind the prompt.
    """
    if len(tokens) >= context or (max_tokens is not None and len(tokens) + max_tokens > context):
        raise too_long(str(len(tokens)), max_tokens, context=context, param=param)
    return context - len(tokens) if max_tokens is None else max_tokens


def too_long(prompt: str, max_tokens: int | None, *, context: int, param: str) -> Refusal:
    """Return what is said of a prompt, or of an answer behind it, that the context can't hold."""
    wanted = f"{prompt} in the prompt" + (f" and {max_tokens} for the answer" if max_tokens is not None else "")
    return Refusal(
        f"this model's maximum context length is {context} tokens, but the request has {wanted}; "
        f"shorten the prompt{' or lower max_tokens' if max_tokens is not None else ''}",
        param=param,
        code="context_length_exceeded",
    )
