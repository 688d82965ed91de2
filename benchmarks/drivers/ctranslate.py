"""CTranslate2 as a contender: `python ctranslate.py MODEL '{"compute": "int8"}'`, in its environment.

All prompts are handed over at once and `streams` of them run together (`max_batch_size`, counted in examples): it knows
no requests that come and go, and a full queue of equal lengths is its best case.
"""

import json
import sys
from typing import Any

import ctranslate2
import numpy as np
from wire import answer, timed


class Driver:
    """One generator on two threads."""

    def __init__(self, path: str, options: dict[str, Any]) -> None:
        compute = options.get("compute", "int8")
        self.generator = ctranslate2.Generator(path, compute_type=compute, inter_threads=1, intra_threads=2)

    def streams(
        self, prompts: list[list[int]], streams: int, new: int, sampling: dict[str, Any] | None
    ) -> list[list[int]]:
        """Return every prompt's tokens; the prompts are read at once, not token by token."""
        assert sampling is None, "compared greedily only"
        results = self.generator.generate_batch(
            [[f"t{token}" for token in prompt] for prompt in prompts],
            max_batch_size=streams,
            max_length=new,
            min_length=new,
            include_prompt_in_result=False,
        )
        return [result.sequences_ids[0] for result in results]

    def logits(self, order: dict[str, Any]) -> dict[str, Any]:
        """Save the logits of every window, [windows, tokens, V]."""
        found = [np.array(self.generator.forward_batch([window]))[0] for window in order["windows"]]
        np.save(order["file"], np.stack(found))
        return {}


def main() -> None:
    driver = Driver(sys.argv[1], json.loads(sys.argv[2]))
    verbs = {"streams": timed(driver.streams), "logits": driver.logits}
    answer({"ctranslate2": ctranslate2.__version__}, verbs)


if __name__ == "__main__":
    main()
