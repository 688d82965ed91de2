"""Numbers in manifests: whole ones, percentages and quantities, or None for what is none of them."""

import math
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Final

from deploykit.deploy.check.manifests import mapping
from deploykit.deploy.check.quantities import QuantityError, parse_quantity

_PERCENT: Final = re.compile(r"([0-9]{1,9})%")


def whole(value: object) -> int | None:
    """Return a whole number, None for anything else; `true` is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def amount(value: object) -> Fraction | None:
    """Return how much a quantity is, None where there is none or it can't be read."""
    try:
        return None if value is None else parse_quantity(value)
    except QuantityError:
        return None


def percent(value: object) -> int | None:
    """Return the number before a percent sign, None for anything else."""
    found = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    return int(found[1]) if found else None


def share(value: object, total: int, *, up: bool) -> int | None:
    """Return how many of `total` a number or a percentage is, rounded up or down; None for anything else."""
    if (part := percent(value)) is not None:
        return math.ceil(total * part / 100) if up else total * part // 100
    return whole(value)


def resource(container: Mapping[str, Any], name: str, *kinds: str) -> Fraction | None:
    """Return the first amount of a resource that a container names in `limits`, `requests` or whichever are asked."""
    resources = mapping(container.get("resources"))
    found = (amount(mapping(resources.get(kind)).get(name)) for kind in kinds)
    return next((each for each in found if each is not None), None)
