"""The same artifact in another runtime: greedy generations of its own, judged token by token by ONNX Runtime here.

The other side runs as it likes: its own cache, its own padding, its own way through the graph. What it wrote is then
run here, each row alone, and each of its logits must be ours. So a difference late in a text is found, too, and two
runtimes that part ways at a tie are no failure.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import onnx_ir as ir

from deploykit.artifact import Artifact
from deploykit.config import ValidateConfig
from deploykit.errors import ConfigError, ParityError
from deploykit.external import check_external_data
from deploykit.progress import Progress, silent
from deploykit.spec import LOGITS, DecoderSpec, Precision
from deploykit.validate.bisect import check_decoder_only
from deploykit.validate.cases import Rows
from deploykit.validate.decoder import Decoder, FloatArray, IntArray
from deploykit.validate.parity import DECIDED, tolerance
from deploykit.validate.peers.process import Generated, generate
from deploykit.validate.text import make_rows, read_text

Runtime = Literal["triton", "genai", "optimum", "onnxruntime"]
STEPS: Final = 8
"""Tokens generated from each prompt."""
OTHER_KERNELS: Final = 1e-1
"""Tolerance of a precision below fp32, in place of `atol`. The same kernels on the same batch agree to 1e-5; those for
another batch or of another version may round an activation the other way, each time by 1/127 of its block's largest
value: up to 0.045 was seen on small random models."""
ONE, SHORT, RAGGED = "one prompt", "one token", "ragged batch"


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A runtime beside ours."""

    runtime: str
    """Its name and version."""
    onnxruntime: str | None
    """The version of ONNX Runtime below it, where it tells."""
    precision: Precision
    allowed: float
    """Largest difference of a logit (Triton: of a token's log-probability, in the mean)."""
    cases: Mapping[str, Mapping[str, Any]]
    """By name: `max_abs_error`, `tokens` compared, and the share of them that are `equal`."""

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {
            "runtime": self.runtime,
            "onnxruntime": self.onnxruntime,
            "precision": self.precision,
            "allowed": self.allowed,
            "cases": {name: dict(case) for name, case in self.cases.items()},
        }


def against(
    source: Artifact | str,
    runtime: Runtime,
    config: ValidateConfig | None = None,
    *,
    precision: Precision | None = None,
    python: Path | None = None,
    progress: Progress = silent,
) -> Compared:
    """Return how another runtime's generations compare with ours, in every case.

    Args:
        source: an artifact, or the path of one, which is then verified.
        runtime: `triton` runs what is packaged; `genai`, `optimum` and `onnxruntime` run the folder.
        config: tolerance, and the text that prompts are cut from.
        precision: which graph; the served one where None.
        python: the interpreter of an environment that has the runtime; this one where None.
        progress: told what runs.

    Raises:
        ParityError: a logit or a token differs, or the runtime fails; the case is named.
        ConfigError: the runtime isn't there, can't run that precision, or isn't asked about encoder-decoders.
        ArtifactError: `source` is no sound artifact, or lacks the graph.
    """
    config = config or ValidateConfig()
    artifact = source if isinstance(source, Artifact) else Artifact.open(source)
    check_decoder_only(artifact, "--against")
    wanted = precision or artifact.manifest.served
    # The other runtime may follow a path that leads out of the folder.
    check_external_data(artifact.graph(wanted))
    progress(f"run in {runtime}", 0, 0)
    if runtime == "triton":
        from deploykit.validate.written import against_triton

        compared = against_triton(artifact, wanted, config)
    else:
        compared = _against_process(artifact, wanted, runtime, config, python)
    progress(f"run in {runtime}", 1, 1)
    return compared


def prompts(artifact: Artifact, config: ValidateConfig) -> Rows:
    """Return rows of text with room for `STEPS` more tokens, none of them with a meaning of its own."""
    spec = artifact.manifest.decoder
    if spec.max_context <= STEPS:
        raise ConfigError(f"a context of {spec.max_context} tokens leaves no room for {STEPS} more; use a longer one")
    rows = make_rows(read_text(artifact, config), spec.max_context - STEPS, spec.vocab_size)
    special = {pad_token(spec), *spec.eos_token_ids}
    usual = next((token for token in range(spec.vocab_size) if token not in special), 0)
    long, *ragged = (np.where(np.isin(row, list(special)), usual, row) for row in rows.all())
    return Rows(long=long, ragged=tuple(ragged))


def pad_token(spec: DecoderSpec) -> int:
    """Return the token that fills up a batch, as genai_config.json names it."""
    return spec.pad_token_id if spec.pad_token_id is not None else (*spec.eos_token_ids, 0)[0]


def by_itself(graph: Path) -> bool:
    """Return whether a row's logits are its own business: not so where all rows share a scale of activations.

    So it was in dynamic-int8 graphs of earlier exports.
    """
    return all(node.op_type != "DynamicQuantizeLinear" for node in ir.load(graph).graph.all_nodes())


def allowed_atol(precision: Precision, config: ValidateConfig) -> float:
    """Return the tolerance of a precision beside itself in another runtime."""
    return config.atol if precision == "fp32" else OTHER_KERNELS


def _against_process(
    artifact: Artifact, precision: Precision, runtime: str, config: ValidateConfig, python: Path | None
) -> Compared:
    spec = artifact.contract(precision)
    rows = prompts(artifact, config)
    cases = {ONE: [rows.long], SHORT: [rows.ragged[0][:1]]}
    # A batch in which a request's neighbours change its tokens can't be compared with each row alone.
    if by_itself(artifact.graph(precision)) and (spec.padding == "both" or runtime == "genai"):
        cases[RAGGED] = list(rows.ragged)
    answers = generate(artifact, precision, runtime, cases, steps=STEPS, pad=pad_token(spec), python=python)
    decoder = Decoder(artifact.graph(precision), spec)
    atol, allowed, found = allowed_atol(precision, config), 0.0, {}
    for name, case in cases.items():
        judged = _judged(answers.runtime, name, decoder, case, answers.cases[name], atol)
        allowed, found[name] = max(allowed, judged["allowed"]), judged
    return Compared(
        runtime=answers.runtime, onnxruntime=answers.onnxruntime, precision=precision, allowed=allowed, cases=found
    )


def _judged(
    runtime: str, case: str, decoder: Decoder, rows: Sequence[IntArray], got: Generated, atol: float
) -> dict[str, Any]:
    """Return a case's figures.

    Raises:
        ParityError: a logit is further off than allowed, or a token isn't the one that its logits say.
    """
    parts = list(_beside(decoder, rows, got))
    allowed = tolerance([truth for truth, _, _ in parts], atol)
    worst, equal, count = 0.0, 0, 0
    for number, (truth, logits, tokens) in enumerate(parts):
        gaps = np.abs(logits - truth).max(axis=-1)
        at = int(np.where(np.isnan(gaps), np.inf, gaps).argmax())
        # Written so that NaN fails.
        if not gaps[at] <= allowed:
            raise ParityError(
                f"{LOGITS}: max |{runtime} - onnx| = {gaps[at]:.3g} > {allowed:.3g} in case {case!r} (row {number}, "
                f"token {at} of its answer); the runtime reads the graph or pads rows in another way, see "
                "docs/architecture/03-the-graph.md"
            )
        same = tokens == truth.argmax(axis=-1)
        wrong = np.flatnonzero(~same & (leads(truth) > DECIDED * allowed))
        if len(wrong):
            raise ParityError(
                f"tokens: {runtime} chose {tokens[wrong[0]]} where its logits say {truth[wrong[0]].argmax()} in case "
                f"{case!r} (row {number}, token {wrong[0]} of its answer); does its configuration ask for sampling?"
            )
        worst, equal, count = max(worst, float(gaps[at])), equal + int(same.sum()), count + len(same)
    return {"max_abs_error": float(f"{worst:.3g}"), "allowed": allowed, "tokens": count, "equal": equal / count}


def _beside(
    decoder: Decoder, rows: Sequence[IntArray], got: Generated
) -> Iterator[tuple[FloatArray, FloatArray, IntArray]]:
    """Yield our logits, theirs, and their tokens, of each row up to its end-of-text token."""
    for row, tokens, logits in zip(rows, got.tokens, got.logits, strict=True):
        ends = np.flatnonzero(np.isin(tokens, decoder.spec.eos_token_ids))
        length = int(ends[0]) + 1 if len(ends) else len(tokens)
        yield _followed(decoder, row, tokens[: length - 1]), logits[:length], tokens[:length]


def _followed(decoder: Decoder, row: IntArray, answer: IntArray) -> FloatArray:
    """Return our logits [n + 1, V] behind a prompt and each of n tokens after it, step by step as runtimes run them.

    In one piece they would differ by more than two runtimes do: a kernel for one row rounds otherwise than one for
    many.
    """
    logits, past = decoder.run(row[None], np.ones((1, len(row)), np.int64))
    parts = [logits[0, -1:]]
    for at, token in enumerate(answer, start=len(row) + 1):
        logits, past = decoder.run(np.array([[token]]), np.ones((1, at), np.int64), past)
        parts.append(logits[0])
    return np.concatenate(parts)


def leads(logits: FloatArray) -> FloatArray:
    """Return by how much the best token of each position leads the second."""
    best = np.partition(logits, -2, axis=-1)[..., -2:]
    return np.asarray(best[..., 1] - best[..., 0])
