"""onnxruntime-genai as a contender: `python genai.py MODEL '{"way": "engine", "rows": 16}'`, in its environment.

Two ways: its `Engine`, which takes requests as they come, and its `Generator`, which runs one batch from beginning to
end. Dynamic batching of the `Engine` needs a graph with PagedAttention, which its builder writes for GPUs only.
"""

import json
import sys
from typing import Any

import numpy as np
import onnxruntime_genai as og
from wire import answer, timed


class Driver:
    """One model, with both ways of running it."""

    def __init__(self, path: str, options: dict[str, Any]) -> None:
        config = og.Config(path)
        engine = {"static_batching": {"max_batch_size": options.get("rows", 16)}}
        threads = {"intra_op_num_threads": 2, "inter_op_num_threads": 1}
        config.overlay(json.dumps({"engine": engine, "model": {"decoder": {"session_options": threads}}}))
        self.model = og.Model(config)
        self.engine: Any = og.Engine(self.model) if options["way"] == "engine" else None

    def streams(
        self, prompts: list[list[int]], streams: int, new: int, sampling: dict[str, Any] | None
    ) -> list[list[int]]:
        """Return every prompt's tokens."""
        if self.engine is None:
            batches = [prompts[start : start + streams] for start in range(0, len(prompts), streams)]
            return [tokens for batch in batches for tokens in self._batch(batch, new, sampling)]
        return self._requests(prompts, streams, new, sampling)

    def _requests(
        self, prompts: list[list[int]], streams: int, new: int, sampling: dict[str, Any] | None
    ) -> list[list[int]]:
        tokens: list[list[int]] = [[] for _ in prompts]
        waiting = list(enumerate(prompts))[::-1]
        running: list[tuple[Any, int]] = []
        buffer = self.engine.create_event_buffer(2 * streams)
        while waiting or running:
            while waiting and len(running) < streams:
                number, prompt = waiting.pop()
                running.append((self._begin(prompt, new, sampling), number))
            self.engine.run(buffer)
            for place in range(len(buffer)):
                self._take(buffer[place], running, tokens)
        return tokens

    def _begin(self, prompt: list[int], new: int, sampling: dict[str, Any] | None) -> Any:
        options = og.RequestOptions()
        options.set_max_session_tokens(len(prompt) + new)
        request = self.engine.create_request(options=options)
        turn = og.TurnOptions(request)
        turn.set_do_sample(sampling is not None)
        if sampling:
            turn.set_temperature(sampling["temperature"])
            turn.set_top_k(sampling["top_k"])
        turn.set_min_generated_tokens(new)
        turn.set_max_generated_tokens(new)
        request.begin_turn(np.array(prompt, np.int32), turn)
        return request

    @staticmethod
    def _take(event: Any, running: list[tuple[Any, int]], tokens: list[list[int]]) -> None:
        place = next(place for place, (request, _) in enumerate(running) if request == event.request)
        request, number = running[place]
        flags = event.flags.value
        if flags & og.EngineEventFlags.FAILED.value:
            raise RuntimeError(f"the engine failed: {event.error_code}")
        if flags & og.EngineEventFlags.TOKEN.value:
            tokens[number].append(event.token)
        if flags & og.EngineEventFlags.TURN_FINISHED.value:
            del running[place]
            request.close()

    def _batch(self, prompts: list[list[int]], new: int, sampling: dict[str, Any] | None) -> list[list[int]]:
        params = og.GeneratorParams(self.model)
        length = len(prompts[0]) + new
        params.set_search_options(
            batch_size=len(prompts),
            max_length=length,
            min_length=length,
            do_sample=sampling is not None,
            **sampling or {},
        )
        generator = og.Generator(self.model, params)
        generator.append_tokens(np.array(prompts, np.int32))
        while not generator.is_done():
            generator.generate_next_token()
        return [generator.get_sequence(row)[-new:].tolist() for row in range(len(prompts))]

    def logits(self, order: dict[str, Any]) -> dict[str, Any]:
        """Save the logits of every window, [windows, tokens, V]."""
        found = []
        for window in order["windows"]:
            params = og.GeneratorParams(self.model)
            params.set_search_options(batch_size=1, max_length=len(window) + 1)
            generator = og.Generator(self.model, params)
            generator.append_tokens(np.array([window], np.int32))
            found.append(generator.get_output("logits")[0])
        np.save(order["file"], np.stack(found))
        return {}


def main() -> None:
    driver = Driver(sys.argv[1], json.loads(sys.argv[2]))
    answer({"onnxruntime-genai": og.__version__}, {"streams": timed(driver.streams), "logits": driver.logits})


if __name__ == "__main__":
    main()
