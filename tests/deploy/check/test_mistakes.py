"""Each of the mistakes that people make by hand is told, with its object and its field."""

from pathlib import Path

import pytest
from deployments import FACTS, build, write
from manifest_examples import findings
from manifest_mistakes import BASES, MISTAKES, Mistake, Object


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Object]]:
    folder: Path = tmp_path_factory.mktemp("bases")
    return {name: build(write(folder / name, config)) for name, config in BASES.items()}


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda each: f"{each.base}-{each.name}")
def test_names_the_object_and_the_field_of_a_mistake(mistake: Mistake, bases: dict[str, list[Object]]) -> None:
    objects = mistake.made_in(bases[mistake.base])
    found = [
        f for f in findings(objects, facts=FACTS) if f.object.endswith(mistake.object) and mistake.field in f.field
    ]
    assert mistake.level in {each.level for each in found}, mistake.breaks


@pytest.mark.parametrize("base", BASES)
def test_finds_nothing_before_the_mistake(base: str, bases: dict[str, list[Object]]) -> None:
    assert findings(bases[base], facts=FACTS) == []
