"""Low-rank updates (LoRA) by `peft`, which leave no trace in the checkpoint: it holds the weights they add up to."""

import warnings
from collections.abc import Mapping
from typing import Any, Final

import torch
from peft import LoraConfig as PeftConfig
from peft import PeftModel, TaskType, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers.pytorch_utils import Conv1D

from deploykit.errors import ConfigError
from deploykit.train.config import LoraConfig, Task

_KINDS: Final = {
    "text-generation": TaskType.CAUSAL_LM,
    "text2text-generation": TaskType.SEQ_2_SEQ_LM,
    "text-classification": TaskType.SEQ_CLS,
    "text-regression": TaskType.SEQ_CLS,
}
_ADAPTER: Final = "default"  # peft's own name for the only one


def with_lora(model: Any, config: LoraConfig, *, task: Task) -> PeftModel:
    """Return the model with low-rank updates, which are all that is trained, beside a classifier's head.

    Raises:
        ConfigError: no layer has one of the names in `lora_targets`.
    """
    named = [name.strip() for name in config.lora_targets.split(",") if name.strip()]
    options = PeftConfig(
        task_type=_KINDS[task],
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules="all-linear" if named in ([], ["all-linear"]) else named,
        # GPT-2's layers hold their weights the other way round.
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
    )
    try:
        with warnings.catch_warnings():
            # It asks models for what transformers is about to call otherwise.
            warnings.simplefilter("ignore", FutureWarning)
            return get_peft_model(model, options)
    except ValueError as error:
        raise ConfigError(
            f"lora_targets {config.lora_targets!r}: {type(model).__name__} has no such layers: "
            f"{' '.join(str(error).split())[:200]}; name others, or all-linear"
        ) from error


def merged(model: PeftModel) -> tuple[Any, Mapping[str, torch.Tensor]]:
    """Return the model below the updates, and its weights with the updates added; the model itself stays as it is.

    Adding them in place and taking them off again would change the weights by their roundings each time.
    """
    below = model.get_base_model()
    added = {
        f"{name}.weight": layer.get_delta_weight(_ADAPTER)
        for name, layer in below.named_modules()
        if isinstance(layer, LoraLayer)
    }
    weights: dict[str, torch.Tensor] = {}
    for name, weight in below.state_dict().items():
        if ".lora_" in name or ".original_module." in name:
            continue
        plain = name.replace(".base_layer.", ".").replace(f".modules_to_save.{_ADAPTER}.", ".")
        weights[plain] = weight + added[plain] if plain in added else weight
    return below, weights
