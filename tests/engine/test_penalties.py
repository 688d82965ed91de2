"""Biases, penalties and bans against transformers' own processors and OpenAI's formula."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
)

from deploykit.engine.params import SamplingParams
from deploykit.engine.penalties import Penalties, bad_word_tokens

Row = NDArray[np.float32]
SIZE = 12
"""Few tokens, so that repeats and banned words come up often."""
TOKENS = st.integers(0, SIZE - 1)


class OpenAI:
    """The presence and frequency penalties as OpenAI's reference states them."""

    def __init__(self, presence: float, frequency: float, prompt: int) -> None:
        self._presence, self._frequency, self._prompt = presence, frequency, prompt

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        for token, count in Counter(ids[0, self._prompt :].tolist()).items():
            scores[0, token] -= count * self._frequency + (count > 0) * self._presence
        return scores


def processed(
    params: SamplingParams, logits: Row, *, prompt: list[int], answer: list[int], eos: list[int], words: list[list[int]]
) -> NDArray[np.float64]:
    """Return what transformers makes of a row."""
    steps = LogitsProcessorList()
    if params.logit_bias:
        steps.append(SequenceBiasLogitsProcessor([[[token], bias] for token, bias in params.logit_bias]))
    if params.repetition_penalty != 1:
        steps.append(RepetitionPenaltyLogitsProcessor(params.repetition_penalty))
    steps.append(OpenAI(params.presence_penalty, params.frequency_penalty, len(prompt)))
    if words:
        steps.append(NoBadWordsLogitsProcessor(words, eos))
    ends = [*({*params.stop_token_ids} if params.ignore_eos else {*eos, *params.stop_token_ids})]
    if ends:
        steps.append(MinNewTokensLengthLogitsProcessor(len(prompt), params.min_tokens, ends))
    scores = steps(torch.tensor([prompt + answer]), torch.tensor(logits, dtype=torch.float64)[None])
    return np.asarray(scores[0].numpy())


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    forbidden=st.sets(TOKENS, max_size=4),
    prompt=st.lists(TOKENS, min_size=1, max_size=8),
    answer=st.lists(TOKENS, max_size=80),
    eos=st.lists(TOKENS, min_size=1, max_size=2, unique=True),
    words=st.lists(st.lists(TOKENS, min_size=1, max_size=3), max_size=6, unique_by=tuple),
    params=st.builds(
        SamplingParams,
        max_tokens=st.just(200),
        min_tokens=st.integers(0, 60),
        repetition_penalty=st.floats(0.1, 10) | st.just(1.0),
        presence_penalty=st.floats(-2, 2) | st.just(0.0),
        frequency_penalty=st.floats(-2, 2) | st.just(0.0),
        logit_bias=st.dictionaries(TOKENS, st.floats(-100, 100), max_size=4).map(lambda biases: tuple(biases.items())),
        stop_token_ids=st.lists(TOKENS, max_size=2, unique=True).map(tuple),
        ignore_eos=st.booleans(),
    ),
)
def test_changes_logits_as_transformers_and_openai_do(
    seed: int,
    forbidden: set[int],
    prompt: list[int],
    answer: list[int],
    eos: list[int],
    words: list[list[int]],
    params: SamplingParams,
) -> None:
    logits = (np.random.default_rng(seed).standard_normal(SIZE) * 5).astype(np.float32)
    logits[[*forbidden]] = -np.inf
    penalties = Penalties(params, prompt=prompt, eos=eos, bad_words=words, vocab_size=SIZE)
    for token in answer:
        penalties.add(token)
    found = logits.copy()
    if penalties.active:
        penalties.apply(found)
    wanted = processed(params, logits, prompt=prompt, answer=answer, eos=eos, words=words)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-4)


def test_does_nothing_where_nothing_is_asked_for() -> None:
    penalties = Penalties(SamplingParams(), prompt=[1, 2], eos=[3], bad_words=[], vocab_size=SIZE)
    assert not penalties.active


def test_is_done_once_the_answer_may_end() -> None:
    params = SamplingParams(min_tokens=2)
    penalties = Penalties(params, prompt=[1], eos=[3], bad_words=[], vocab_size=SIZE)
    active = []
    for _ in range(3):
        active.append(penalties.active)
        penalties.add(1)
    assert active == [True, True, False]


@pytest.mark.parametrize("eos", [[], [SIZE]])
def test_leaves_ends_alone_that_the_model_does_not_have(eos: list[int]) -> None:
    params = SamplingParams(min_tokens=2)
    assert not Penalties(params, prompt=[1], eos=eos, bad_words=[[SIZE], [1, SIZE]], vocab_size=SIZE).active


def test_a_banned_word_may_begin_in_the_prompt() -> None:
    # The last has another token in the middle of its beginning.
    words = [[1, 2, 3], [2, 4], [9, 1, 2, 6], [9, 8, 2, 5]]
    penalties = Penalties(SamplingParams(), prompt=[9, 1, 2], eos=[], bad_words=words, vocab_size=SIZE)
    logits = np.zeros(SIZE, np.float32)
    penalties.apply(logits)
    assert np.flatnonzero(logits == -np.inf).tolist() == [3, 4, 6]
    penalties.add(1)
    logits = np.zeros(SIZE, np.float32)
    penalties.apply(logits)
    assert not np.isinf(logits).any()


def test_spells_banned_words_with_and_without_a_space() -> None:
    def encode(text: str) -> list[int]:
        return [ord(letter) for letter in text.replace(" a", "A")]

    spelled = bad_word_tokens(["ab", " ab", "c"], encode)
    assert spelled == ((97, 98), (65, 98), (99,), (32, 99))
    # Whatever the tokenizer makes nothing of can't be banned.
    assert bad_word_tokens(["x"], lambda _: []) == ()
