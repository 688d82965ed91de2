"""Whether labels fit a selector, as the API decides it."""

import re
from collections.abc import Mapping
from typing import Any

from deploykit.deploy.check.manifests import mapping, sequence


def fits(selector: object, labels: Mapping[str, Any]) -> bool:
    """Return whether labels fit a `LabelSelector`; an empty one fits all, none at all fits nothing."""
    if not isinstance(selector, dict):
        return False
    wanted = mapping(selector.get("matchLabels"))
    return fits_all(wanted, labels) and all(
        _expression(mapping(each), labels) for each in sequence(selector.get("matchExpressions"))
    )


def fits_all(wanted: Mapping[str, Any], labels: Mapping[str, Any]) -> bool:
    """Return whether labels hold all pairs of a plain selector, as a Service's."""
    return all(key in labels and str(labels[key]) == str(value) for key, value in wanted.items())


def is_empty(selector: object) -> bool:
    """Return whether a `LabelSelector` asks for nothing, and so fits everything."""
    return isinstance(selector, dict) and not selector.get("matchLabels") and not selector.get("matchExpressions")


def selects(text: str, labels: Mapping[str, Any]) -> bool:
    """Return whether labels fit a selector in kubectl's spelling; what isn't understood fits."""
    for part in re.split(r",(?![^()]*\))", text):
        if found := re.fullmatch(r"\s*([^\s!=]+)\s*(==?|!=)\s*(\S*)\s*", part):
            key, sign, value = found.groups()
            if (str(labels.get(key)) == value if key in labels else False) == (sign == "!="):
                return False
        elif (found := re.fullmatch(r"\s*(!?)([^\s!=()]+)\s*", part)) and (found[2] in labels) == bool(found[1]):
            return False
    return True


def _expression(expression: Mapping[str, Any], labels: Mapping[str, Any]) -> bool:
    key, values = str(expression.get("key")), [str(value) for value in sequence(expression.get("values"))]
    there = key in labels
    match expression.get("operator"):
        case "In":
            return there and str(labels[key]) in values
        case "NotIn":
            return not there or str(labels[key]) not in values
        case "Exists":
            return there
        case "DoesNotExist":
            return not there
    # The schema tells of an operator that doesn't exist.
    return True
