"""A checkpoint to fine-tune: what it is, its tokenizer, and its weights with a head for what it is to learn."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import torch
from tokenizers import Tokenizer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
)

import deploykit.transformer.pretrained  # noqa: F401 - the Auto classes then open its checkpoints, too
from deploykit.errors import CheckpointError, ConfigError, UnsupportedModelError
from deploykit.quiet import quiet
from deploykit.train.build import head_fields
from deploykit.train.config import Task
from deploykit.train.tokenizer import Specials

TOKENIZER_FILES: Final = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
"""Files that belong to a tokenizer besides tokenizer.json itself."""
_LIMITS: Final = ("max_position_embeddings", "n_positions", "max_target_positions")
_AUTO: Final = {
    "text-generation": AutoModelForCausalLM,
    "text2text-generation": AutoModelForSeq2SeqLM,
    "text-classification": AutoModelForSequenceClassification,
    "text-regression": AutoModelForSequenceClassification,
}


@dataclass(frozen=True, kw_only=True)
class Base:
    """A checkpoint whose configuration and tokenizer were read, its weights not yet."""

    folder: Path
    config: Any
    """As transformers has it."""
    task: Task
    """What it will learn."""
    tokenizer: Tokenizer
    specials: Specials
    labels: tuple[str, ...] | None
    """Names of the classes that its head tells apart; None where it gets a new head, or none."""

    @property
    def limit(self) -> int | None:
        """Longest sequence it takes, in tokens; None where no limit is known."""
        sizes = (getattr(self.config, name, None) for name in _LIMITS)
        return next((size for size in sizes if isinstance(size, int) and size > 0), None)

    def model(self, tokenizer: Tokenizer, labels: Sequence[str] = ()) -> Any:
        """Return the model, in 32 bits, with a row for each entry of `tokenizer` and a head for `labels`.

        A head that it hasn't got is made from torch's global generator.

        Raises:
            CheckpointError: the weights are missing, damaged, or aren't those of the configuration.
        """
        head = {} if self.task.endswith("generation") or self.labels else head_fields(self.task, labels)
        try:
            with quiet():
                model, found = _AUTO[self.task].from_pretrained(
                    self.folder,
                    dtype=torch.float32,
                    use_safetensors=True,
                    local_files_only=True,
                    # Told below, by name; transformers itself would only say that there are some.
                    ignore_mismatched_sizes=True,
                    output_loading_info=True,
                    **head,
                )
        except Exception as error:  # transformers and safetensors raise anything on a damaged file
            raise CheckpointError(f"{self.folder}: its weights can't be read: {_line(error)}") from error
        self._check_found(model, found)
        if model.config.pad_token_id is None:
            model.config.pad_token_id = self.specials.pad
        if (entries := _entries(tokenizer)) > model.get_input_embeddings().weight.shape[0]:
            model.resize_token_embeddings(entries, mean_resizing=False)
        return model.train()

    def save_tokenizer(self, tokenizer: Tokenizer, folder: Path) -> None:
        """Write `tokenizer` and the settings it came with."""
        for name in TOKENIZER_FILES:
            if (self.folder / name).is_file():
                shutil.copyfile(self.folder / name, folder / name)
        tokenizer.save(str(folder / "tokenizer.json"))

    def _check_found(self, model: Any, found: dict[str, Any]) -> None:
        """Check that only a head is new: transformers fills whatever else is missing with random numbers."""
        inside = f"{model.base_model_prefix}."
        generates = self.task.endswith("generation")
        absent = [*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])]
        wrong = [key for key in absent if generates or (key.startswith(inside) and "pooler" not in key)]
        if wrong or (self.labels and absent):
            name = min(wrong or absent)
            raise CheckpointError(
                f"{self.folder}: the weights of {name} are missing or of another size ({len(absent)} tensors in all); "
                "get the checkpoint again"
            )


def open_base(source: str | Path, *, task: Task | None) -> Base:
    """Return the checkpoint at `source`, a folder or a hub id, to be trained for `task`, its own where None.

    Raises:
        CheckpointError: it is missing or damaged.
        UnsupportedModelError: it can't learn that.
        ConfigError: it has no task of its own, and none is given.
    """
    folder = _find(source)
    try:
        with quiet():
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # a configuration class can fail in any way on values it doesn't expect
        raise CheckpointError(f"{folder / 'config.json'}: can't be read: {_line(error)}") from error
    own = _own_task(config)
    task = _task(folder, config, own, task)
    named = own == task == "text-classification" and not _nameless(config.id2label)
    tokenizer, specials = _open_tokenizer(folder, config)
    return Base(
        folder=folder,
        config=config,
        task=task,
        tokenizer=tokenizer,
        specials=specials,
        labels=tuple(config.id2label[number] for number in sorted(config.id2label)) if named else None,
    )


def _find(source: str | Path) -> Path:
    folder = Path(source).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise CheckpointError(f"{folder}: holds no config.json; --from names a checkpoint in Hugging Face's layout")
        return folder
    if isinstance(source, Path) or folder.exists() or source.count("/") > 1 or source.startswith((".", "/", "~")):
        raise CheckpointError(f"{source}: no such folder; --from names a checkpoint's folder, or a hub id")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, allow_patterns=["*.json", "*.safetensors", "*.jinja"]))
    except Exception as error:  # the hub's client raises errors of several packages
        raise CheckpointError(
            f"{source}: no such folder, and it can't be had from the Hugging Face hub: {_line(error)}; "
            "check the name, the network and HF_TOKEN"
        ) from error


def _own_task(config: Any) -> Task | None:
    """Return what a checkpoint has learned, None where it has no head for anything of ours."""
    name = next(iter(getattr(config, "architectures", None) or ()), "")
    if getattr(config, "is_encoder_decoder", False):
        known = type(config) in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING
        return "text2text-generation" if known and "Classification" not in name else None
    if name.endswith("ForSequenceClassification"):
        number = config.problem_type == "regression" or config.num_labels == 1
        return "text-regression" if number else "text-classification"
    return "text-generation" if MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type) == name else None


def _task(folder: Path, config: Any, own: Task | None, wanted: Task | None) -> Task:
    name = next(iter(getattr(config, "architectures", None) or ()), config.model_type)
    if wanted is None:
        if own is None:
            raise ConfigError(
                f"{folder}: {name} has no head that tells what it is for; say it with --task text-classification or "
                "--task text-regression"
            )
        return own
    heads = type(config) in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING and not config.is_encoder_decoder
    if wanted != own and (wanted.endswith("generation") or not heads):
        known = f"it does {own}" if own else "it has no head of its own"
        raise UnsupportedModelError(f"{folder}: {name} can't be trained for {wanted}: {known}; choose another --from")
    return wanted


def _open_tokenizer(folder: Path, config: Any) -> tuple[Tokenizer, Specials]:
    """Return a checkpoint's tokenizer, which neither cuts nor pads, and its special tokens.

    Raises:
        CheckpointError: there is none, or it has more entries than the embedding has rows.
    """
    try:
        with quiet():
            around = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        tokenizer = cast("Tokenizer", around.backend_tokenizer)
        tokenizer.no_truncation()
        tokenizer.no_padding()
    except Exception as error:  # a tokenizer's class can fail in any way on files it doesn't expect
        raise CheckpointError(
            f"{folder}: its tokenizer can't be read: {_line(error)}; a checkpoint to fine-tune needs a tokenizer.json"
        ) from error
    rows = getattr(config, "vocab_size", None)
    if not isinstance(rows, int):
        raise UnsupportedModelError(f"{folder}: {config.model_type} has no vocabulary of its own in config.json")
    if (entries := _entries(tokenizer)) > rows:
        raise CheckpointError(
            f"{folder}: the tokenizer gives ids up to {entries - 1}, but the embedding has only {rows} rows "
            "(vocab_size in config.json); the two don't belong together"
        )
    return tokenizer, _specials(around, tokenizer, config)


def _specials(around: Any, tokenizer: Tokenizer, config: Any) -> Specials:
    # A list where several tokens end a text: the first is what a training writes.
    ends = getattr(config, "eos_token_id", None)
    known = (around.eos_token_id, *(ends if isinstance(ends, list) else [ends]), around.sep_token_id)
    eos = next((token for token in (*known, around.pad_token_id) if token is not None), 0)
    # Only where prompts begin with it, too.
    begins = tokenizer.encode("").ids[:1] == [around.bos_token_id]
    start = getattr(config, "decoder_start_token_id", None)
    return Specials(
        bos=around.bos_token_id if begins else None,
        eos=eos,
        pad=eos if around.pad_token_id is None else around.pad_token_id,
        unk=around.mask_token_id if around.unk_token_id is None else around.unk_token_id,
        start=next((token for token in (start, around.bos_token_id) if token is not None), eos),
    )


def _entries(tokenizer: Tokenizer) -> int:
    """Return how many rows an embedding needs for it: its ids may have gaps."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1


def _nameless(labels: dict[int, str]) -> bool:
    return all(name == f"LABEL_{number}" for number, name in labels.items())


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or repr(error)
