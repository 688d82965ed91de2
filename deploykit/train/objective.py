"""What a model is trained for: the loss of each task, and what validation measures."""

import copy
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional

from deploykit.train.config import Task, TrainConfig
from deploykit.train.metrics import Seen, class_metrics, pair_metrics, perplexity
from deploykit.train.parts import IGNORED, Batch

PROMPT = 24
"""Tokens of validation text that a sample goes on from."""
SAMPLE = 40
"""Tokens that a sample goes on for."""


class Objective(Protocol):
    """A task: what a step minimizes, and how well a model does."""

    highest: str | None
    """The metric whose highest value makes a model the best; the lowest validation loss where None."""
    usual: int
    """Examples that a validation looks at where nothing else is asked for."""

    def labels(self, batch: Batch) -> int:
        """Return how many labels of `batch` count."""

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Return the loss that is trained on, summed over the labels that count."""

    def look(self, model: nn.Module, batch: Batch) -> Seen:
        """Return what validation sees in a batch."""

    def answer(self, model: nn.Module, batch: Batch) -> Seen:
        """Return what the model generates for a batch, where the task is to."""

    def metrics(self, seen: Seen) -> Mapping[str, float]:
        """Return the figures besides the loss."""

    def samples(self, model: nn.Module, batch: Batch, rows: int) -> list[str]:
        """Return what the model makes of the first rows of a batch, as Markdown."""

    def tokens(self, ids: torch.Tensor) -> list[str]:
        """Return the text of each token by itself."""


def objective_for(
    task: Task,
    config: TrainConfig,
    *,
    tokenizer: Tokenizer,
    labels: tuple[str, ...] = (),
    start: int = 0,
    eos: int = 1,
) -> Objective:
    """Return the objective of `task`.

    Args:
        task: what is trained.
        config: its label smoothing is used.
        tokenizer: makes text of tokens.
        labels: names of the classes, in the order of their numbers.
        start: token that an encoder-decoder's answer begins with.
        eos: token that ends an answer.
    """
    smoothing = config.optim.label_smoothing
    if task == "text-generation":
        return _Continuing(tokenizer, smoothing=smoothing)
    if task == "text2text-generation":
        return _Translating(tokenizer, smoothing=smoothing, start=start, eos=eos)
    if task == "text-classification":
        return _Classifying(tokenizer, labels, smoothing=smoothing)
    return _Estimating(tokenizer)


class _Reading:
    """Tokens as text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def answer(self, model: nn.Module, batch: Batch) -> Seen:
        del model, batch
        return Seen()

    def tokens(self, ids: torch.Tensor) -> list[str]:
        return [self._tokenizer.decode([token], skip_special_tokens=False) for token in ids.tolist()]

    def _text(self, ids: torch.Tensor) -> str:
        return self._tokenizer.decode([token for token in ids.tolist() if token != IGNORED], skip_special_tokens=True)


class _Predicting(_Reading):
    """Tokens to predict, one at each position."""

    highest: str | None = None
    usual = 1000

    def __init__(self, tokenizer: Tokenizer, *, smoothing: float) -> None:
        super().__init__(tokenizer)
        self._smoothing = smoothing

    def labels(self, batch: Batch) -> int:
        return int((batch.labels != IGNORED).sum())

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        return _cross_entropy(model(**batch.inputs, use_cache=False).logits, batch.labels, smoothing=self._smoothing)

    def look(self, model: nn.Module, batch: Batch) -> Seen:
        logits = model(**batch.inputs, use_cache=False).logits
        counting = batch.labels != IGNORED
        return Seen(
            loss=_cross_entropy(logits, batch.labels).item(),
            labels=int(counting.sum()),
            hits=int((logits.argmax(-1) == batch.labels)[counting].sum()),
        )

    def metrics(self, seen: Seen) -> Mapping[str, float]:
        return {"perplexity": perplexity(seen.loss / seen.labels), "token_accuracy": seen.hits / seen.labels}


class _Continuing(_Predicting):
    """Running text: each token from those before it."""

    usual = 64  # windows

    def samples(self, model: nn.Module, batch: Batch, rows: int) -> list[str]:
        prompt = batch.inputs["input_ids"][:rows, :PROMPT]
        answer = _generate(model, {"input_ids": prompt}, SAMPLE, {})[:, prompt.shape[1] :]
        texts = zip(prompt, answer, strict=True)
        return [f"**Prompt**\n\n{_quoted(self._text(a))}\n\n**Model**\n\n{_quoted(self._text(b))}" for a, b in texts]


class _Translating(_Predicting):
    """Pairs: each token of the target from the source and the target's tokens before it."""

    def __init__(self, tokenizer: Tokenizer, *, smoothing: float, start: int, eos: int) -> None:
        super().__init__(tokenizer, smoothing=smoothing)
        self._ids = {"decoder_start_token_id": start, "eos_token_id": eos}

    def answer(self, model: nn.Module, batch: Batch) -> Seen:
        return Seen(pairs=[(answer, right) for _, answer, right in self._answers(model, batch, batch.rows)])

    def metrics(self, seen: Seen) -> Mapping[str, float]:
        return {**super().metrics(seen), **(pair_metrics(seen.pairs) if seen.pairs else {})}

    def samples(self, model: nn.Module, batch: Batch, rows: int) -> list[str]:
        kinds = ("Source", "Model", "Reference")
        return [
            "\n\n".join(f"**{kind}**\n\n{_quoted(text)}" for kind, text in zip(kinds, texts, strict=True))
            for texts in self._answers(model, batch, rows)
        ]

    def _answers(self, model: nn.Module, batch: Batch, rows: int) -> list[tuple[str, str, str]]:
        """Return source, answer and reference of the first rows, as text."""
        if not (rows := min(rows, batch.rows)):
            return []
        sources = {name: batch.inputs[name][:rows] for name in ("input_ids", "attention_mask") if name in batch.inputs}
        # A quarter more than the longest reference: an answer that goes on for ever is wrong anyway.
        most = batch.labels.shape[1] * 5 // 4 + 4
        answers = _generate(model, sources, most, self._ids)
        columns = (sources["input_ids"], answers, batch.labels[:rows])
        return [(self._text(a), self._text(b), self._text(c)) for a, b, c in zip(*columns, strict=True)]


class _Classifying(_Reading):
    """Texts with labels."""

    highest: str | None = "accuracy"
    usual = 1000

    def __init__(self, tokenizer: Tokenizer, names: tuple[str, ...], *, smoothing: float) -> None:
        super().__init__(tokenizer)
        self._names = names
        self._smoothing = smoothing

    def labels(self, batch: Batch) -> int:
        return batch.rows

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        return _cross_entropy(model(**batch.inputs).logits, batch.labels, smoothing=self._smoothing)

    def look(self, model: nn.Module, batch: Batch) -> Seen:
        logits = model(**batch.inputs).logits
        predicted = logits.argmax(-1).tolist()
        loss = _cross_entropy(logits, batch.labels).item()
        return Seen(loss=loss, labels=batch.rows, classes=list(zip(predicted, batch.labels.tolist(), strict=True)))

    def metrics(self, seen: Seen) -> Mapping[str, float]:
        return class_metrics(seen.classes)

    def samples(self, model: nn.Module, batch: Batch, rows: int) -> list[str]:
        texts = [self._text(ids) for ids in batch.inputs["input_ids"][:rows]]
        rest = zip(texts, self.look(model, batch).classes[:rows], strict=True)
        return [
            f"{_quoted(text)}\n\n**{self._name(said)}**, labelled {self._name(right)}" for text, (said, right) in rest
        ]

    def _name(self, number: int) -> str:
        return self._names[number] if number < len(self._names) else str(number)


class _Estimating(_Reading):
    """Texts with numbers."""

    highest: str | None = None
    usual = 1000

    def labels(self, batch: Batch) -> int:
        return batch.rows

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        return functional.mse_loss(_numbers(model, batch), batch.labels.float(), reduction="sum")

    def look(self, model: nn.Module, batch: Batch) -> Seen:
        return Seen(loss=self.loss(model, batch).item(), labels=batch.rows)

    def metrics(self, seen: Seen) -> Mapping[str, float]:
        return {"mse": seen.loss / seen.labels}

    def samples(self, model: nn.Module, batch: Batch, rows: int) -> list[str]:
        texts = [self._text(ids) for ids in batch.inputs["input_ids"][:rows]]
        rest = zip(texts, _numbers(model, batch)[:rows].tolist(), batch.labels[:rows].tolist(), strict=True)
        return [f"{_quoted(text)}\n\n**{said:.4g}**, labelled {right:.4g}" for text, said, right in rest]


def _numbers(model: nn.Module, batch: Batch) -> torch.Tensor:
    logits: torch.Tensor = model(**batch.inputs).logits
    return logits.float().squeeze(-1)


def _cross_entropy(logits: torch.Tensor, labels: torch.Tensor, *, smoothing: float = 0.0) -> torch.Tensor:
    return functional.cross_entropy(
        logits.float().flatten(0, -2),
        labels.flatten(),
        ignore_index=IGNORED,
        reduction="sum",
        label_smoothing=smoothing,
    )


def _generate(model: Any, inputs: Mapping[str, torch.Tensor], most: int, ids: Mapping[str, int]) -> torch.Tensor:
    """Return tokens [B, N] that the model takes for the likeliest, without beams and without processors."""
    # Importing transformers takes seconds, and only what generates needs it.
    from transformers import GenerationConfig

    config = copy.deepcopy(getattr(model, "generation_config", None)) or GenerationConfig()
    plain = {"do_sample": False, "num_beams": 1, "min_length": 0, "no_repeat_ngram_size": 0, "temperature": None}
    config.update(**plain, top_k=None, top_p=None, max_length=None, max_new_tokens=most, **ids)
    tokens: torch.Tensor = model.generate(**inputs, generation_config=config)
    return tokens


def _quoted(text: str) -> str:
    """Return text that Markdown shows as it is."""
    return "\n".join(f"    {line}" for line in text.splitlines() or [""])
