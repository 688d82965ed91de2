"""What to paste in order to try the OpenAI gateway."""

import json
from collections.abc import Mapping
from pathlib import Path

import click

from deploykit.chat_template.sources import read_sources
from deploykit.gateway.key_ring import KeyRing
from deploykit.repository import open_repository

_KEY = "YOUR_KEY"


def chatty_models(*paths: Path) -> dict[str, bool]:
    """Return the models at `paths`, and whether each has a chat template."""
    return {
        model.name: read_sources(model.version_folder(model.versions[-1])) is not None
        for model in open_repository(*paths).models
    }


def wants_key(file: Path | None) -> bool:
    """Return whether the gateway asks for a key: one of a file, or of the environment."""
    return not KeyRing(file).is_open


def tell_examples(url: str, models: Mapping[str, bool], *, keys: bool) -> None:
    """Print a curl for each model, of chat where it can, and the same for the first in Python."""
    header = f" -H 'Authorization: Bearer {_KEY}'" if keys else ""
    for model, chats in models.items():
        route, asked = ("chat/completions", _messages()) if chats else ("completions", {"prompt": "Hello"})
        body = json.dumps({"model": model, **asked, "max_tokens": 32, "stream": True})
        click.echo(f"  curl -N {url}/{route}{header} -H 'Content-Type: application/json' -d '{body}'\n")
    model, chats = next(iter(models.items()))
    # The package wants one even where the gateway doesn't.
    key = _KEY if keys else "none is wanted"
    click.echo("  from openai import OpenAI")
    click.echo(f'  client = OpenAI(base_url="{url}", api_key="{key}")')
    if chats:
        asked_for = (
            f'client.chat.completions.create(model="{model}", messages={_messages()["messages"]}, max_tokens=32)'
        )
        click.echo(f"  print({asked_for}.choices[0].message.content)\n")
    else:
        asked_for = f'client.completions.create(model="{model}", prompt="Hello", max_tokens=32)'
        click.echo(f"  print({asked_for}.choices[0].text)\n")


def _messages() -> dict[str, list[dict[str, str]]]:
    return {"messages": [{"role": "user", "content": "Hello"}]}
