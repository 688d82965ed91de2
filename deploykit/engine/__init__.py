"""`engine`: a packaged model runs here, many requests at once, without PyTorch.

with Engine.open("artifact") as engine:
    for event in engine.stream("def ", SamplingParams(max_tokens=32)):
        print(event.text, end="")
"""

from deploykit.engine.engine import Engine
from deploykit.engine.loop import EngineStats
from deploykit.engine.metrics import FinishReason, Timing
from deploykit.engine.params import SamplingParams
from deploykit.engine.request import Completion, Event, Listener, Request, TokenLogprob
from deploykit.errors import EngineError, QueueFullError

__all__ = [
    "Completion",
    "Engine",
    "EngineError",
    "EngineStats",
    "Event",
    "FinishReason",
    "Listener",
    "QueueFullError",
    "Request",
    "SamplingParams",
    "Timing",
    "TokenLogprob",
]
