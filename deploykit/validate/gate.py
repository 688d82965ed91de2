"""The order in which things are asked, so that no two large models are in memory longer than they must be."""

import gc
from collections.abc import Mapping, Sequence
from typing import Final

from deploykit.artifact import Artifact
from deploykit.config import ValidateConfig
from deploykit.errors import ParityError, QualityError
from deploykit.progress import Progress, silent
from deploykit.spec import LOGITS, Precision
from deploykit.validate.cases import Rows
from deploykit.validate.decoder import Decoder, FloatArray
from deploykit.validate.pairs import answered, make_pair_rows
from deploykit.validate.parity import (
    OpenReference,
    check_half,
    check_parity,
    check_steps,
    own_logits,
    reference_logits,
)
from deploykit.validate.quality import Measured, Quality, Text, measure, summary
from deploykit.validate.report import Report, Verdict
from deploykit.validate.slices import slices
from deploykit.validate.text import make_rows, read_text


def check(
    artifact: Artifact,
    reference: OpenReference | None,
    config: ValidateConfig,
    report: Report,
    *,
    progress: Progress = silent,
) -> None:
    """Fill in the report, as far as the limits let it come.

    Raises:
        ParityError: a limit is passed; the report says so, too.
    """
    try:
        report.text = read_text(artifact, config)
        text, measured = _measure(artifact, reference, config, report.text, report, progress)
        _judge(artifact, config, text, measured, report)
    except ParityError as error:
        report.failures.append(str(error))
        raise


def _measure(
    artifact: Artifact,
    reference: OpenReference | None,
    config: ValidateConfig,
    text: Text,
    report: Report,
    progress: Progress,
) -> tuple[Text, Measured]:
    """Return the text, with the answers of fp32 where it has none, and what was measured on it."""
    spec = artifact.manifest.decoder
    rows = make_pair_rows(text, spec) if spec.encoder else make_rows(text, spec.max_context, spec.vocab_size)
    known = _ask(reference, rows, progress)
    fp32 = Decoder.of(artifact, "fp32")
    report.cases["fp32"] = check_parity(fp32, rows, known, config.atol, progress=progress)
    others: dict[Precision, Decoder] = {
        precision: Decoder.of(artifact, precision) for precision in artifact.precisions() if precision != "fp32"
    }
    exact = known or own_logits(fp32, rows)
    for precision, decoder in others.items():
        report.cases[precision] = _consistent(precision, decoder, rows, exact, config, progress)
    del known, exact
    report.text = text = answered(text, fp32, config.tokens, progress=progress)
    return text, measure(fp32, others, text, progress=progress)


def _ask(reference: OpenReference | None, rows: Rows, progress: Progress) -> list[FloatArray] | None:
    """Return the reference's logits of each row, and leave nothing else of it in memory."""
    if reference is None:
        return None
    progress("ask the reference", 0, 0)
    logits = reference_logits(rows, reference())
    # A PyTorch model holds itself in cycles.
    gc.collect()
    progress("ask the reference", 1, 1)
    return logits


def _consistent(
    precision: Precision,
    decoder: Decoder,
    rows: Rows,
    exact: Sequence[FloatArray],
    config: ValidateConfig,
    progress: Progress,
) -> dict[str, object]:
    if precision == "fp16":
        return check_half(precision, decoder, rows, exact, config.atol, progress=progress)
    return check_steps(precision, decoder, rows, exact, config.atol, progress=progress)


def _judge(artifact: Artifact, config: ValidateConfig, text: Text, measured: Measured, report: Report) -> None:
    vocab_size = artifact.manifest.decoder.vocab_size
    for precision, scores in measured.scores.items():
        quality = summary(scores)
        trained = text.known(quality, vocab_size)
        report.verdicts[precision] = Verdict(
            quality=quality,
            trained=trained,
            failure=_failure(precision, quality, text, config) if trained else None,
            slices=tuple(slices(measured, scores, text, vocab_size, config)),
            cache_errors=tuple(measured.caches[precision].tolist()),
        )
    failures = [verdict.failure for verdict in report.verdicts.values() if verdict.failure]
    if failures:
        raise QualityError(failures[0])


_MORE_BITS: Final = "use --quantize int8"
_REMEDY: Final[Mapping[Precision, str]] = {
    "int4": "use --rounding gptq --sensitive 25, or int8",
    "int4-fp16": "use --rounding gptq --sensitive 25, or fp16",
    "int8": "use --quantize none",
    "fp16": "use --quantize none",
}
"""What keeps more of the quality."""


def _failure(precision: Precision, quality: Quality, text: Text, config: ValidateConfig) -> str | None:
    for name, value, limit, option in (
        ("mean KL divergence from fp32", quality.kl, config.max_kl, "--max-kl"),
        ("growth of perplexity", quality.perplexity_loss, config.max_perplexity_loss, "--max-perplexity-loss"),
    ):
        # Written so that NaN fails.
        if not value <= limit:
            return (
                f"{LOGITS} of the {precision} model: {name} = {value:.3g} > {limit:.3g} in case 'text' "
                f"({quality.tokens} tokens of {text.name}, perplexity {quality.perplexity_fp32:.4g} -> "
                f"{quality.perplexity:.4g}); {_REMEDY.get(precision, _MORE_BITS)}, or allow more with {option}"
            )
    return None
