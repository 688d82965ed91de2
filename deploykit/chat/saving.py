"""Conversations in files."""

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from deploykit.chat.conversation import STOPPED, Conversation
from deploykit.chat_template import check_messages
from deploykit.errors import ConfigError, DeploykitError, OutputError, RequestError

_FORMAT: Final = "deploykit_chat"
_VERSION: Final = 1
_LARGEST: Final = 64 * 2**20


def save(file: Path, conversation: Conversation, *, model: str, sampling: Mapping[str, Any]) -> None:
    """Write a conversation as JSON: the whole file or nothing, readable for its owner alone.

    Raises:
        OutputError: it can't be written, or something else lies there.
    """
    _check_place(file)
    content = {
        _FORMAT: _VERSION,
        "model": model,
        "sampling": dict(sampling),
        "system": conversation.system,
        "forgotten": conversation.forgotten,
        "messages": conversation.messages,
    }
    partial = file.with_name(f".{file.name}.{secrets.token_hex(4)}.partial")
    try:
        try:
            with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:  # noqa: PTH123 - pathlib takes no descriptor
                json.dump(content, stream, indent=2, ensure_ascii=False)
                stream.write("\n")
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{file}: can't be written: {error.strerror}; save it elsewhere") from None


def load(file: Path) -> tuple[Conversation, dict[str, Any], str]:
    """Return the conversation in a file that `save` wrote, and the sampling options and the model it was held with.

    Raises:
        ConfigError: there is no such file, or it holds something else.
    """
    content = _read(file)
    if content.get(_FORMAT) != _VERSION:
        raise ConfigError(
            f"{file}: no conversation of `deploykit chat`, or of another version; give one that /save wrote"
        )
    found = content.get("messages")
    try:
        messages = _messages(found) if found else []
    except RequestError as error:
        raise ConfigError(f"{file}: {error}") from None
    sampling, system, forgotten = content.get("sampling"), content.get("system"), content.get("forgotten")
    sound = isinstance(sampling, dict) and isinstance(system, str)
    if sound and isinstance(forgotten, int) and 0 <= forgotten <= len(messages):
        conversation = Conversation(system=str(system), messages=messages, forgotten=forgotten)
        return conversation, dict(sampling or {}), str(content.get("model", ""))
    raise ConfigError(f"{file}: was changed so that it can't be read any more; give one that /save wrote")


def _messages(found: object) -> list[dict[str, Any]]:
    given = found if isinstance(found, list) else [found]
    stopped = [isinstance(message, dict) and message.get(STOPPED) is True for message in given]
    bare = [{k: v for k, v in m.items() if k != STOPPED} if isinstance(m, dict) else m for m in given]
    checked = check_messages(bare)
    return [{**message, STOPPED: True} if mark else message for message, mark in zip(checked, stopped, strict=True)]


def _check_place(file: Path) -> None:
    """Pass a name that is free, or an earlier conversation."""
    if file.is_dir():
        raise OutputError(f"{file}: a folder; name a file in it")
    if not file.exists():
        return
    try:
        ours = _FORMAT in _read(file)
    except DeploykitError:
        ours = False
    if not ours:
        raise OutputError(
            f"{file}: exists and is no conversation of `deploykit chat`, so it is kept; choose another name"
        )


def _read(file: Path) -> dict[str, Any]:
    try:
        if not file.is_file():
            raise ConfigError(f"{file}: no such file" if not file.exists() else f"{file}: not a regular file")
        if file.stat().st_size > _LARGEST:
            raise ConfigError(f"{file}: larger than a conversation can be")
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or "not JSON in UTF-8"
        raise ConfigError(f"{file}: can't be read: {reason}; give one that /save wrote") from None
    return content if isinstance(content, dict) else {}
