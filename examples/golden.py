"""Train, export and commit the small model in `model_repository/` and its manifests in `k8s/`.

A fresh clone serves at once, and can be deployed.

    python examples/golden.py [--seconds 300]

Training is not bit-reproducible between machines, so this runs when the format changes, not in tests; they hold the
repository equal
to what `deploykit package` makes of the artifact inside it.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from demo_data import write_stdlib_text

import deploykit
from deploykit.cli import console
from deploykit.config import ValidateConfig
from deploykit.deploy import deploy
from deploykit.train import DataConfig, ModelConfig, OptimConfig, TrainConfig, train

NAME = "tiny-python"
REPOSITORY = Path(__file__).parents[1] / "model_repository"
MANIFESTS = REPOSITORY.with_name("k8s")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=300)
    config = TrainConfig(
        model=ModelConfig(
            hidden_size=128, num_layers=4, num_heads=4, num_key_value_heads=2, intermediate_size=320, max_context=512
        ),
        data=DataConfig(vocab_size=1024),
        optim=OptimConfig(seconds=parser.parse_args().seconds),
    )
    with tempfile.TemporaryDirectory() as name, console.progress() as progress:
        folder = Path(name)
        write_stdlib_text(folder / "data")
        train(folder / "data", folder / "checkpoint", config, progress=progress)
        artifact = deploykit.export(
            folder / "checkpoint",
            folder / "artifact",
            name=NAME,
            validate=ValidateConfig(text=folder / "data" / "val.txt"),
            progress=progress,
        )
        shutil.rmtree(REPOSITORY / NAME, ignore_errors=True)
        shutil.copytree(artifact.path / "model_repository" / NAME, REPOSITORY / NAME)
        deploy(REPOSITORY, MANIFESTS, overwrite=True, progress=progress)
    size = sum(file.stat().st_size for file in REPOSITORY.rglob("*") if file.is_file())
    print(f"{REPOSITORY / NAME}: {console.megabytes(size)}")


if __name__ == "__main__":
    main()
