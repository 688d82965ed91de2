"""What an encoder-decoder is measured on: sources and their answers, of a text or fp32's own."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from tokenizers import Tokenizer

from deploykit.artifact import Artifact
from deploykit.config import ValidateConfig
from deploykit.errors import ArtifactError, ConfigError
from deploykit.progress import Progress, silent
from deploykit.spec import DecoderSpec, EncoderSpec
from deploykit.text import CHARACTERS, load_tokenizer, read_start
from deploykit.validate.cases import Rows, row_lengths
from deploykit.validate.decoder import Decoder, IntArray
from deploykit.validate.quality import Sample, Text
from deploykit.validate.scripts import NO_LETTERS, scripts_of

DEFAULT: Final = "Python's documentation, as fp32 answers it"
ANSWER: Final = 64
"""Most tokens of an answer of fp32's own, and of the prose it is an answer to."""
TOGETHER: Final = 8
"""Sources answered at once."""
_LEAST: Final = 40
"""Characters of a paragraph of prose that is worth asking."""
_SEED: Final = 22


def read_pairs(artifact: Artifact, config: ValidateConfig) -> Text:
    """Return sources with answers of `config.tokens` tokens in all, as many of each text; random without a tokenizer.

    A line of a text is a source, a tab and its answer; or a source alone, whose answer `answered` asks of the model.

    Raises:
        ArtifactError: the tokenizer can't be read, or gives ids the model doesn't have.
        ConfigError: a text can't be read, has no line, or mixes lines with and without a tab.
    """
    spec, encoder = artifact.manifest.decoder, _encoder(artifact.manifest.decoder)
    if artifact.tokenizer is None:
        return Text(
            name="random tokens",
            samples=tuple(_random(spec, encoder, config.tokens)),
            prefix=encoder.decoder_prompt,
            natural=False,
        )
    tokenizer, files = load_tokenizer(artifact.tokenizer), config.text_files()
    count = max(2, config.tokens // (len(files) or 1))
    samples = [sample for label, file in files.items() for sample in _of_file(tokenizer, label, file, count, spec)]
    if not files:
        samples = [_sample(tokenizer, "English prose", source, None, spec) for source in _prose(count)]
    ids = np.concatenate([part for sample in samples for part in (sample.ids, sample.source) if part is not None])
    if ids.max(initial=0) >= spec.vocab_size:
        raise ArtifactError(
            f"{artifact.tokenizer}: gives token {ids.max()}, but the model has only {spec.vocab_size}; the tokenizer "
            "belongs to another model"
        )
    name = ", ".join(file.name for file in files.values()) or DEFAULT
    return Text(name=name, samples=tuple(samples), prefix=encoder.decoder_prompt)


def answered(text: Text, fp32: Decoder, tokens: int, *, progress: Progress = silent) -> Text:
    """Return the text with fp32's own best answers where it has none, as many as give so many tokens.

    A text that has its answers, or no sources, is returned as it is.
    """
    if all(len(sample.ids) for sample in text.samples):
        return text
    found: list[Sample] = []
    for start in range(0, len(text.samples), TOGETHER):
        done = sum(len(sample.ids) for sample in found)
        if done >= tokens:
            break
        progress("answer", done, tokens)
        asked = text.samples[start : start + TOGETHER]
        reading = fp32.read([sample.source for sample in asked if sample.source is not None])
        answers = _answers(reading, text.prefix, len(asked))
        found += [replace(sample, ids=answer) for sample, answer in zip(asked, answers, strict=True)]
    progress("answer", tokens, tokens)
    return replace(text, samples=tuple(found), own=True)


def make_pair_rows(text: Text, spec: DecoderSpec) -> Rows:
    """Return rows that begin as answers do, each with a source: the longer a ragged row, the shorter its source."""
    encoder = _encoder(spec)
    sources = np.concatenate([sample.source for sample in text.samples if sample.source is not None])
    long, ragged = row_lengths(spec.max_context)
    source_long, source_ragged = row_lengths(encoder.max_source)
    prompt = np.array(encoder.decoder_prompt, np.int64)
    rows = [
        np.concatenate([prompt, row])[: len(row)]
        for row in _cut(text.ids if len(text.ids) else sources, (long, *ragged), spec.vocab_size)
    ]
    read = _cut(sources, (source_long, *source_ragged[::-1]), spec.vocab_size)
    return Rows(long=rows[0], ragged=tuple(rows[1:]), sources=tuple(read))


def _encoder(spec: DecoderSpec) -> EncoderSpec:
    assert spec.encoder is not None
    return spec.encoder


def _cut(ids: IntArray, lengths: Sequence[int], vocab_size: int) -> list[IntArray]:
    """Return pieces of these lengths, cut from the ids where they are long enough, else random."""
    if len(ids) < sum(lengths):
        ids = np.random.default_rng(_SEED).integers(0, vocab_size, sum(lengths))
    ends = np.cumsum(lengths)
    return np.split(ids[: ends[-1]], ends[:-1])


def _random(spec: DecoderSpec, encoder: EncoderSpec, tokens: int) -> Iterator[Sample]:
    """Yield pairs of random tokens, `tokens` of them in the answers."""
    numbers = np.random.default_rng(_SEED)
    length = min(ANSWER, spec.max_context, encoder.max_source)
    for start in range(0, tokens, length):
        source, ids = numbers.integers(0, spec.vocab_size, (2, length))
        yield Sample(label="random tokens", ids=ids[: tokens - start], source=source)


def _of_file(tokenizer: Tokenizer, label: str, file: Path, count: int, spec: DecoderSpec) -> Iterator[Sample]:
    """Yield the pairs of a text until their answers have `count` tokens, or as many sources where it has no answers.

    Raises:
        ConfigError: it has no line, or some with and some without a tab.
    """
    _, content = read_start(file, 4 * CHARACTERS * count, option="--text")
    # Nothing else ends a line: texts may hold what `splitlines` would take for an end, such as U+2028.
    lines = [(number, line) for number, line in enumerate(content.split("\n"), start=1) if line.strip()]
    if not lines:
        raise ConfigError(f"text {file}: no line in it; give lines of SOURCE<TAB>ANSWER, or of sources alone")
    (first, sample), tokens = lines[0], 0
    paired = "\t" in sample
    for number, line in lines:
        source, tab, answer = line.partition("\t")
        if bool(tab) != paired:
            has, hasnt = (first, number) if paired else (number, first)
            raise ConfigError(
                f"text {file}: line {has} has a tab and line {hasnt} has none; give SOURCE<TAB>ANSWER in every line, "
                "or sources alone"
            )
        found = _sample(tokenizer, label, source, answer if paired else None, spec)
        yield found
        # A source alone will have an answer of a token at least.
        tokens += len(found.ids) or 1
        if tokens >= count:
            return


def _sample(tokenizer: Tokenizer, label: str, source: str, answer: str | None, spec: DecoderSpec) -> Sample:
    """Return a pair as the model reads it: special tokens around the source, an end behind the answer."""
    read = _shortened(tokenizer.encode(source).ids, _encoder(spec).max_source)
    if answer is None:
        return Sample(label=label, ids=np.zeros(0, np.int64), source=read)
    found = tokenizer.encode(answer, add_special_tokens=False)
    ends = spec.eos_token_ids[:1]
    return Sample(
        label=label,
        ids=np.array([*found.ids, *ends], np.int64),
        scripts=(*scripts_of(answer, found.offsets), *(NO_LETTERS for _ in ends)),
        source=read,
    )


def _shortened(ids: Sequence[int], length: int) -> IntArray:
    """Return a source that the encoder can hold: of a longer one the beginning, and its last token, which ends it."""
    kept = [*ids] if len(ids) <= length else [*ids[: length - 1], ids[-1]]
    return np.array(kept or [0], np.int64)


def _prose(count: int) -> Iterable[str]:
    """Return paragraphs of prose, each short enough to be read whole; enough for answers of so many tokens."""
    _, content = read_start(None, CHARACTERS * max(count, 1 << 12), option="--text")
    for paragraph in content.split("\n\n"):
        words = " ".join(paragraph.split())
        if len(words) >= _LEAST:
            yield words[: 4 * ANSWER]


def _answers(reading: Decoder, prompt: Sequence[int], rows: int) -> list[IntArray]:
    """Return the best token after the best token of each row, up to and with its end."""
    spec = reading.spec
    ids, past, total = np.tile(np.array(prompt, np.int64), (rows, 1)), None, len(prompt)
    steps: list[IntArray] = []
    ended = np.zeros(rows, np.bool_)
    while not ended.all() and len(steps) < ANSWER and total < spec.max_context:
        logits, past = reading.run(ids, np.ones((rows, total), np.int64), past)
        best = logits[:, -1].argmax(axis=-1)
        steps.append(best)
        ended |= np.isin(best, spec.eos_token_ids)
        ids, total = best[:, None], total + 1
    return [_until_end(row, spec) for row in np.stack(steps, axis=1)]


def _until_end(row: IntArray, spec: DecoderSpec) -> IntArray:
    ends = np.flatnonzero(np.isin(row, spec.eos_token_ids))
    return row[: ends[0] + 1] if len(ends) else row
