"""Our engine as a contender: `python ours.py ARTIFACT '{"precision": "int4", "config": {"max_rows": 16}}'`."""

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import onnxruntime as ort
from wire import answer, resident, timed

from deploykit.config import EngineConfig
from deploykit.engine import Engine, Event, Request, SamplingParams


class Driver:
    """Closed loops on one engine."""

    def __init__(self, path: str, options: dict[str, Any]) -> None:
        self.base = resident()
        config = EngineConfig(threads=2, **options.get("config", {}))
        self.engine = Engine.open(path, config, precision=options.get("precision"))

    def streams(self, prompts: list[Any], streams: int, new: int, sampling: dict[str, Any] | None) -> list[list[int]]:
        """Return every prompt's tokens; a request is submitted as soon as one before it has ended."""
        params = SamplingParams(max_tokens=new, ignore_eos=True, **(sampling or {}))
        tokens: list[list[int]] = [[] for _ in prompts]
        ended: SimpleQueue[int] = SimpleQueue()

        def listener(number: int) -> Any:
            def tell(event: Event) -> None:
                tokens[number].extend(event.token_ids)
                if event.finish_reason is not None:
                    ended.put(number)

            return tell

        for number, prompt in enumerate(prompts):
            if number >= streams:
                ended.get()
            self.engine.submit(prompt, params, on_event=listener(number))
        for _ in range(min(streams, len(prompts))):
            ended.get()
        return tokens

    def stalls(self, order: dict[str, Any]) -> dict[str, Any]:
        """Return the milliseconds between tokens of running streams while long prompts come, one after the other."""
        times: list[list[float]] = [[] for _ in order["prompts"]]
        ended: SimpleQueue[Any] = SimpleQueue()
        running = [
            self._submit(prompt, order["new"], ended, partial(_note, seen))
            for prompt, seen in zip(order["prompts"], times, strict=True)
        ]
        while not all(len(seen) > 2 for seen in times):
            time.sleep(0.01)
        began, read = time.perf_counter(), SimpleQueue[Any]()
        for prompt in order["arriving"]:
            self._submit(prompt, 1, read)
            read.get()
        until = time.perf_counter()
        assert ended.empty(), "a stream ended before the last prompt was read"
        for request in running:
            request.cancel()
        for _ in running:
            ended.get()
        gaps = np.concatenate([np.diff([t for t in seen if began <= t <= until]) for seen in times]) * 1000
        return {"p50": float(np.percentile(gaps, 50)), "p99": float(np.percentile(gaps, 99)), "gaps": len(gaps)}

    def memory(self, order: dict[str, Any]) -> dict[str, Any]:
        """Return the most memory seen while all rows run, beyond what this process had without a model."""
        ended: SimpleQueue[Any] = SimpleQueue()
        for prompt in order["prompts"]:
            self._submit(prompt, order["new"], ended)
        left, most, cache = len(order["prompts"]), 0, 0
        while left:
            try:
                ended.get(timeout=0.05)
                left -= 1
            except Empty:
                most, cache = max(most, resident()), max(cache, self.engine.stats().cache_bytes)
        return {"bytes": most - self.base, "cache": cache}

    def _submit(
        self, prompt: Any, new: int, ended: "SimpleQueue[Any]", at_token: Callable[[], None] = lambda: None
    ) -> Request:
        def tell(event: Event) -> None:
            at_token()
            if event.finish_reason is not None:
                ended.put(None)

        return self.engine.submit(prompt, SamplingParams(max_tokens=new, ignore_eos=True), on_event=tell)


def _note(seen: list[float]) -> None:
    seen.append(time.perf_counter())


def main() -> None:
    driver = Driver(sys.argv[1], json.loads(sys.argv[2]))
    verbs = {"streams": timed(driver.streams), "stalls": driver.stalls, "memory": driver.memory}
    answer({"onnxruntime": ort.__version__}, verbs)


if __name__ == "__main__":
    main()
