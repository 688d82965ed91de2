"""llama.cpp as a contender: `python llamacpp.py MODEL.gguf '{"rows": 16, "context": 640}'`, in its environment.

What its server does in its slots, without the server: a step decodes one token of every running sequence together with
the whole prompts of those that have just come, in one batch (`llama_decode`), so it loses nothing to HTTP. Greedy takes
the largest logit; sampling is llama.cpp's own chain.
"""

import ctypes
import json
import sys
from importlib.metadata import version
from typing import Any

import llama_cpp as cpp
import numpy as np
from wire import answer, timed

BATCH = 2048
"""Tokens of a batch at most, and 512 in one pass: llama.cpp's defaults."""


class Driver:
    """One model and one context of `rows` sequences."""

    def __init__(self, path: str, options: dict[str, Any]) -> None:
        self._quiet = cpp.llama_log_callback(lambda *_: None)
        cpp.llama_log_set(self._quiet, ctypes.c_void_p(0))
        cpp.llama_backend_init()
        self.model = cpp.llama_model_load_from_file(path.encode(), cpp.llama_model_default_params())
        params = cpp.llama_context_default_params()
        rows = options.get("rows", 16)
        params.n_seq_max, params.n_ctx = rows, rows * options.get("context", 640)
        params.n_batch, params.n_ubatch = BATCH, 512
        params.n_threads = params.n_threads_batch = 2
        params.kv_unified = options.get("unified", False)
        self.context = cpp.llama_init_from_model(self.model, params)
        self.memory = cpp.llama_get_memory(self.context)
        self.vocabulary = cpp.llama_vocab_n_tokens(cpp.llama_model_get_vocab(self.model))
        self.batch = cpp.llama_batch_init(BATCH, 0, 1)

    def streams(
        self, prompts: list[list[int]], streams: int, new: int, sampling: dict[str, Any] | None
    ) -> list[list[int]]:
        """Return every prompt's tokens; a sequence that ends makes room for the next prompt at once."""
        tokens: list[list[int]] = [[] for _ in prompts]
        waiting = list(range(len(prompts)))[::-1]
        slots: dict[int, int] = {}
        sampler = self._sampler(sampling)
        while waiting or slots:
            for slot in range(streams):
                if waiting and slot not in slots:
                    slots[slot] = waiting.pop()
            places = self._step(slots, prompts, tokens)
            for slot, place in places.items():
                number = slots[slot]
                tokens[number].append(self._choose(place, sampler))
                if len(tokens[number]) == new:
                    del slots[slot]
                    cpp.llama_memory_seq_rm(self.memory, slot, -1, -1)
        return tokens

    def _step(self, slots: dict[int, int], prompts: list[list[int]], tokens: list[list[int]]) -> dict[int, int]:
        """Run one batch and return, by slot, the place of its logits."""
        batch, places, size = self.batch, {}, 0
        for slot, number in slots.items():
            done = tokens[number]
            start = len(prompts[number]) + len(done) - 1 if done else 0
            feed = done[-1:] or prompts[number]
            if size + len(feed) > BATCH:
                continue
            for offset, token in enumerate(feed):
                batch.token[size], batch.pos[size] = token, start + offset
                batch.n_seq_id[size], batch.seq_id[size][0], batch.logits[size] = 1, slot, 0
                size += 1
            batch.logits[size - 1] = 1
            places[slot] = size - 1
        batch.n_tokens = size
        self._decode()
        return places

    def _decode(self) -> None:
        if status := cpp.llama_decode(self.context, self.batch):
            raise RuntimeError(f"llama_decode gives {status}")

    def _choose(self, place: int, sampler: Any) -> int:
        if sampler is None:
            return int(np.argmax(self._logits(place)))
        return int(cpp.llama_sampler_sample(sampler, self.context, place))

    def _logits(self, place: int) -> Any:
        return np.ctypeslib.as_array(cpp.llama_get_logits_ith(self.context, place), (self.vocabulary,))

    @staticmethod
    def _sampler(sampling: dict[str, Any] | None) -> Any:
        if sampling is None:
            return None
        chain = cpp.llama_sampler_chain_init(cpp.llama_sampler_chain_default_params())
        cpp.llama_sampler_chain_add(chain, cpp.llama_sampler_init_top_k(sampling["top_k"]))
        cpp.llama_sampler_chain_add(chain, cpp.llama_sampler_init_temp(sampling["temperature"]))
        cpp.llama_sampler_chain_add(chain, cpp.llama_sampler_init_dist(1))
        return chain

    def logits(self, order: dict[str, Any]) -> dict[str, Any]:
        """Save the logits of every window, [windows, tokens, V]."""
        found = []
        for window in order["windows"]:
            for place, token in enumerate(window):
                self.batch.token[place], self.batch.pos[place], self.batch.logits[place] = token, place, 1
                self.batch.n_seq_id[place], self.batch.seq_id[place][0] = 1, 0
            self.batch.n_tokens = len(window)
            self._decode()
            found.append(np.stack([self._logits(place) for place in range(len(window))]))
            cpp.llama_memory_seq_rm(self.memory, 0, -1, -1)
        np.save(order["file"], np.stack(found))
        return {}


def main() -> None:
    driver = Driver(sys.argv[1], json.loads(sys.argv[2]))
    versions = {"llama.cpp": version("llama_cpp_python"), "system": cpp.llama_print_system_info().decode().strip()}
    answer(versions, {"streams": timed(driver.streams), "logits": driver.logits})


if __name__ == "__main__":
    main()
