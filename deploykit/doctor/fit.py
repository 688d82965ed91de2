"""Whether an engine's memory fits in this machine or container."""

from deploykit.doctor.finding import Finding, ok
from deploykit.doctor.machine import memory_figures
from deploykit.memory import Estimate, Load


def check_fit(guess: Estimate, load: Load, how: str) -> Finding:
    """Return whether an estimate fits into what this machine has, with the arithmetic.

    Args:
        guess: the estimate.
        load: what it was made for.
        how: how the process's share is known.
    """
    figures = memory_figures()
    room = min(figures.values(), default=0)
    tokens = f"{load.context} tokens{f' and a source of {load.source}' if load.source else ''}"
    what = f"{guess.peak / 1e6:,.0f} MB for {load.rows} rows of {tokens} = {guess.arithmetic()} ({how})"
    if not figures:
        return Finding(level="note", what="memory needed", found=f"{what}; what there is can't be told")
    which = next(name for name, size in figures.items() if size == room)
    found = f"{what}; {room / 1e6:,.0f} MB {'is the limit' if which == 'limit' else which}"
    if not guess.peak <= room:
        per_row = guess.cache // max(1, load.rows)
        remedy = f"lower max_rows ({per_row / 1e6:,.1f} MB each) or max_context, serve fewer bits, or give more memory"
        return Finding(level="error", what="memory needed", found=found, remedy=remedy)
    if guess.peak > 0.8 * room:
        remedy = "leave a fifth free: lower max_rows or max_context, or give more memory"
        return Finding(level="warning", what="memory needed", found=found, remedy=remedy)
    return ok("memory needed", found)
