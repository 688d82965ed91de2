"""What a training is measured against: a plain loop over torch.nn.Transformer, and transformers' Trainer."""

import math
import tempfile
import warnings
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader
from training_runs import BOS, PAD, Pair, Run, Sizes, Watch, rows_a_step
from transformers import DataCollatorForSeq2Seq, Seq2SeqTrainer, Seq2SeqTrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from deploykit.transformer.pretrained import TransformerConfig, TransformerForConditionalGeneration


class PlainTransformer(nn.Module):
    """torch.nn.Transformer as its documentation shows it, with embeddings, positions and logits."""

    def __init__(self, vocabulary: int, sizes: Sizes) -> None:
        super().__init__()
        self.d_model = sizes.d_model
        self.embedding = nn.Embedding(vocabulary, sizes.d_model)
        self.dropout = nn.Dropout(sizes.dropout)
        self.transformer = nn.Transformer(
            sizes.d_model,
            sizes.nhead,
            sizes.num_layers,
            sizes.num_layers,
            sizes.dim_feedforward,
            sizes.dropout,
            batch_first=True,
        )
        self.generator = nn.Linear(sizes.d_model, vocabulary, bias=False)
        self.generator.weight = self.embedding.weight
        nn.init.normal_(self.embedding.weight, std=sizes.d_model**-0.5)
        angles = torch.arange(512)[:, None] / 10_000 ** (torch.arange(0, sizes.d_model, 2) / sizes.d_model)
        self.register_buffer("positions", torch.stack([angles.sin(), angles.cos()], -1).flatten(1))

    def forward(self, src: torch.Tensor, tgt: torch.Tensor) -> torch.Tensor:
        """Return the logits of the token after each place of `tgt`."""
        padding = src == PAD
        hidden = self.transformer(
            self._embedded(src),
            self._embedded(tgt),
            tgt_mask=nn.Transformer.generate_square_subsequent_mask(tgt.shape[1]),
            src_key_padding_mask=padding,
            memory_key_padding_mask=padding,
            tgt_is_causal=True,
        )
        logits: torch.Tensor = self.generator(hidden)
        return logits

    def _embedded(self, ids: torch.Tensor) -> torch.Tensor:
        positions = self.get_buffer("positions")[: ids.shape[1]]
        out: torch.Tensor = self.dropout(self.embedding(ids) * math.sqrt(self.d_model) + positions)
        return out


def plain_loop(pairs: list[Pair], sizes: Sizes, vocabulary: int, step: int) -> Run:
    """Train in a loop over batches drawn at random and padded."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a fast path for inference
        model = PlainTransformer(vocabulary, sizes).train()
    loader: DataLoader[Any] = DataLoader(
        pairs,  # type: ignore[arg-type] # a list is a dataset
        batch_size=rows_a_step(pairs, step),
        shuffle=True,
        collate_fn=_padded,
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    places, watch = 0, Watch()
    for src, tgt in loader:
        inputs = torch.cat([torch.full_like(tgt[:, :1], BOS), tgt[:, :-1]], 1)
        logits = model(src, inputs)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), tgt.flatten(), ignore_index=PAD)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call] # torch's own gap
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        places += src.numel() + tgt.numel()
    return watch.run(pairs, places)


def huggingface(pairs: list[Pair], sizes: Sizes, vocabulary: int, step: int, *, by_length: bool = False) -> Run:
    """Train our model by transformers' Trainer, in batches drawn at random or, `by_length`, of like sources."""
    torch.manual_seed(0)
    config = TransformerConfig(vocab_size=vocabulary, dropout=sizes.dropout, **sizes.of_the_model)
    model = TransformerForConditionalGeneration(config)
    collate = _Counting()
    with tempfile.TemporaryDirectory() as folder:
        arguments = Seq2SeqTrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=rows_a_step(pairs, step),
            num_train_epochs=1,
            learning_rate=1e-3,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
            logging_strategy="no",
            dataloader_pin_memory=False,
            train_sampling_strategy="group_by_length" if by_length else "random",
        )
        data = [
            {"input_ids": pair.source, "attention_mask": [1] * len(pair.source), "labels": pair.target}
            for pair in pairs
        ]
        trainer = Seq2SeqTrainer(model, arguments, train_dataset=data, data_collator=collate)
        for callback in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(callback)
        watch = Watch()
        trainer.train()
        return watch.run(pairs, collate.places)


class _Counting:
    """transformers' collator for pairs, that counts positions."""

    def __init__(self) -> None:
        self.places = 0
        self._collate = DataCollatorForSeq2Seq(_Padder())

    def __call__(self, features: list[dict[str, Any]]) -> Any:
        batch = self._collate(features)
        self.places += batch["input_ids"].numel() + batch["labels"].numel()
        return batch


class _Padder:
    """What the collator asks of a tokenizer."""

    padding_side = "right"

    def pad(self, features: list[dict[str, Any]], **_: Any) -> dict[str, torch.Tensor]:
        """Return rows of one length."""
        ids = _stacked([row["input_ids"] for row in features], PAD)
        return {"input_ids": ids, "attention_mask": _stacked([row["attention_mask"] for row in features], 0)}


def _padded(pairs: list[Pair]) -> tuple[torch.Tensor, torch.Tensor]:
    return _stacked([pair.source for pair in pairs], PAD), _stacked([pair.target for pair in pairs], PAD)


def _stacked(rows: list[list[int]], fill: int) -> torch.Tensor:
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=fill)
