"""Engines under test: small ones, ones that get many requests at once, and ones whose model goes wrong."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from threading import Event as Flag
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from altering import altered, append, constant

from deploykit.artifact import Artifact
from deploykit.config import EngineConfig
from deploykit.engine import Engine, Event, Listener, Request, SamplingParams
from deploykit.engine.budget import Budget
from deploykit.engine.decoder import make_decoder
from deploykit.engine.session import open_session
from deploykit.engine.text import Codec

SMALL = EngineConfig(max_rows=8, prefill_chunk=5, threads=1)
"""Chunks shorter than most prompts, so that rows are filled in pieces; a model this small is slower on more threads."""

Ask = tuple[str | Sequence[int], SamplingParams]


def open_engine(artifact: Artifact, config: EngineConfig = SMALL, **contract: Any) -> Engine:
    """Return an engine on an artifact with some fields of its contract changed."""
    spec = replace(artifact.manifest.decoder, **contract)
    budget = Budget.of(spec, config)
    session = open_session(artifact, threads=config.threads)
    decoder = make_decoder(session, spec, rows=config.max_rows, capacity=budget.context, cache_bytes=budget.bytes)
    return Engine(decoder, spec, Codec.open(artifact.path / "tokenizer.json"), config, budget=budget)


def together(
    engine: Engine,
    asks: Sequence[Ask],
    *,
    handles: list[Request] | None = None,
    listeners: Mapping[int, Listener] | None = None,
) -> list[list[Event]]:
    """Return the events of requests that are all queued before the first of them runs.

    Args:
        engine: an idle engine.
        asks: the requests.
        handles: gets the requests' handles, before any event.
        listeners: told instead, for some requests by their place; no events are returned for those.
    """
    everyone_is_here = Flag()
    engine.submit([5], SamplingParams(max_tokens=1), on_event=each(lambda _: everyone_is_here.wait(30)))
    told = listeners or {}
    queues: dict[int, SimpleQueue[Event]] = {place: SimpleQueue() for place in range(len(asks)) if place not in told}
    requests = [
        engine.submit(*ask, on_event=told[place] if place in told else queues[place].put)
        for place, ask in enumerate(asks)
    ]
    if handles is not None:
        handles.extend(requests)
    everyone_is_here.set()
    return [events_of(queue) for queue in queues.values()]


def each(*listeners: Callable[[Event], object]) -> Listener:
    """Return a listener that tells several, one after the other."""

    def tell(event: Event) -> None:
        for listener in listeners:
            listener(event)

    return tell


def events_of(queue: SimpleQueue[Event]) -> list[Event]:
    """Return a request's events up to the last."""
    events = [queue.get(timeout=30)]
    while events[-1].finish_reason is None:
        events.append(queue.get(timeout=30))
    return events


def tokens_of(events: Sequence[Event]) -> tuple[int, ...]:
    """Return all tokens of an answer."""
    return tuple(token for event in events for token in event.token_ids)


def poisoned(artifact: Artifact, out: Path, token: int, how: Literal["nan", "raise"]) -> Artifact:
    """Return a copy of `artifact` whose model gives a row NaN, or fails, when `token` is among the new tokens."""

    def change(graph: ir.Graph) -> None:
        def op(kind: str, *inputs: ir.Value) -> ir.Value:
            node = ir.node(kind, inputs)
            graph.append(node)
            return node.outputs[0]

        def number(name: str, value: Any) -> ir.Value:
            return constant(graph, f"poison.{name}", np.asarray(value))

        ids = next(value for value in graph.inputs if value.name == "input_ids")
        # Gather raises for a place past its table.
        place = op("Where", op("Equal", ids, number("token", token)), number("hit", 1 if how == "nan" else 10**6),
                   number("miss", 0))  # fmt: skip
        dose = op("Gather", number("table", np.array([0, np.nan], np.float32)), place)
        dose = op("Unsqueeze", op("ReduceSum", dose, number("axis", [1])), number("last", [2]))
        append(graph, "logits", "Add", dose)

    return altered(artifact, out, change)
