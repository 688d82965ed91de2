"""The small files beside the graph: configuration, tokenizer, onnxruntime-genai's description, card and licence."""

import shutil
from pathlib import Path, PurePosixPath
from typing import Any, Final

from deploykit.card import CARD, new_card
from deploykit.chat_template.trial import find_faults
from deploykit.convert.checkpoint import CHAT_TEMPLATES, Checkpoint
from deploykit.convert.weights import read_json
from deploykit.draft import Draft
from deploykit.errors import ArtifactError, CheckpointError, EngineError, MissingExtraError, QueueFullError
from deploykit.progress import Progress
from deploykit.spec import ATTENTION_MASK, EXACT_INT8, INPUT_IDS, LOGITS, VARIANT_FILES, DecoderSpec, graph_files

TOKENIZER_FILES: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
SLOW_TOKENIZERS: Final = ("tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
"""Files of which any one means that there is a tokenizer, if an older one."""
LICENCES: Final = ("LICENSE*", "LICENCE*", "COPYING*", "NOTICE*", "USE_POLICY.md")
"""Files that travel along byte for byte."""
_SPECIALS: Final = ("bos_token", "eos_token", "unk_token", "pad_token")
_CHECKING: Final = "checking the chat template"


def special_ids(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return `bos_token_id`, `eos_token_ids` and `pad_token_id`, generation_config.json's before config.json's."""
    file = checkpoint.folder / "generation_config.json"
    generation = read_json(file) if file.is_file() else {}

    def first(name: str) -> Any:
        found = generation.get(name)
        return getattr(checkpoint.config, name, None) if found is None else found

    ends = first("eos_token_id")
    ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
    ids = {"bos_token_id": first("bos_token_id"), "pad_token_id": first("pad_token_id")}
    for name, value in [*ids.items(), *(("eos_token_id", end) for end in ends)]:
        # Some checkpoints write -1 for "none"; ids past the vocabulary can't be meant.
        if value is not None and not (isinstance(value, int) and -1 <= value < checkpoint.config.vocab_size):
            raise CheckpointError(
                f"{checkpoint.folder}: {name} is {value!r}, but the vocabulary ends at "
                f"{checkpoint.config.vocab_size - 1}; correct it in config.json or generation_config.json"
            )
    kept = {name: None if value == -1 else value for name, value in ids.items()}
    return {**kept, "eos_token_ids": tuple(end for end in ends if end >= 0)}


def check_chat_templates(checkpoint: Checkpoint, progress: Progress) -> None:
    """Say before the work, not when somebody chats, that a chat template is broken.

    Args:
        checkpoint: whose templates are compiled and render a small conversation.
        progress: told what is wrong with one that compiles; other conversations may suit it.

    Raises:
        CheckpointError: a template can't be read or doesn't compile.
    """
    notes = []
    try:
        for fault in find_faults(checkpoint.folder):
            if not fault.compiles:
                raise CheckpointError(
                    f"{checkpoint.folder / fault.file}: {fault.reason}; correct the template, or remove it to export "
                    "the model without one"
                )
            notes.append(f"{fault.file}: {fault.reason}")
    except ArtifactError as error:
        raise CheckpointError(str(error)) from None
    except (EngineError, MissingExtraError, QueueFullError) as error:
        # The model may well be served elsewhere.
        notes.append(f"not checked: {error}")
    if notes:
        progress(_CHECKING, 0, 1)
        progress(_CHECKING, 1, 1, "; ".join(notes))


def write_sidecars(sheet: Draft, checkpoint: Checkpoint, spec: DecoderSpec, *, hub_id: str | None = None) -> None:
    """Write every file of the artifact but the graph.

    Args:
        sheet: the artifact being written.
        checkpoint: where they come from.
        spec: the graph's contract.
        hub_id: the checkpoint's name on the hub, if it came from there.

    Raises:
        CheckpointError: the tokenizer can't be converted.
    """
    graphs = [PurePosixPath(file).name for file in graph_files("fp32", spec)]
    # Per file: `true` for all would make transformers.js look for data beside variants that have none.
    external = {"use_external_data_format": dict.fromkeys(graphs, 1)}
    sheet.write_json("config.json", {**checkpoint.raw_config, "transformers.js_config": external})
    _write_generation_config(sheet, checkpoint, spec)
    _write_tokenizer(sheet, checkpoint)
    if spec.encoder is None:
        # onnxruntime-genai runs encoder-decoders of speech only.
        sheet.write_json("genai_config.json", genai_config(checkpoint.config, spec))
    for pattern in LICENCES:
        for file in sorted(checkpoint.folder.glob(pattern)):
            if file.is_file():
                shutil.copyfile(file, sheet.file(file.name))
    _write_card(sheet, checkpoint, hub_id)


def genai_config(config: Any, spec: DecoderSpec) -> dict[str, Any]:
    """Return what onnxruntime-genai needs to know of the graph."""
    layer, shared = spec.layers[0], spec.cache == "shared"
    return {
        "model": {
            # genai refuses families it doesn't know, and has code of its own for some ("gpt2", "phi3") that expects
            # other graphs; "decoder" takes what is described here.
            "type": "decoder",
            "vocab_size": spec.vocab_size,
            "context_length": spec.max_context,
            "bos_token_id": spec.bos_token_id if spec.bos_token_id is not None else 0,
            "eos_token_id": list(spec.eos_token_ids),
            "pad_token_id": spec.pad_token_id if spec.pad_token_id is not None else (*spec.eos_token_ids, 0)[0],
            "decoder": {
                # Unknown names become ONNX Runtime's session configuration.
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": [], EXACT_INT8: "1"},
                "filename": VARIANT_FILES["fp32"],
                "head_size": layer.key_dim,
                "hidden_size": getattr(config, "hidden_size", None),
                "num_attention_heads": getattr(config, "num_attention_heads", None),
                "num_hidden_layers": len(spec.layers),
                "num_key_value_heads": layer.heads,
                "inputs": {
                    "input_ids": INPUT_IDS,
                    "attention_mask": ATTENTION_MASK,
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": LOGITS,
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
            },
        },
        "search": {
            "do_sample": False,
            "num_beams": 1,
            "max_length": spec.max_context,
            "past_present_share_buffer": shared,
        },
    }


def _write_card(sheet: Draft, checkpoint: Checkpoint, hub_id: str | None) -> None:
    file = checkpoint.folder / CARD
    # Whatever bytes a card holds, they come out as they went in.
    source = file.read_bytes().decode(errors="surrogateescape") if file.is_file() else None
    licence = next((path.name for path in sorted(sheet.path.glob("LICEN[SC]E*"))), None)
    text = new_card(source, name=checkpoint.architecture, hub_id=hub_id, licence=licence)
    sheet.file(CARD).write_bytes(text.encode(errors="surrogateescape"))


def _write_generation_config(sheet: Draft, checkpoint: Checkpoint, spec: DecoderSpec) -> None:
    file = checkpoint.folder / "generation_config.json"
    if file.is_file():
        sheet.write_json(file.name, read_json(file))
        return
    ends: Any = list(spec.eos_token_ids)
    fields = {
        "_from_model_config": True,
        "bos_token_id": spec.bos_token_id,
        "eos_token_id": ends[0] if len(ends) == 1 else ends or None,
        "pad_token_id": spec.pad_token_id,
    }
    if spec.encoder:
        fields |= zip(("decoder_start_token_id", "forced_bos_token_id"), spec.encoder.decoder_prompt, strict=False)
    sheet.write_json(file.name, {name: value for name, value in fields.items() if value is not None})


def _write_tokenizer(sheet: Draft, checkpoint: Checkpoint) -> None:
    for name in TOKENIZER_FILES:
        if (checkpoint.folder / name).is_file():
            shutil.copyfile(checkpoint.folder / name, sheet.file(name))
    for file in sorted(checkpoint.folder.glob(CHAT_TEMPLATES)):
        shutil.copyfile(file, sheet.file(f"{file.parent.name}/{file.name}"))
    if not (checkpoint.folder / "tokenizer.json").is_file():
        if not any((checkpoint.folder / name).is_file() for name in SLOW_TOKENIZERS):
            return
        _convert_tokenizer(checkpoint, sheet.path)
    config = sheet.path / "tokenizer_config.json"
    if config.is_file() and not (sheet.path / "special_tokens_map.json").is_file():
        # transformers 5 no longer writes this file, but older readers of the folder ask for it.
        fields = read_json(config)
        specials = {name: fields[name] for name in _SPECIALS if fields.get(name) is not None}
        sheet.write_json("special_tokens_map.json", specials)


def _convert_tokenizer(checkpoint: Checkpoint, folder: Path) -> None:
    """Write `tokenizer.json` from the files of an older tokenizer."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder, local_files_only=True, trust_remote_code=False)
        tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    except Exception as error:  # each tokenizer class fails in its own way
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"{checkpoint.folder}: the tokenizer can't be converted to tokenizer.json: {reason}; "
            "save it with transformers' fast tokenizer first"
        ) from error
    largest = len(tokenizer) - 1
    if largest >= checkpoint.config.vocab_size:
        raise CheckpointError(
            f"{checkpoint.folder}: the tokenizer gives ids up to {largest}, but the embedding has only "
            f"{checkpoint.config.vocab_size} rows (vocab_size in config.json); the two don't belong together"
        )
