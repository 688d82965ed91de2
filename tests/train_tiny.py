"""A tiny training as a process of its own, alone or under torchrun: `python train_tiny.py FOLDER OPTIONS` (JSON)."""

import dataclasses
import json
import sys
from pathlib import Path

import torch
from tiny_trainer import options, plain, texts, trainer

from deploykit.train.distributed import joined

if __name__ == "__main__":
    folder, optim = Path(sys.argv[1]), json.loads(sys.argv[2])
    dropout = optim.pop("dropout", 0.0)
    torch.set_num_threads(1)
    with joined() as world:
        # Rows that no number of processes divides, and a last batch with fewer of them than processes.
        fit = trainer(folder, options(**optim), plain(dropout=dropout)).fit(texts(21, size=5), texts(9, seed=1, size=4))
        text = json.dumps(dataclasses.asdict(fit))
        (folder / f"fit.{world.rank}.json").write_text(text, encoding="utf-8")
