"""What a user can choose when training: the command line, the config file and the docs read their defaults from here.

A config file has a section for each group; every field is also an option of the command line, by its own name.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from deploykit.errors import ConfigError

Task = Literal["text-generation", "text2text-generation", "text-classification", "text-regression"]
TokenizerKind = Literal["bpe", "word"]
Optimizer = Literal["adamw", "adam"]
Schedule = Literal["cosine", "inverse-sqrt", "constant"]
Compute = Literal["auto", "fp32", "bf16"]

_SECONDS: Final = 120.0
"""Time to train where nothing else says when to end."""


def _choice(name: str, value: str, choices: object) -> None:
    if value not in (allowed := get_args(choices)):
        raise ConfigError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")


def _number(name: str, value: object, *, least: float, most: float = math.inf, whole: bool = True) -> None:
    """Check a number that may come from a file, where anything can stand."""
    kinds = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise ConfigError(f"{name} must be a {'whole ' if whole else ''}number, got {value!r}")
    # Written so that NaN fails.
    if not least <= value <= most or math.isinf(value):
        bounds = f"at least {least:g}" if math.isinf(most) else f"{least:g} to {most:g}"
        raise ConfigError(f"{name} must be {bounds}, got {value}")


def _text(name: str, value: object) -> None:
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{name} must be a text, got {value!r}")


def _yes_no(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be true or false, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The model to make; none of it applies to one that is fine-tuned.

    A decoder is a Llama; an encoder-decoder is `deploykit.transformer`, its sizes by default those of Vaswani et al.
    2017 with half the layers; a classifier is a BERT.
    """

    hidden_size: int | None = None
    """Width of the model (d_model); 512 for an encoder-decoder, 192 for others where None."""
    num_layers: int | None = None
    """Layers, of the encoder and of the decoder each; 3 for an encoder-decoder, 4 for others where None."""
    num_heads: int | None = None
    """Attention heads (nhead); 8 for an encoder-decoder, 6 for others where None, or the next fewer that fit the
    width."""
    num_key_value_heads: int | None = None
    """Heads that keys and values have, which attention heads share; decoders only. 2 where None, if that divides."""
    intermediate_size: int | None = None
    """Width of the feed-forward layers (dim_feedforward); 2048 for an encoder-decoder, 512 for others where None."""
    dropout: float = 0.1
    """Part of the activations that is dropped in training; decoders drop none."""
    norm_first: bool = False
    """Whether an encoder-decoder normalizes before each block instead of after it (pre-norm)."""
    share_embeddings: bool = True
    """Whether an encoder-decoder has one table for source, target and output."""
    max_context: int = 512
    """Longest sequence the model is made for, in tokens."""

    def __post_init__(self) -> None:
        for name in ("hidden_size", "num_layers", "num_heads", "num_key_value_heads", "intermediate_size"):
            if getattr(self, name) is not None:
                _number(name, getattr(self, name), least=1)
        _number("dropout", self.dropout, least=0, most=0.9, whole=False)
        _number("max_context", self.max_context, least=2)
        _yes_no("norm_first", self.norm_first)
        _yes_no("share_embeddings", self.share_embeddings)

    def filled(self, task: Task) -> "ModelConfig":
        """Return the sizes of a model for `task`, none of them None.

        Raises:
            ConfigError: the sizes don't fit each other.
        """
        width, layers, heads, inner = (512, 3, 8, 2048) if task == "text2text-generation" else (192, 4, 6, 512)
        width = self.hidden_size or width
        heads = self.num_heads or self._fitting(width, most=heads, decoder=task == "text-generation")
        shared = self.num_key_value_heads or (heads if heads % 2 else 2)
        if width % heads or (task == "text-generation" and heads % shared):
            raise ConfigError(
                f"hidden_size ({width}) must be a multiple of num_heads ({heads}), and that of num_key_value_heads "
                f"({shared})"
            )
        if width // heads % 2 and task == "text-generation":
            raise ConfigError(f"hidden_size ({width}) must be an even multiple of num_heads ({heads})")
        return dataclasses.replace(
            self,
            hidden_size=width,
            num_layers=self.num_layers or layers,
            num_heads=heads,
            num_key_value_heads=shared,
            intermediate_size=self.intermediate_size or inner,
        )

    def _fitting(self, width: int, *, most: int, decoder: bool) -> int:
        """Return the most heads, up to `most`, that divide the width; `most` where none do."""
        pairs = 2 if decoder else 1  # a decoder's rotary positions turn a head's numbers in pairs
        shared = self.num_key_value_heads or 1 if decoder else 1
        fitting = (heads for heads in range(most, 0, -1) if width % (heads * pairs) == 0 and heads % shared == 0)
        return next(fitting, most)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How files become examples."""

    tokenizer: TokenizerKind = "bpe"
    """`bpe`: byte-level, encodes any text; `word`: whole words, what it doesn't know becomes <unk>."""
    vocab_size: int = 2048
    """Entries of the vocabulary at most, specials included."""
    text_field: str = "text"
    """Column or key of the text, or of the source text, in CSV and JSON Lines."""
    target_field: str = "target"
    """Column or key of the target text in CSV and JSON Lines."""
    label_field: str = "label"
    """Column or key of the label in CSV and JSON Lines."""
    val_split: float = 0.0
    """Part of the training examples held out for validation where there is no validation file."""
    sequence_length: int = 256
    """Tokens in a window of running text."""
    max_source_tokens: int = 128
    """Longest source, or text with a label, in tokens; longer examples are left out and counted."""
    max_target_tokens: int = 128
    """Longest target, in tokens; longer examples are left out and counted."""

    def __post_init__(self) -> None:
        _choice("tokenizer", self.tokenizer, TokenizerKind)
        _number("vocab_size", self.vocab_size, least=5)
        if self.tokenizer == "bpe" and self.vocab_size < 260:
            raise ConfigError(f"vocab_size must be at least 260 (256 bytes and 4 specials), got {self.vocab_size}")
        _number("val_split", self.val_split, least=0, most=0.5, whole=False)
        for name in ("text_field", "target_field", "label_field"):
            _text(name, getattr(self, name))
        for name in ("sequence_length", "max_source_tokens", "max_target_tokens"):
            _number(name, getattr(self, name), least=2)


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How training examples are varied anew in each epoch; validation never is."""

    token_dropout: float = 0.0
    """Part of the source's tokens that become <unk>."""
    span_mask: float = 0.0
    """Part of the source's tokens that become <unk> in spans of three on average."""
    case_noise: float = 0.0
    """Part of the sources whose letters change to all upper or all lower case."""
    char_noise: float = 0.0
    """Part of the source's characters that are dropped, doubled, or swapped with the next."""
    back_pairs: float = 0.0
    """Part of the pairs that are also trained on from target to source, marked by <back> at the start."""

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            _number(item.name, getattr(self, item.name), least=0, most=1, whole=False)

    @property
    def any(self) -> bool:
        """Whether anything is varied."""
        return any(getattr(self, item.name) for item in dataclasses.fields(self))


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How long to train, in which steps."""

    optimizer: Optimizer = "adamw"
    """`adamw` decays matrices by `weight_decay`; `adam` doesn't."""
    learning_rate: float | None = None
    """Peak of the schedule; 1.5e-3 for a decoder, 1e-3 for an encoder-decoder, 5e-5 when fine-tuning and 2e-4 with
    LoRA where None."""
    schedule: Schedule = "cosine"
    """How the learning rate falls after the warm-up; `inverse-sqrt` is that of Vaswani et al. 2017."""
    warmup: float = 0.03
    """Part of the training in which the learning rate rises."""
    weight_decay: float = 0.05
    """AdamW's, on matrices."""
    label_smoothing: float = 0.0
    """Part of each target's probability that is spread over the vocabulary."""
    max_grad_norm: float = 1.0
    """Gradients longer than this are cut to it."""
    batch_size: int = 4
    """Windows or labelled texts in a step."""
    batch_tokens: int = 4096
    """Tokens of source and target in a step, padding included; pairs only."""
    accumulate: int = 1
    """Batches whose gradients are added up before a step."""
    epochs: int | None = None
    """Times the training data is gone through; the training ends with the first of `epochs`, `max_steps` and `seconds`
    that is reached."""
    max_steps: int | None = None
    """Steps to train."""
    seconds: float | None = None
    """Time to train; 120 where none of the three is given."""
    eval_steps: int | None = None
    """Steps between two validations; after each epoch where None, and five times in all where that isn't known."""
    eval_examples: int | None = None
    """Validation examples that are looked at, from the file's start; 64 windows of running text, and 1,000 pairs or
    texts with labels, where None."""
    eval_generate: int = 64
    """Pairs of them that the model also answers, for BLEU and chrF."""
    patience: int | None = None
    """Validations without a better score after which the training stops; never before its end where None."""
    compute: Compute = "auto"
    """`bf16` computes products in bfloat16; `auto` does where the hardware multiplies in it."""

    def __post_init__(self) -> None:
        _choice("optimizer", self.optimizer, Optimizer)
        _choice("schedule", self.schedule, Schedule)
        _choice("compute", self.compute, Compute)
        if self.learning_rate is not None:
            _number("learning_rate", self.learning_rate, least=0, whole=False)
            if not self.learning_rate:
                raise ConfigError("learning_rate must be more than 0, got 0")
        for name, most in (("warmup", 1.0), ("label_smoothing", 0.9), ("weight_decay", math.inf)):
            _number(name, getattr(self, name), least=0, most=most, whole=False)
        _number("max_grad_norm", self.max_grad_norm, least=1e-6, whole=False)
        for name in ("batch_size", "batch_tokens", "accumulate"):
            _number(name, getattr(self, name), least=1)
        for name in ("epochs", "max_steps", "eval_steps", "eval_examples", "patience"):
            if getattr(self, name) is not None:
                _number(name, getattr(self, name), least=1)
        _number("eval_generate", self.eval_generate, least=0)
        if self.seconds is not None:
            _number("seconds", self.seconds, least=1, whole=False)


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Fine-tuning by low-rank updates (LoRA, arXiv 2106.09685), merged into the weights before they are saved."""

    lora_rank: int = 0
    """Rank of the updates; 0 trains all weights."""
    lora_alpha: float = 16.0
    """Scale of the updates, times 1/rank."""
    lora_dropout: float = 0.0
    """Part of their inputs that is dropped in training."""
    lora_targets: str = "all-linear"
    """Names of the layers that get them, separated by commas; `all-linear` is every one but the head."""

    def __post_init__(self) -> None:
        _number("lora_rank", self.lora_rank, least=0)
        _number("lora_alpha", self.lora_alpha, least=1e-6, whole=False)
        _number("lora_dropout", self.lora_dropout, least=0, most=0.9, whole=False)
        _text("lora_targets", self.lora_targets)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """All of a training."""

    task: Task | None = None
    """What the model learns; that of the checkpoint when fine-tuning, and else text-generation where None."""
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    optim: OptimConfig = OptimConfig()
    lora: LoraConfig = LoraConfig()
    seed: int = 0
    """Of the first weights, of the order of the examples, and of all that is left to chance."""
    threads: int | None = None
    """PyTorch's threads; the cores this process may use where None."""
    keep_last: bool = False
    """Whether the last state is kept beside the best model in a folder `last`, to go on from."""

    def __post_init__(self) -> None:
        if self.task is not None:
            _choice("task", self.task, Task)
        _number("seed", self.seed, least=0, most=2**63 - 1)
        if self.threads is not None:
            _number("threads", self.threads, least=1)
        _yes_no("keep_last", self.keep_last)
        for name, kind in GROUPS.items():
            if not isinstance(getattr(self, name), kind):
                raise ConfigError(f"{name} must be a section of the config file, got {getattr(self, name)!r}")

    def resolved(self, task: Task, *, fine_tuned: bool) -> "TrainConfig":
        """Return the configuration of a training for `task` with all that has a default of its own there filled in.

        Raises:
            ConfigError: the sizes don't fit each other.
        """
        optim = self.optim
        if optim.learning_rate is None:
            fresh = 1e-3 if task == "text2text-generation" else 1.5e-3
            rate = (2e-4 if self.lora.lora_rank else 5e-5) if fine_tuned else fresh
            optim = dataclasses.replace(optim, learning_rate=rate)
        if optim.epochs is None and optim.max_steps is None and optim.seconds is None:
            optim = dataclasses.replace(optim, seconds=_SECONDS)
        if self.lora.lora_rank and not fine_tuned:
            raise ConfigError(
                f"lora_rank {self.lora.lora_rank}: a model with fresh weights has nothing to update; name a checkpoint "
                "with --from, or leave it out"
            )
        model = self.model if fine_tuned else self.model.filled(task)
        return dataclasses.replace(self, task=task, optim=optim, model=model)

    def to_json(self) -> dict[str, Any]:
        """Return the configuration as plain values, a mapping for each group."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "TrainConfig":
        """Read what `to_json` wrote, or a part of it: what is left out keeps its default.

        Raises:
            ConfigError: a name is unknown, or a value can't be.
        """
        values = dict(_known(cls, data, ""))
        for name, kind in GROUPS.items():
            if name in values:
                section = values[name]
                if not isinstance(section, Mapping):
                    raise ConfigError(f"{name} must be a section of the config file, got {section!r}")
                values[name] = kind(**_known(kind, section, f"{name}."))
        return cls(**values)

    def but(self, values: Mapping[str, Any]) -> "TrainConfig":
        """Return the configuration with some fields changed, each by its own name whichever group it is in."""
        groups = {name: {f.name for f in dataclasses.fields(kind)} for name, kind in GROUPS.items()}
        changed: dict[str, Any] = {}
        for name, own in groups.items():
            if inside := {key: value for key, value in values.items() if key in own}:
                changed[name] = dataclasses.replace(getattr(self, name), **inside)
        rest = {key: value for key, value in values.items() if not any(key in own for own in groups.values())}
        return dataclasses.replace(self, **changed, **rest)


GROUPS: Final[Mapping[str, type[Any]]] = {
    "model": ModelConfig,
    "data": DataConfig,
    "augment": AugmentConfig,
    "optim": OptimConfig,
    "lora": LoraConfig,
}
"""The groups of `TrainConfig` by field; no two have a field of the same name."""


def _known(kind: type[Any], data: Mapping[str, Any], prefix: str) -> Mapping[str, Any]:
    names = [item.name for item in dataclasses.fields(kind)]
    for name in data:
        if name not in names:
            raise ConfigError(f"unknown option {prefix}{name}; known are {', '.join(prefix + one for one in names)}")
    return data
