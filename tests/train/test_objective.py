"""The loss of each task, and what validation measures."""

import math
from typing import Any

import pytest
import torch
from tiny_trainer import llama, options, texts, tokenizer
from torch.nn import functional
from transformers import BertConfig, BertForSequenceClassification

from deploykit.train.metrics import Seen, class_metrics, pair_metrics, perplexity, total
from deploykit.train.objective import Objective, objective_for
from deploykit.train.parts import IGNORED, Batch
from deploykit.transformer.pretrained import TransformerConfig, TransformerForConditionalGeneration

SOURCES = [[4, 5, 6, 1], [7, 8, 1], [9, 1], [10, 11, 12, 13, 1]]
TARGETS = [[14, 15, 1], [16, 17, 18, 1], [19, 1], [20, 1]]


def padded(rows: list[list[int]], fill: int) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [fill] * (longest - len(row)) for row in rows])


def pairs() -> Batch:
    source, labels = padded(SOURCES, 2), padded(TARGETS, IGNORED)
    started = padded([[0, *row[:-1]] for row in TARGETS], 2)
    inputs = {"input_ids": source, "attention_mask": (source != 2).long(), "decoder_input_ids": started}
    return Batch(inputs=inputs, labels=labels, tokens=23, places=source.numel() + labels.numel())


def translator(seed: int = 0) -> TransformerForConditionalGeneration:
    torch.manual_seed(seed)
    config = TransformerConfig(32, 16, 2, num_layers=1, dim_feedforward=32, dropout=0.0)
    return TransformerForConditionalGeneration(config).eval()  # type: ignore[no-any-return] # transformers has no types


def classifier(labels: int) -> BertForSequenceClassification:
    torch.manual_seed(0)
    sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    config = BertConfig(**sizes, num_attention_heads=2, max_position_embeddings=16, num_labels=labels)
    return BertForSequenceClassification(config).eval()


def labelled(labels: torch.Tensor) -> Batch:
    ids = padded(SOURCES, 2)
    return Batch(inputs={"input_ids": ids, "attention_mask": (ids != 2).long()}, labels=labels, tokens=14, places=20)


def objective(task: Any, smoothing: float = 0.0, names: tuple[str, ...] = ()) -> Objective:
    return objective_for(task, options(label_smoothing=smoothing), tokenizer=tokenizer(), labels=names)


def by_hand(logits: torch.Tensor, labels: torch.Tensor, smoothing: float = 0.0) -> float:
    """Return the smoothed cross-entropy as arXiv 1512.00567 (section 7) has it, summed over the labels that count."""
    logs = logits.detach().double().log_softmax(-1)
    losses = [
        -(1 - smoothing) * logs[place][label] - smoothing * logs[place].mean()
        for place, label in ((place, int(labels[place])) for place in zip(*torch.where(labels != IGNORED), strict=True))
    ]
    return float(sum(losses))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_tokens_is_summed_over_those_that_count(smoothing: float) -> None:
    batch, model = next(texts().in_order()), llama().eval()
    logits = model(**batch.inputs).logits
    goal = objective("text-generation", smoothing)
    assert goal.labels(batch) == batch.tokens
    assert float(goal.loss(model, batch).detach()) == pytest.approx(by_hand(logits, batch.labels, smoothing), rel=1e-5)
    # What is measured is never smoothed: losses stay comparable.
    assert goal.look(model, batch).loss == pytest.approx(by_hand(logits, batch.labels), rel=1e-5)


def test_padding_does_not_change_the_loss_of_pairs() -> None:
    model, goal, batch = translator(), objective("text2text-generation"), pairs()
    alone = [
        Batch(
            inputs={
                "input_ids": torch.tensor([source]),
                "attention_mask": torch.ones(1, len(source), dtype=torch.int64),
                "decoder_input_ids": torch.tensor([[0, *target[:-1]]]),
            },
            labels=torch.tensor([target]),
            tokens=0,
            places=0,
        )
        for source, target in zip(SOURCES, TARGETS, strict=True)
    ]
    together = float(goal.loss(model, batch).detach())
    assert together == pytest.approx(sum(float(goal.loss(model, one).detach()) for one in alone), rel=1e-5)
    assert goal.labels(batch) == sum(map(len, TARGETS))


def learned() -> TransformerForConditionalGeneration:
    """Return a model that knows the pairs by heart."""
    model, goal, batch = translator(), objective("text2text-generation"), pairs()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        goal.loss(model, batch).backward()  # type: ignore[no-untyped-call] # torch's own gap
        optimizer.step()
    return model


def test_pairs_are_answered_and_scored() -> None:
    model, goal = learned(), objective("text2text-generation")
    with torch.no_grad():
        seen = total([goal.look(model, pairs()), goal.answer(model, pairs())])
        (sample, *_) = goal.samples(model, pairs(), 2)
    assert seen.pairs == [(text, text) for text in ("w10w11", "w12w13w14", "w15", "w16")]
    figures = goal.metrics(seen)
    assert figures["exact_match"] == 1
    assert figures["chrf"] == pytest.approx(100)
    assert figures["token_accuracy"] == 1
    assert figures["perplexity"] == pytest.approx(math.exp(seen.loss / seen.labels))
    assert [line.strip() for line in sample.splitlines() if line.startswith("    ")] == ["w0w1w2", "w10w11", "w10w11"]


def test_an_answer_that_never_ends_is_cut() -> None:
    model, goal = translator(), objective("text2text-generation")
    with torch.no_grad():
        model.transformer.source_embedding.weight[1] = -100.0  # <eos> is never the likeliest
        answered = goal.answer(model, pairs())
    assert len(answered.pairs) == 4
    assert not any(answer == right for answer, right in answered.pairs)


def test_classes() -> None:
    model, goal = classifier(3), objective("text-classification", names=("bad", "so so", "good"))
    batch = labelled(torch.tensor([0, 1, 2, 1]))
    logits = model(**batch.inputs).logits
    assert float(goal.loss(model, batch).detach()) == pytest.approx(by_hand(logits, batch.labels), rel=1e-5)
    seen = goal.look(model, batch)
    assert seen.classes == list(zip(logits.argmax(-1).tolist(), [0, 1, 2, 1], strict=True))
    said = ("bad", "so so", "good")[seen.classes[0][0]]
    assert goal.samples(model, batch, 1) == [f"    w0w1w2\n\n**{said}**, labelled bad"]
    assert goal.highest == "accuracy"


def test_numbers() -> None:
    model, goal, right = classifier(1), objective("text-regression"), torch.tensor([0.5, -1.0, 2.0, -100.0])
    batch = labelled(right)
    given = model(**batch.inputs).logits[:, 0].detach()
    # -100 is a number like any other here.
    assert float(goal.loss(model, batch).detach()) == pytest.approx(
        float(((given - right) ** 2).sum().detach()), rel=1e-5
    )
    seen = goal.look(model, batch)
    assert goal.metrics(seen)["mse"] == pytest.approx(functional.mse_loss(given, right).item(), rel=1e-5)
    assert goal.samples(model, batch, 1)[0].endswith(f"**{float(given[0]):.4g}**, labelled 0.5")


def test_figures_of_classes_by_hand() -> None:
    # Class 0: found 1 of 2, of 2 said; class 1: 2 of 3, of 3 said; class 2: never said, once right; class 3: said only.
    found = [(0, 0), (1, 0), (1, 1), (1, 1), (0, 1), (3, 2)]
    assert class_metrics(found) == {
        "accuracy": pytest.approx(3 / 6),
        "f1": pytest.approx((2 * 1 / 4 + 2 * 2 / 6 + 0 + 0) / 4),
    }


def test_figures_of_pairs_by_hand() -> None:
    # Three of four words, two of three pairs of words, one of two triples, none of one: smoothed as sacrebleu does.
    figures = pair_metrics([("the cat sat down", "the cat sat up")])
    bleu = 100 * (3 / 4 * 2 / 3 * 1 / 2 * (1 / 2) / 1) ** (1 / 4)
    assert figures["bleu"] == pytest.approx(bleu)
    assert figures["exact_match"] == 0
    assert 0 < figures["chrf"] < 100
    assert pair_metrics([("a b c d", "a b c d "), ("x", "y")])["exact_match"] == 0.5


def test_chinese_is_scored_by_characters() -> None:
    # As one word, the sentence would be wrong as a whole.
    figures = pair_metrics([("二零二六年十一月二十三日", "二零二六年十一月二十四日")])
    assert 60 < figures["bleu"] < 100


def test_perplexity_has_no_end() -> None:
    assert perplexity(math.log(7)) == pytest.approx(7)
    assert perplexity(1e6) == math.inf


def test_parts_add_up() -> None:
    parts = [Seen(loss=1.0, labels=2, hits=1, classes=[(0, 1)]), Seen(loss=2.5, labels=3, pairs=[("a", "b")])]
    assert total(parts) == Seen(loss=3.5, labels=5, hits=1, classes=[(0, 1)], pairs=[("a", "b")])
