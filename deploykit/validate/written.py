"""Triton's texts beside ours: the same prompts, tokenized and decoded on both sides."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from deploykit.artifact import Artifact
from deploykit.config import ValidateConfig
from deploykit.engine.text import Codec, Detokenizer
from deploykit.errors import ConfigError, ParityError
from deploykit.spec import Precision
from deploykit.validate.against import STEPS, Compared, allowed_atol, by_itself, leads, prompts
from deploykit.validate.decoder import Decoder
from deploykit.validate.parity import DECIDED, tolerance
from deploykit.validate.peers.triton import Triton, Written

ALONE, TOGETHER = "each prompt alone", "all prompts at once"
_LONGEST: Final = 64
"""Most tokens of a prompt: what the engine runs in one piece (`EngineConfig.prefill_chunk`), as `expect` does."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """Our own greedy continuation of a prompt."""

    prompt: str
    num_input_tokens: int
    texts: tuple[str, ...]
    """The text up to and with each token; the last one is whole."""
    logprob: float
    leads: tuple[float, ...]
    """By how much each token's logit led the second."""
    allowed: float
    """Largest difference of a logit."""


def against_triton(artifact: Artifact, precision: Precision, config: ValidateConfig) -> Compared:
    """Return how the texts of a real Triton compare with ours.

    Raises:
        ConfigError: another precision is packaged, or there is no tokenizer.
        ParityError: a text or its log-probability differs.
    """
    if precision != artifact.manifest.served:
        raise ConfigError(
            f"--against triton runs what is packaged, {artifact.manifest.served}, not {precision}; "
            f"quantize to {precision} and package that first"
        )
    if artifact.tokenizer is None:
        raise ConfigError(f"{artifact.path}: no tokenizer.json, and Triton takes text; compare with --against genai")
    codec, decoder = Codec.open(artifact.tokenizer), Decoder(artifact.graph(precision), artifact.contract(precision))
    atol = allowed_atol(precision, config)
    texts = [codec.decode(row[:_LONGEST].tolist()) for row in prompts(artifact, config).all()]
    wanted = [expect(text, codec, decoder, atol) for text in texts if text]
    cases = {ALONE: False}
    if by_itself(artifact.graph(precision)):
        cases[TOGETHER] = True
    with Triton.open(artifact) as triton:
        version = f"triton {triton.version()}"
        found = {
            name: _judged(
                version, name, wanted, triton.write(name, [w.prompt for w in wanted], tokens=STEPS, at_once=at_once)
            )
            for name, at_once in cases.items()
        }
    allowed = max(w.allowed for w in wanted)
    return Compared(runtime=version, onnxruntime=None, precision=precision, allowed=allowed, cases=found)


def expect(prompt: str, codec: Codec, decoder: Decoder, atol: float) -> Expected:
    """Return our continuation of a prompt by `STEPS` tokens."""
    tokens = codec.encode(prompt)
    given, pieces = Detokenizer(codec, tokens), [""]
    ids, done, past, seen, logprob = np.array([tokens]), len(tokens), None, [], 0.0
    for _ in range(STEPS):
        logits, past = decoder.run(ids, np.ones((1, done), np.int64), past)
        row = logits[0, -1].astype(np.float64)
        token = int(row.argmax())
        logprob -= float(np.log(np.exp(row - row[token]).sum()))
        pieces.append(pieces[-1] + given.push(token))
        seen.append(logits[0, -1:])
        ids, done = np.array([[token]]), done + 1
    pieces[-1] += given.finish()
    return Expected(
        prompt=prompt,
        num_input_tokens=len(tokens),
        texts=tuple(pieces[1:]),
        logprob=logprob,
        leads=tuple(float(leads(row)[0]) for row in seen),
        allowed=tolerance(seen, atol),
    )


def _judged(runtime: str, case: str, wanted: list[Expected], got: list[Written]) -> dict[str, Any]:
    worst, equal, count = 0.0, 0, 0
    for number, (ours, theirs) in enumerate(zip(wanted, got, strict=True)):
        if (theirs.num_input_tokens, theirs.num_output_tokens) != (ours.num_input_tokens, STEPS):
            raise ParityError(
                f"tokens: {runtime} counts {theirs.num_input_tokens} of prompt and {theirs.num_output_tokens} of "
                f"answer instead of {ours.num_input_tokens} and {STEPS} in case {case!r} (prompt {number}); "
                "package the artifact again"
            )
        same = _equal_tokens(ours, theirs.text)
        count, equal = count + STEPS, equal + same
        if same < STEPS:
            if ours.leads[same] > DECIDED * ours.allowed:
                raise ParityError(
                    f"tokens: {runtime} writes {theirs.text!r} instead of {ours.texts[-1]!r} in case {case!r} (prompt "
                    f"{number}, from token {same} on); package the artifact again"
                )
            continue
        gap = abs(theirs.logprob - ours.logprob) / STEPS
        # Written so that NaN fails. Two logits' errors meet in a log-probability.
        if not gap <= 2 * ours.allowed:
            raise ParityError(
                f"log-probability: |{runtime} - onnx| = {gap:.3g} > {2 * ours.allowed:.3g} a token in case {case!r} "
                f"(prompt {number}); package the artifact again"
            )
        worst = max(worst, gap)
    return {
        "max_abs_error": float(f"{worst:.3g}"),
        "allowed": 2 * max(w.allowed for w in wanted),
        "tokens": count,
        "equal": equal / count,
    }


def _equal_tokens(ours: Expected, text: str) -> int:
    """Return how many tokens are surely the same: those whose text the other begins with."""
    if text == ours.texts[-1]:
        return STEPS
    return next((at for at, piece in enumerate(ours.texts) if not text.startswith(piece)), STEPS - 1)
