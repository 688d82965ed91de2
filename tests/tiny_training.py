"""A little text and a model that learns it in seconds."""

from pathlib import Path

from deploykit.train import DataConfig, ModelConfig, OptimConfig, TrainConfig

TINY = TrainConfig(
    model=ModelConfig(
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        max_context=64,
    ),
    data=DataConfig(vocab_size=300, sequence_length=32),
    optim=OptimConfig(batch_size=4, learning_rate=3e-3, max_steps=60, eval_steps=20),
)

VERSE = "for item in basket:\n    print(item, '你好', 'Grüße', '👋')\n<eos>\n"


def write_data(folder: Path, *, train: str | bytes = VERSE * 200, val: str | bytes = VERSE * 10) -> Path:
    """Write a data folder and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("train.txt", train), ("val.txt", val)):
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder
