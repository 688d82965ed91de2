"""Opens a checkpoint, local or from the hub, and checks all that can be checked before work begins."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from deploykit.config import ConvertConfig
from deploykit.convert.sizes import check_raw, check_sizes
from deploykit.convert.text_part import text_config, text_tensors
from deploykit.convert.weights import PICKLE, Weights, check_types, open_weights, read_json
from deploykit.errors import CheckpointError, ConfigError, UnsupportedModelError
from deploykit.quiet import quiet

HUB_FILES: Final = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "README.md", "LICENSE*", "NOTICE*")
"""What is downloaded of a hub repository: no other framework's weights, nothing in subfolders but `CHAT_TEMPLATES`."""
OWN: Final = "deploykit_transformer"
"""Model type of what `deploykit train` makes of pairs of texts."""
CHAT_TEMPLATES: Final = "additional_chat_templates/*.jinja"
"""Beside the usual template: for tools and documents, each by its name."""
_HUB_ID: Final = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_LIMITS: Final = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "max_sequence_length",
    "seq_length",
    "max_target_positions",
)
"""What configurations call their longest sequence."""
_MAX_POSITIONS: Final = 1 << 24
"""Longest context whose position table is written: 8 GB of it at a head size of 128."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint whose parts were found and fit together."""

    folder: Path
    raw_config: dict[str, Any]
    """config.json as it is written; that of the language part, of a model for more than text."""
    config: Any
    """The same as a transformers configuration, its defaults filled in."""
    whole: Any
    """The configuration of all parts: the same as `config`, but of a model for more than text."""
    weights: Weights

    @property
    def architecture(self) -> str:
        """The model class config.json names, or the one that belongs to its model type."""
        known = _pair_classes() if is_encoder_decoder(self.config) else _causal_classes()
        named = self.raw_config.get("architectures") or _flat([known.get(self.config.model_type, "unknown")])
        return str(next(iter(named)))

    def max_context(self, wanted: int | None, *, stretch: float = 1.0) -> int:
        """Return the longest sequence to convert for, in tokens: `wanted`, or the checkpoint's own limit.

        Args:
            wanted: what was asked for, if anything was.
            stretch: how many times its own limit the model can be asked for.

        Raises:
            ConfigError: `wanted` is longer than what the checkpoint was made for, or no limit is known.
        """
        # Where there is no limit some write 0, and some -1.
        limits = (getattr(self.config, name, None) for name in _LIMITS)
        own = next((limit for limit in limits if isinstance(limit, int) and limit > 0), None)
        context = own if wanted is None else wanted
        if context is None:
            raise ConfigError(f"{self.folder}: config.json names no longest context; pass --max-context TOKENS")
        if own is not None and context > (longest := int(own * stretch)):
            raise ConfigError(
                f"max_context {context} exceeds the {longest} positions of this checkpoint; "
                f"pass --max-context {longest} or less"
            )
        if context > _MAX_POSITIONS:
            raise ConfigError(f"a context of {context} tokens is too long; pass --max-context {_MAX_POSITIONS} or less")
        return int(context)


def open_checkpoint(source: str | Path, options: ConvertConfig) -> Checkpoint:
    """Return the checkpoint at `source`, a folder or a hub id.

    Raises:
        CheckpointError: it is missing, damaged, unsafe to read, or its parts don't fit each other.
        UnsupportedModelError: it is no language model that can be converted.
    """
    folder = find_folder(source, options)
    raw = read_json(folder / "config.json")
    check_raw(folder / "config.json", raw)
    whole = _read_config(folder, raw, trust_remote_code=options.trust_remote_code)
    config = _check_kind(folder, raw, whole)
    check_sizes(folder / "config.json", config)
    weights = open_weights(folder, allow_pickle=options.allow_pickle)
    check_types(weights)
    layers = getattr(config, "num_hidden_layers", 0)
    if isinstance(layers, int) and layers > len(weights.tensors):
        raise CheckpointError(
            f"{folder}: config.json says {layers} layers, but the weights hold only {len(weights.tensors)} tensors"
        )
    _check_tokenizer(folder, config)
    if config is not whole:
        weights = Weights(source=weights.source, tensors=text_tensors(weights.tensors))
        raw = {**config.to_diff_dict(), "architectures": [_causal_classes()[config.model_type]]}
    return Checkpoint(
        folder=folder, raw_config=raw, config=config, whole=whole, weights=_with_embedding(weights, config)
    )


def find_folder(source: str | Path, options: ConvertConfig) -> Path:
    """Return the checkpoint's folder, downloaded first where `source` is a hub id.

    Raises:
        CheckpointError: there is no such folder, and nothing of that name on the hub, or the hub can't be reached.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise CheckpointError(f"{source}: a file; pass the folder that holds config.json and the weights")
    if isinstance(source, Path) or not _HUB_ID.fullmatch(source):
        raise CheckpointError(f"{source}: no such folder")
    return _download(source, options)


def _download(name: str, options: ConvertConfig) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    patterns = [*HUB_FILES, *([f"{PICKLE.removesuffix('.bin')}*.bin"] if options.allow_pickle else [])]
    place: dict[str, Any] = {"repo_id": name, "cache_dir": options.cache_dir}
    ignored = ["*/*", "consolidated*"]
    try:
        folder = snapshot_download(**place, revision=options.revision, allow_patterns=patterns, ignore_patterns=ignored)
        # By itself, since a pattern can't leave out all subfolders but one; of the same commit, which names the folder.
        snapshot_download(**place, revision=Path(folder).name, allow_patterns=[CHAT_TEMPLATES])
        return Path(folder)
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))
        raise CheckpointError(
            f"{name}: no such folder, and it can't be had from the Hugging Face hub: {reason}; "
            "check the name, the network and HF_TOKEN"
        ) from error


def _read_config(folder: Path, raw: dict[str, Any], *, trust_remote_code: bool) -> Any:
    from transformers import CONFIG_MAPPING, AutoConfig

    kind = raw.get("model_type")
    if not isinstance(kind, str):
        raise CheckpointError(f"{folder / 'config.json'}: has no 'model_type'; is it a transformers checkpoint?")
    if kind == OWN:
        # Importing it makes it known to transformers.
        import deploykit.transformer.pretrained  # noqa: F401
    if kind not in CONFIG_MAPPING and not (trust_remote_code and "auto_map" in raw):
        needs = "needs code that comes with it (--trust-remote-code runs it)" if "auto_map" in raw else "is unknown"
        from deploykit.convert.fused import FAMILIES

        raise UnsupportedModelError(
            f"{folder / 'config.json'}: model type {kind!r} {needs}; {', '.join(FAMILIES)} are written as fused "
            "graphs, other causal language models of the installed transformers are traced (docs/models.md)"
        )
    try:
        with quiet():
            return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
    except Exception as error:  # a configuration class can fail in any way on values it doesn't expect
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{folder / 'config.json'}: a value in it can't be: {reason}") from error


def is_encoder_decoder(config: Any) -> bool:
    """Return whether a model reads one text and writes another."""
    return bool(getattr(config, "is_encoder_decoder", False))


def _pair_classes() -> dict[str, Any]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES

    return {**MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES, OWN: "TransformerForConditionalGeneration"}


def _causal_classes() -> dict[str, str]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return dict(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def _check_kind(folder: Path, raw: dict[str, Any], config: Any) -> Any:
    """Check that this is a language model in plain floating point, and return the configuration of its text."""
    if is_encoder_decoder(config):
        _check_pair(folder, raw, config)
        _check_plain(folder, raw)
        return config
    named = raw.get("architectures") or []
    causal = _causal_classes()
    own_code = "auto_map" in raw
    if not own_code and (config.model_type not in causal or (named and named[0] not in _flat(causal.values()))):
        raise UnsupportedModelError(
            f"{folder}: {(named or [config.model_type])[0]} is no causal language model; "
            "only those (…ForCausalLM, GPT2LMHeadModel and the like) and encoder-decoders that write text can be "
            "converted so far"
        )
    text = text_config(config)
    if not isinstance(getattr(text, "vocab_size", None), int) or (text is not config and text.model_type not in causal):
        raise UnsupportedModelError(
            f"{folder}: {config.model_type} has no vocabulary of its own in config.json, as models for more than text "
            "have none, and no language model in it that is known; only causal language models can be converted so far"
        )
    _check_plain(folder, raw)
    return text


def _check_pair(folder: Path, raw: dict[str, Any], config: Any) -> None:
    """Check that this is an encoder-decoder that writes text from text."""
    named, known = raw.get("architectures") or [], _pair_classes()
    if config.model_type not in known or (named and named[0] not in _flat(known.values())):
        raise UnsupportedModelError(
            f"{folder}: {(named or [config.model_type])[0]} is no encoder-decoder that writes text from text; only "
            "those (…ForConditionalGeneration, MarianMTModel) and causal language models can be converted so far"
        )


def _check_plain(folder: Path, raw: dict[str, Any]) -> None:
    """Check that the weights aren't quantized already."""
    for name in ("quantization_config", "compression_config"):
        if plan := raw.get(name) or (raw.get("text_config") or {}).get(name):
            method = plan.get("quant_method") if isinstance(plan, dict) else None
            raise UnsupportedModelError(
                f"{folder}: the weights are quantized already ({method or 'unknown method'}); convert the checkpoint "
                "it was made from, or save it dequantized (transformers: model.dequantize()); `deploykit quantize` "
                "does the rest"
            )


def _with_embedding(weights: Weights, config: Any) -> Weights:
    """Return the weights with the embedding under its own name, where a tied checkpoint kept only the head's."""
    head = weights.tensors.get("lm_head.weight")
    known = any(name.endswith(("embed_tokens.weight", "wte.weight")) for name in weights.tensors)
    if head is None or known or not getattr(config, "tie_word_embeddings", False):
        return weights
    aliases = dict.fromkeys(("model.embed_tokens.weight", "transformer.wte.weight"), head)
    return Weights(source=weights.source, tensors={**weights.tensors, **aliases})


def _flat(names: Any) -> set[str]:
    return {name for entry in names for name in ([entry] if isinstance(entry, str) else entry)}


def _check_tokenizer(folder: Path, config: Any) -> None:
    """Check that every id the tokenizer can give has a row in the embedding."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        return
    from tokenizers import Tokenizer

    try:
        vocabulary = Tokenizer.from_file(str(file)).get_vocab(with_added_tokens=True)
    except Exception as error:  # the tokenizers package raises plain Exception for what it can't parse
        raise CheckpointError(f"{file}: can't be read as a tokenizer: {error}") from error
    largest = max(vocabulary.values(), default=-1)
    if largest >= config.vocab_size:
        raise CheckpointError(
            f"{file}: the tokenizer gives ids up to {largest}, but the embedding has only {config.vocab_size} rows "
            "(vocab_size in config.json); the two don't belong together"
        )
