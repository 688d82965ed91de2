"""Encoder-decoders: PyTorch's answers, alone and among others, whatever is set aside, cancelled or refused beside."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from engines import SMALL, Ask, together, tokens_of
from numpy.typing import NDArray
from seq2seq_models import make_pair
from transformers import AutoModelForSeq2SeqLM

from deploykit.artifact import Artifact
from deploykit.config import EngineConfig, QuantizeConfig
from deploykit.convert import convert, torch_reference
from deploykit.engine import Engine, Event, Listener, Request, SamplingParams
from deploykit.engine.budget import Budget
from deploykit.engine.decoder import Decoder, make_decoder
from deploykit.engine.job import Batch, Drop, Job, Load, Move, Save
from deploykit.engine.scheduler import Scheduler
from deploykit.engine.session import open_encoder, open_session
from deploykit.errors import ConfigError, RequestError
from deploykit.quantize import quantize

FAMILIES: dict[str, dict[str, Any]] = {
    "deploykit_transformer": {"norm_first": True, "share_embeddings": False},
    "t5": {"scale": 0.3},
    "mbart": {"forced_bos_token_id": 7},
}
GREEDY = SamplingParams(max_tokens=30, ignore_eos=True)
Reference = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Artifact]]:
    """Return what gives a family's checkpoint, and the artifact made of it."""
    root = tmp_path_factory.mktemp("pairs")

    @cache
    def made(family: str) -> tuple[Path, Artifact]:
        checkpoint = make_pair(root / family, family, **FAMILIES[family])
        return checkpoint, convert(checkpoint, root / f"{family}-onnx")

    return made


@pytest.fixture(scope="session")
def own(pairs: Callable[[str], tuple[Path, Artifact]]) -> Artifact:
    return pairs("deploykit_transformer")[1]


def beginning(artifact: Artifact) -> tuple[int, ...]:
    encoder = artifact.manifest.decoder.encoder
    assert encoder
    return encoder.decoder_prompt


def ragged(dice: random.Random) -> tuple[list[int], SamplingParams]:
    source = [dice.randrange(3, 318) for _ in range(dice.choice([1, 2, 3, 5, 8, 13, 21, 34, 55, 90]))]
    return source, SamplingParams(max_tokens=dice.randrange(4, 36), ignore_eos=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_is_answered_as_transformers_answers_it(
    family: str, pairs: Callable[[str], tuple[Path, Artifact]]
) -> None:
    """With the end that the tokenizer adds to a source, and the beginning that the model wants of every answer."""
    checkpoint, artifact = pairs(family)
    model = AutoModelForSeq2SeqLM.from_pretrained(checkpoint).eval()
    begun = beginning(artifact)
    with Engine.open(artifact.path, SMALL) as engine:
        for text in ("Grüße, 你好", "for number in range(10):\n    print(greet(number))\n"):
            source = engine.encode(text)
            assert source[-1] == 1
            for penalty in (1.0, 1.3):
                params = SamplingParams(max_tokens=20, repetition_penalty=penalty)
                answer = engine.generate(text, params)
                options = {"do_sample": False, "num_beams": 1, "max_new_tokens": 20 + len(begun) - 1}
                with torch.no_grad():
                    wanted = model.generate(torch.tensor([source]), repetition_penalty=penalty, **options)[0].tolist()
                assert tuple(wanted[: len(begun)]) == begun
                assert list(answer.token_ids) == wanted[len(begun) :]
                assert answer.num_input_tokens == len(source)


@pytest.mark.parametrize("family", FAMILIES)
def test_sixty_at_once_are_each_as_if_alone_and_as_pytorch(
    family: str, pairs: Callable[[str], tuple[Path, Artifact]]
) -> None:
    """Ragged sources beside ragged answers, in a cache too small for the rows, so that some are set aside."""
    checkpoint, artifact = pairs(family)
    dice = random.Random(family)
    asks: list[Ask] = [ragged(dice) for _ in range(60)]
    tight = 320 * artifact.manifest.decoder.cache_bytes_per_token()
    config = EngineConfig(max_rows=16, prefill_chunk=16, threads=1, cache_memory=tight)
    with Engine.open(artifact.path, config) as engine:
        answers = [tokens_of(events) for events in together(engine, asks)]
        stats = engine.stats()
        assert stats.preemptions > 0
        assert (stats.running, stats.waiting, stats.parked, stats.used_tokens) == (0, 0, 0, 0)
        assert [engine.generate(*ask).token_ids for ask in asks] == answers
    assert len(set(answers)) > 50, "an equality of constants proves nothing"
    reference, begun = torch_reference(checkpoint), beginning(artifact)
    for (source, _), answer in zip(asks, answers, strict=True):
        logits = reference(np.array([*begun, *answer[:-1]]), np.array(source))
        assert tuple(logits[len(begun) - 1 :].argmax(axis=1)) == answer


@pytest.mark.parametrize("precision", ["int8", "dynamic-int8"])
def test_quantized_answers_differ_in_company_where_two_tokens_are_all_but_equal_and_nowhere_else(
    precision: Literal["int8", "dynamic-int8"], own: Artifact, tmp_path: Path
) -> None:
    artifact = quantize(own, tmp_path / precision, QuantizeConfig(precision=precision))
    dice = random.Random(3)
    asks: list[Ask] = [ragged(dice) for _ in range(40)]
    with Engine.open(artifact.path, EngineConfig(max_rows=16, threads=1), precision=precision) as engine:
        answers = [tokens_of(events) for events in together(engine, asks)]
        alone = [engine.generate(ask[0], replace(ask[1], logprobs=3)) for ask in asks]
    assert len(set(answers)) > 35
    other = [pair for pair in zip(answers, alone, strict=True) if pair[0] != pair[1].token_ids]
    assert len(other) <= 4
    for tokens, completion in other:
        # Padding moves the last bit of a sum, and what rounds to eight bits makes more of that.
        place = next(i for i, token in enumerate(tokens) if token != completion.token_ids[i])
        likely = {token: logprob for token, _, logprob in completion.logprobs[place].top}
        assert max(likely.values()) - likely[tokens[place]] < 0.02


class Counting:
    """A session that counts its runs."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.runs = 0

    def run_with_ort_values(self, *args: Any) -> Any:
        self.runs += 1
        return self._session.run_with_ort_values(*args)


def counted(engine: Engine) -> Counting:
    decoder: Any = engine._loop._decoder
    counting = decoder._encoder = Counting(decoder._encoder)
    return counting


def test_a_source_is_read_once_for_all_answers_to_it(own: Artifact) -> None:
    params = SamplingParams(max_tokens=20, n=5, temperature=1.5, seed=3, ignore_eos=True)
    with Engine.open(own.path, SMALL) as engine:
        runs = counted(engine)
        answers = [answer.token_ids for answer in engine.choices("greet", params)]
        assert runs.runs == 1
        assert len(set(answers)) == 5
        assert engine.choices("greet", replace(params, n=1))[0].token_ids == answers[0]
        assert runs.runs == 2, "what has left is read again"


def test_penalties_know_nothing_of_the_source(own: Artifact) -> None:
    """The likeliest first token would be pushed far down if it counted as said already."""
    with Engine.open(own.path, SMALL) as engine:
        likeliest = SamplingParams(max_tokens=1, logprobs=0)
        strict = replace(likeliest, repetition_penalty=50.0, presence_penalty=2.0)
        dice = random.Random(2)
        answers = {
            tuple(source): engine.generate(source, likeliest)
            for source in (dice.sample(range(3, 318), 120) for _ in range(12))
        }
        said = {source: plain for source, plain in answers.items() if plain.token_ids[0] in source}
        assert said, "none of the likeliest tokens stands in its source"
        for source, plain in said.items():
            assert engine.generate(source, strict) == plain


def test_probabilities_and_stops_are_the_answers_own(
    pairs: Callable[[str], tuple[Path, Artifact]],
) -> None:
    checkpoint, artifact = pairs("deploykit_transformer")
    begun = beginning(artifact)
    with Engine.open(artifact.path, SMALL) as engine:
        source = engine.encode("print")
        answer = engine.generate(source, replace(GREEDY, logprobs=0))
        logits = torch_reference(checkpoint)(np.array([*begun, *answer.token_ids]), np.array(source))
        scores = torch.log_softmax(torch.tensor(logits[len(begun) - 1 : -1]).double(), -1)
        wanted = float(scores.gather(1, torch.tensor(answer.token_ids)[:, None]).sum())
        assert answer.cumulative_logprob == pytest.approx(wanted, abs=1e-3)
        stop = answer.text[5:8]
        stopped = engine.generate(source, replace(GREEDY, stop=(stop,)))
        assert stopped.finish_reason == "stop"
        assert stopped.text == answer.text[: answer.text.index(stop)]


def test_who_is_cancelled_leaves_the_others_as_they_are(own: Artifact) -> None:
    dice = random.Random(5)
    asks: list[Ask] = [(ragged(dice)[0], replace(GREEDY, max_tokens=20)) for _ in range(12)]
    handles: list[Request] = []
    with Engine.open(own.path, SMALL) as engine:
        alone = [engine.generate(*ask).token_ids for ask in asks]

        def cancel_after(place: int) -> Listener:
            def heard(event: Event) -> None:
                if event.num_output_tokens > place:
                    handles[place].cancel()

            return heard

        cancel = {place: cancel_after(place) for place in (0, 3, 4, 9)}
        found = [tokens_of(events) for events in together(engine, asks, handles=handles, listeners=cancel)]
        assert found == [answer for place, answer in enumerate(alone) if place not in cancel]
        assert engine.stats().used_tokens == 0


def test_a_source_that_cannot_be_read_ends_its_own_request(own: Artifact) -> None:
    with Engine.open(own.path, SMALL) as engine:
        decoder: Any = engine._loop._decoder
        session = decoder._encoder

        class Broken(Counting):
            def run_with_ort_values(self, *args: Any) -> Any:
                if 13 in args[1]["input_ids"].numpy():
                    raise RuntimeError("broken")
                return super().run_with_ort_values(*args)

        decoder._encoder = Broken(session)
        asks: list[Ask] = [([5, token, 1], GREEDY) for token in (12, 13, 14)]
        good, bad, other = together(engine, asks)
        assert bad[-1].error == "the model failed on it (RuntimeError)"
        assert {len(tokens_of(good)), len(tokens_of(other))} == {30}
        assert engine.generate([5, 12, 1], GREEDY).token_ids == tokens_of(good)


def test_what_does_not_fit_is_refused_with_its_numbers(own: Artifact) -> None:
    with Engine.open(own.path, replace(SMALL, max_context=32)) as engine:
        assert (engine.context, engine.source) == (32, 32)
        assert engine.generate([5] * 32, SamplingParams(max_tokens=99, ignore_eos=True)).num_output_tokens == 31
        with pytest.raises(RequestError, match=r"the prompt has 33 tokens, but the encoder reads at most 32; shorten"):
            engine.generate([5] * 33)
        with pytest.raises(RequestError, match="at least 40 tokens, but the encoder reads at most 32"):
            engine.generate("x" * 40 * engine._codec.longest if engine._codec else "")
        with pytest.raises(RequestError, match="token id 318 is not one of the model's"):
            engine.generate([318])
        with pytest.raises(RequestError, match="the prompt is empty"):
            engine.generate("")


def test_a_budget_holds_sources_beside_answers(own: Artifact) -> None:
    spec = own.manifest.decoder
    size = spec.cache_bytes_per_token()
    whole = Budget.of(spec, EngineConfig(max_rows=3))
    assert (whole.tokens, whole.context, whole.source, whole.bytes) == (3 * 256, 128, 128, 3 * 256 * size)
    tight = Budget.of(spec, EngineConfig(cache_memory=100 * size))
    assert (tight.tokens, tight.context, tight.source) == (96, 48, 48)
    with pytest.raises(ConfigError, match=r"holds 16 tokens of [\d,]+ bytes, and a row of this model needs 32"):
        Budget.of(spec, EngineConfig(cache_memory=20 * size))
    with pytest.raises(ConfigError, match=r"needs 128: give .* or lower max_context"):
        Budget.of(spec, EngineConfig(cache_memory=100 * size, max_context=64))
    long_beginning = replace(spec, encoder=replace(spec.encoder, decoder_prompt=(0, 7)) if spec.encoder else None)
    with pytest.raises(ConfigError, match="more than the 2 tokens that every answer of this model begins with, got 2"):
        Budget.of(long_beginning, EngineConfig(max_context=2))


def decoder_of(artifact: Artifact, *, tokens: int = 10_000) -> Decoder:
    spec = artifact.manifest.decoder
    return make_decoder(
        open_session(artifact, threads=1),
        spec,
        rows=4,
        capacity=64,
        cache_bytes=tokens * spec.cache_bytes_per_token(),
        encoder=open_encoder(artifact, threads=1),
    )


@pytest.mark.parametrize("chunk", [1, 3])
def test_every_row_gets_pytorchs_logits_whatever_runs_beside(
    chunk: int, pairs: Callable[[str], tuple[Path, Artifact]]
) -> None:
    """Jobs of many lengths join and leave, are set aside and come back; a beginning of two tokens is cut in two."""
    checkpoint, artifact = pairs("mbart")
    decoder, reference = decoder_of(artifact, tokens=112), torch_reference(checkpoint)
    dice = np.random.default_rng(0)
    scheduler = Scheduler(max_rows=4, max_queue=100, chunk=chunk, cache_tokens=112)
    sources = [tuple(dice.integers(3, 318, length).tolist()) for length in (5, 40, 1, 17, 33, 2, 8)]
    jobs = [Job(beginning(artifact), source=source) for source in sources]
    lifetimes = dict(zip(jobs, (25, 19, 30, 26, 20, 28, 15), strict=True))
    scheduler.add(*jobs)
    seen: Counter[type] = Counter()
    while plan := scheduler.schedule():
        for change in plan.changes:
            seen[type(change)] += 1
            kept = decoder.apply(change)
            assert not isinstance(change, Save | Load) or kept == change.length
        logits = decoder.run(plan.batch)
        for job, row in zip(scheduler.advance(plan.batch), logits, strict=False):
            expected = reference(np.array(job.tokens), np.array(job.source))[-1]
            np.testing.assert_allclose(row, expected, atol=3e-4)
            job.tokens.append(int(dice.integers(3, 318)))
            lifetimes[job] -= 1
        for job in [job for job in plan.batch.jobs if lifetimes[job] <= 0]:
            for change in scheduler.remove(job):
                seen[type(change)] += 1
                decoder.apply(change)
    assert seen[Save] == seen[Load] > 0
    assert seen[Move] > 0
    assert decoder.cache_bytes <= 112 * artifact.manifest.decoder.cache_bytes_per_token()


def fed(decoder: Decoder, job: Job, row: int) -> NDArray[np.float32]:
    logits = decoder.run(Batch(first_row=row, jobs=(job,), new=1)).copy()
    job.cached += 1
    return logits


def test_a_row_that_was_set_aside_goes_on_bit_for_bit(own: Artifact) -> None:
    source = tuple(range(30, 50))
    undisturbed, decoder = decoder_of(own), decoder_of(own)
    alone, job, other = Job(range(9), source=source), Job(range(9), source=source), Job([0, 4], source=(7,) * 60)
    wanted = [fed(undisturbed, alone, 0) for _ in range(6)]
    found = [fed(decoder, job, 0) for _ in range(2)]
    assert decoder.apply(Save(job=job, row=0, length=2)) == 2
    fed(decoder, other, 0)
    assert decoder.apply(Load(job=job, row=1, length=2)) == 2
    found.append(fed(decoder, job, 1))
    decoder.apply(Drop(job=other, row=0))
    decoder.apply(Move(source=1, target=0, length=3))
    found += [fed(decoder, job, 0) for _ in range(3)]
    for mine, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)


def test_a_source_that_does_not_suit_the_model_reaches_nobody_elses_row(own: Artifact) -> None:
    """What a row held before lies behind a shorter source: even NaN must not come through."""
    decoder: Any = decoder_of(own)
    long, short = Job([0, 4], source=tuple(range(3, 60))), Job([0, 4], source=(5, 6))
    keeper = Job([0, 4], source=tuple(range(3, 60)))
    fed(decoder, keeper, 1)
    wanted = fed(decoder, Job([0, 4], source=(5, 6)), 0)
    decoder.apply(Drop(job=Job([0]), row=0))
    fed(decoder, long, 0)
    for memory in decoder._sources._memories:
        memory.rows(0, 1)[:, :, :57] = np.nan
    decoder.apply(Drop(job=long, row=0))
    assert np.isfinite(fed(decoder, short, 0)).all()
    again = fed(decoder, short, 0)
    assert np.isfinite(again).all()
    assert wanted.shape == again.shape
