import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deploykit.deploy.check import kustomization_rules, reading
from deploykit.deploy.check.rules import RULES

PAGE = Path(__file__).parents[3] / "docs" / "linting.md"
MARKS = re.compile(r"(<!-- rules: [^\n]*-->\n)(.*?)(<!-- end of rules -->)", re.DOTALL)
FILES = {
    "unreadable": "A file that can't be read to its end: mistakes in YAML, tabs, templates not rendered.",
    "field-twice": "A field that stands twice in one mapping.",
    "no-object": "A document that is no object.",
    "no-objects": "A file, a folder or a kustomization without any object.",
    "kustomize": "A kustomization that kustomize refuses, with its reason.",
    "remote-base": "A kustomization that builds on something on the network: a check fetches nothing.",
}


def rows(rules: Any) -> Iterator[str]:
    for rule in rules:
        said = (rule.__doc__ or "").partition("\n")[0]
        yield f"| `{rule.__name__.replace('_', '-')}` | {said} |"


def listing() -> str:
    """Return the list of rules as the page has it, from their docstrings."""
    modules = list(dict.fromkeys(rule.__module__ for rule in RULES))
    parts = [
        (importlib.import_module(name).__doc__ or "", rows(importlib.import_module(name).RULES)) for name in modules
    ]
    parts.append((kustomization_rules.__doc__ or "", rows(kustomization_rules.RULES)))
    parts.append((reading.__doc__ or "", (f"| `{name}` | {said} |" for name, said in FILES.items())))
    return "\n".join(
        f"**{head.partition(chr(10))[0].rstrip('.')}**\n\n| rule | finds |\n|---|---|\n" + "\n".join(lines) + "\n"
        for head, lines in parts
    )


def test_the_page_lists_every_rule_as_its_docstring_has_it(regen: bool) -> None:
    text = PAGE.read_text("utf-8")
    if regen:
        PAGE.write_text(MARKS.sub(lambda found: f"{found[1]}\n{listing()}\n{found[3]}", text), "utf-8")
        return
    found = MARKS.search(text)
    assert found is not None
    assert found[2].strip() == listing().strip(), "a rule has changed; if that is meant: pytest --regen"


def test_findings_of_files_are_those_that_the_page_names() -> None:
    folder = Path(reading.__file__).parent
    text = "".join((folder / name).read_text("utf-8") for name in ("reading.py", "kustomizing.py"))
    assert set(re.findall(r'"(unreadable|field-twice|no-objects?|kustomize|remote-base)"', text)) == FILES.keys()
