"""The 134M Llama as something to chat with: every token has a text, and there is a chat template."""

import json
import os
import shutil
from pathlib import Path
from typing import Any, Final

from exports import checkpoint, once

MARKS: Final = ("<|im_start|>", "<|im_end|>")
TEMPLATE: Final = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML."""
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"


def chatting(folder: Path) -> Path:
    """Return the checkpoint of random weights with the tokenizer of a model that was trained."""
    source = checkpoint(folder, "smol")
    return once(folder / "smol-chat", lambda half: _write(source, half))


def question(prompt: str, tokenizer: Path) -> str:
    """Return the part of a prompt, of one token a letter, that has the prompt's length once it is written out."""
    from tokenizers import Tokenizer

    around = Tokenizer.from_file(str(tokenizer)).encode(f"{MARKS[0]}user\n{MARKS[1]}\n{MARKS[0]}assistant\n")
    return prompt[len(around.ids) :]


def _write(source: Path, out: Path) -> None:
    shutil.copytree(source, out, ignore=shutil.ignore_patterns("tokenizer*"), copy_function=os.link)
    vocabulary = json.loads((source / "config.json").read_text())["vocab_size"]
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    _fill(tokenizer, vocabulary)
    (out / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = json.loads((source / "tokenizer_config.json").read_text())
    (out / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": TEMPLATE}, indent=2))


def _fill(tokenizer: dict[str, Any], size: int) -> None:
    """Give each id a token: the first ones theirs, the last ones the marks of a chat, and the others a word.

    The words are written and never read, since no merge leads to them: a prompt's tokens stay as they are.
    """
    words, known = tokenizer["model"]["vocab"], len(tokenizer["model"]["vocab"])
    for number in range(known, size - len(MARKS)):
        digits = [number // 26**place % 26 for place in range(4)]
        words["Ġ" + "".join(_LETTERS[digit] for digit in digits)] = number
    for number, mark in enumerate(MARKS, size - len(MARKS)):
        how = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        tokenizer["added_tokens"].append({"id": number, "content": mark, "special": True, **how})
