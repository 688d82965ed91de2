"""What somebody probably meant."""

import difflib
from collections.abc import Iterable


def nearest(name: str, names: Iterable[str], *, cutoff: float = 0.75) -> str | None:
    """Return the name of some that is closest to one, letters' case aside; None where none is close."""
    by_lower = {each.lower(): each for each in sorted(names)}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[found[0]] if found else None
