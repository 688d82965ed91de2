"""What an artifact must have before it is worth a place in a repository."""

import json
from typing import Final

from deploykit.artifact import Artifact
from deploykit.errors import ArtifactError
from deploykit.spec import TASK_GENERATION, TASK_TEXT2TEXT

_TASKS: Final = (TASK_GENERATION, TASK_TEXT2TEXT)


def check_serveable(artifact: Artifact) -> None:
    """Check that an artifact can take text and give text.

    Raises:
        ArtifactError: another task, no graph of the served precision, no tokenizer, or one with more entries than
            the graph has.
    """
    manifest = artifact.manifest
    if manifest.task not in _TASKS:
        raise ArtifactError(f"{artifact.path}: task {manifest.task!r} can't be served yet, only {', '.join(_TASKS)}")
    artifact.graph()
    if artifact.tokenizer is None:
        raise ArtifactError(
            f"{artifact.path}: no tokenizer.json, and Triton is to take text; "
            "save the tokenizer beside the checkpoint and export it again"
        )
    largest = _largest_token_id(artifact)
    if largest >= manifest.decoder.vocab_size:
        raise ArtifactError(
            f"{artifact.tokenizer}: token id {largest}, but the graph's vocabulary ends at "
            f"{manifest.decoder.vocab_size - 1}; export with the tokenizer that belongs to the model"
        )


def _largest_token_id(artifact: Artifact) -> int:
    assert artifact.tokenizer is not None
    try:
        data = json.loads(artifact.tokenizer.read_text(encoding="utf-8"))
        vocabulary = data["model"]["vocab"]
        # Unigram models list their entries, the others map them to ids.
        ids = range(len(vocabulary)) if isinstance(vocabulary, list) else vocabulary.values()
        added = [token["id"] for token in data.get("added_tokens") or ()]
        return max([*ids, *added], default=-1)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArtifactError(f"{artifact.tokenizer}: not a tokenizer that can be read: {error!r}") from error
