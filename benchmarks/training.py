"""Tokens a second in training: ours, a plain loop over torch.nn.Transformer, and transformers' Trainer.

    python benchmarks/training.py [--rounds 3] [--pairs 3000]

The same model sizes, dropout, pairs and tokens a step for all, one epoch each, by turns in one run. Tokens are those of
source and target, padding not counted, so that padding costs whoever has it. The pairs are functions of the standard
library, signature to first sentence of what they say about themselves. The time is
that of a whole call without the making of the model: ours also validates (on 16 pairs) and writes two checkpoints.
Ours adds up the gradients of four batches a step, as docs/training.md advises for few pairs of uneven length. One
difference is left in its favour beside the plain loop: torch.nn.Transformer drops attention weights and inside the
feed-forward too, our model (in both other contenders) block outputs and embeddings alone, as the paper does.
"""

import argparse
import ast
import random
import statistics
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from results import keep, kept
from training_peers import huggingface, plain_loop
from training_runs import Pair, Run, Sizes, Watch

from deploykit.train.config import TrainConfig
from deploykit.train.objective import objective_for
from deploykit.train.prepare import Prepared, prepare
from deploykit.train.trainer import Trainer
from deploykit.transformer.pretrained import TransformerConfig, TransformerForConditionalGeneration

MODELS = {
    "small": Sizes(d_model=128, nhead=4, num_layers=2, dim_feedforward=512),
    "the article's": Sizes(d_model=512, nhead=8, num_layers=3, dim_feedforward=2048),
}
VOCABULARY = 2048
STEP = 4096
"""Positions in a step of ours, padding included; the others' steps have as many rows as give as many tokens."""
ACCUMULATE = 4
"""Batches in a step of ours."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What all of them train on."""

    prepared: Prepared
    config: TrainConfig
    pairs: list[Pair]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=3000)
    parser.add_argument("--model", choices=list(MODELS), help="one of the models; both where not given")
    options = parser.parse_args()
    figures: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as name:
        for model, sizes in MODELS.items():
            if options.model in (None, model):
                # The large one is twelve times as slow: a quarter of the pairs shows as much.
                count = options.pairs if model == "small" else options.pairs // 4
                task = make_task(Path(name) / model.replace(" ", "-"), count)
                figures[model] = compare(task, sizes, rounds=options.rounds)
    speed = {**kept("training").get("speed", {}), **figures}
    keep("training", {**kept("training"), "threads": torch.get_num_threads(), "speed": speed})


def compare(task: Task, sizes: Sizes, *, rounds: int) -> dict[str, object]:
    """Return every run and the medians; each contender once a round, the first round not counted."""
    contenders: dict[str, Callable[[], Run]] = {
        "deploykit": lambda: ours(task, sizes),
        "torch.nn.Transformer, plain loop": lambda: plain_loop(task.pairs, sizes, VOCABULARY, STEP),
        "transformers' Trainer": lambda: huggingface(task.pairs, sizes, VOCABULARY, STEP),
        "transformers' Trainer, by length": lambda: huggingface(task.pairs, sizes, VOCABULARY, STEP, by_length=True),
    }
    runs: list[dict[str, Run]] = []
    for number in range(rounds + 1):
        runs.append({who: contender() for who, contender in contenders.items()})
        print("round", number, {who: round(run.tokens_per_second) for who, run in runs[-1].items()}, flush=True)
    counted = runs[1:]
    medians = {who: _median([run[who] for run in counted], [run["deploykit"] for run in counted]) for who in contenders}
    for who, figures in medians.items():
        print(f"{who:<34} {figures}", flush=True)
    return {
        "sizes": asdict(sizes),
        "pairs": len(task.pairs),
        "medians": medians,
        "runs": [{who: asdict(run) for who, run in each.items()} for each in runs],
    }


def _median(theirs: list[Run], ours: list[Run]) -> dict[str, float]:
    """Return what one contender did, and how many times as fast ours is.

    That is of each round by itself, as what disturbs a round disturbs all of it.
    """
    both = list(zip(ours, theirs, strict=True))
    figures = {
        "tokens_per_second": statistics.median(run.tokens_per_second for run in theirs),
        "tokens_per_cpu_second": statistics.median(run.tokens_per_cpu_second for run in theirs),
        "padding": theirs[0].padding,
        "ours_is": statistics.median(one.tokens_per_second / other.tokens_per_second for one, other in both),
        "ours_is_by_cpu": statistics.median(
            one.tokens_per_cpu_second / other.tokens_per_cpu_second for one, other in both
        ),
    }
    return {name: round(value, 4 if value < 1 else 2) for name, value in figures.items()}


def ours(task: Task, sizes: Sizes) -> Run:
    """Train by deploykit's trainer."""
    torch.manual_seed(0)
    config = TransformerConfig(vocab_size=VOCABULARY, dropout=sizes.dropout, **sizes.of_the_model)
    model = TransformerForConditionalGeneration(config)
    objective = objective_for("text2text-generation", task.config, tokenizer=task.prepared.tokenizer)
    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(model, objective, task.config, folder=Path(folder), write=model.save_pretrained)
        fit = trainer.fit(task.prepared.train, task.prepared.val)
    return watch.run(task.pairs, round(fit.tokens / (1 - fit.padding)))


def make_task(folder: Path, count: int) -> Task:
    """Return what is trained on, written to `folder` and encoded."""
    folder.mkdir(parents=True)
    pairs = sorted(set(signatures()))
    random.Random(0).shuffle(pairs)
    for name, part in (("train", pairs[:count]), ("val", pairs[count : count + 16])):
        (folder / f"{name}.txt").write_text("".join(f"{a}\t{b}\n" for a, b in part), encoding="utf-8")
    wanted = {"task": "text2text-generation", "vocab_size": VOCABULARY, "batch_tokens": STEP // ACCUMULATE}
    # Without the few that are very long: each of them would pad a whole batch of whoever draws batches at random.
    short = {"max_source_tokens": 48, "max_target_tokens": 48}
    steps = {"accumulate": ACCUMULATE, "epochs": 1}
    config = TrainConfig().but({**wanted, **short, **steps, "learning_rate": 1e-3, "eval_generate": 0})
    prepared = prepare(folder, config, task="text2text-generation", cache=folder / "cache")
    return Task(prepared=prepared, config=config, pairs=list(rows(prepared)))


def signatures() -> Iterator[tuple[str, str]]:
    """Yield functions of the standard library's modules: signature, and the first paragraph of their docstring."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.FunctionDef) and (told := ast.get_docstring(node)):
                yield f"def {node.name}({ast.unparse(node.args)})", " ".join(told.split("\n\n")[0].split())


def rows(prepared: Prepared) -> Iterator[Pair]:
    """Yield the pairs as tokens, as our own batches hold them."""
    for batch in prepared.train.in_order():
        ids = batch.inputs["input_ids"]
        mask = batch.inputs.get("attention_mask", torch.ones_like(ids))
        for row, real, labels in zip(ids, mask, batch.labels, strict=True):
            yield Pair(source=row[real == 1].tolist(), target=labels[labels >= 0].tolist())


if __name__ == "__main__":
    main()
