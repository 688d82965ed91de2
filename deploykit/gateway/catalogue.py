"""The models that the gateway offers: what it must know of each to check a request before Triton sees it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tokenizers import Tokenizer

from deploykit.artifact import MANIFEST, Artifact
from deploykit.chat_template import ChatTemplate, Limits
from deploykit.gateway.errors import Refusal, no_such_model
from deploykit.gateway.turns import Turns
from deploykit.gateway.vocabulary import Vocabulary
from deploykit.gateway.watch import note_model
from deploykit.repository import Model, open_repository
from deploykit.text import load_tokenizer


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A model, and what its requests are checked against."""

    name: str
    created: int
    """When its files were made, in seconds since 1970."""
    context: int
    """Prompt and answer together, in tokens: as much as the model was made for; its engine may have less."""
    source: int | None = None
    """Longest prompt, in tokens, where an encoder reads it and the answer is a text of its own; None elsewhere."""
    vocab_size: int
    fingerprint: str
    """Another one as soon as a file has changed."""
    tokenizer: Tokenizer | None
    vocabulary: Vocabulary
    template: ChatTemplate | None
    rendering: Turns = field(default_factory=lambda: Turns(Limits.processes))
    """For the chat template, whose processes these threads wait for."""
    encoding: Turns = field(default_factory=lambda: Turns(2))
    """For long texts: few threads, since each may take seconds of a core."""

    @classmethod
    def open(cls, model: Model) -> Self:
        """Return what the files of a model say of it, those of its highest version, which is what Triton serves.

        Raises:
            ArtifactError: they can't be read.
        """
        folder = model.version_folder(model.versions[-1])
        artifact = Artifact.open(folder, verify=False)
        tokenizer = load_tokenizer(artifact.tokenizer) if artifact.tokenizer else None
        contract = artifact.contract()
        return cls(
            name=model.name,
            created=int((folder / MANIFEST).stat().st_mtime),
            context=contract.max_context,
            source=contract.encoder.max_source if contract.encoder else None,
            vocab_size=contract.vocab_size,
            fingerprint=shown(model.fingerprint),
            tokenizer=tokenizer,
            vocabulary=Vocabulary(tokenizer),
            template=ChatTemplate.open(folder),
        )

    def tokens_from(self) -> Tokenizer:
        """Return the tokenizer.

        Raises:
            Refusal: the model has none.
        """
        if self.tokenizer is None:
            raise Refusal("this model has no tokenizer; send the prompt as token ids", param="model")
        return self.tokenizer


class Catalogue:
    """The models by name, as their files are."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Open the models of packaged artifacts and model repositories, the same that `deploykit serve` takes.

        Raises:
            ArtifactError: no model there, or one that can't be read.
        """
        self._paths = tuple(paths)
        self._models: dict[str, ServedModel] = {}
        self.reload()

    @property
    def models(self) -> tuple[ServedModel, ...]:
        """The models, sorted by name."""
        return tuple(self._models[name] for name in sorted(self._models))

    def find(self, name: str) -> ServedModel:
        """Return a model.

        Raises:
            Refusal: there is none of that name.
        """
        if found := self._models.get(name):
            note_model(name)
            return found
        raise no_such_model(name)

    def reload(self) -> list[str]:
        """Look at the files again, and return the names of the models that are new or have changed.

        Raises:
            ArtifactError: one of them can't be read; every model stays as it was.
        """
        found = {model.name: model for model in open_repository(*self._paths).models}
        opened = {
            name: ServedModel.open(model)
            for name, model in found.items()
            if name not in self._models or self._models[name].fingerprint != shown(model.fingerprint)
        }
        # What renders an old model's templates ends by itself with the last request that uses it.
        self._models = {name: opened.get(name) or self._models[name] for name in found}
        return sorted(opened)

    def close(self) -> None:
        """End what renders chat templates."""
        for model in self.models:
            if model.template:
                model.template.close()


def shown(fingerprint: str) -> str:
    """Return a fingerprint as responses show it, in OpenAI's manner."""
    return f"fp_{fingerprint[:10]}"
