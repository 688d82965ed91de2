"""A trained model on disk, in Hugging Face's layout."""

import dataclasses
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Final

from tokenizers import Tokenizer
from transformers import LlamaForCausalLM
from transformers.utils import logging

from deploykit.config import TrainConfig
from deploykit.draft import Draft
from deploykit.train.tokenizer import save_tokenizer
from deploykit.train.trainer import Record

TRAINING: Final = "training.json"
"""How the model came about; also what marks a folder as one that `--overwrite` may replace."""
_PACKAGES: Final = ("deploykit", "torch", "transformers", "tokenizers")


def write_checkpoint(
    draft: Draft,
    model: LlamaForCausalLM,
    tokenizer: Tokenizer,
    config: TrainConfig,
    *,
    log: list[Record],
    result: Mapping[str, Any],
) -> None:
    """Fill `draft` with the model, its tokenizer and the training's log, and move it into place."""
    # Its bar would cut through the caller's own; a caller may have silenced it already.
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model.save_pretrained(draft.path)
    finally:
        if shown:
            logging.enable_progress_bar()
    save_tokenizer(tokenizer, draft.path, max_context=config.max_context)
    training = {
        "config": dataclasses.asdict(config),
        "result": dict(result),
        "versions": {package: version(package) for package in _PACKAGES},
        "log": [dataclasses.asdict(record) for record in log],
    }
    draft.write_json(TRAINING, training)
    draft.publish()
