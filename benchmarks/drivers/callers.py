"""Everyone who asks one server, as a contender: `python callers.py MODEL '{"grpc": ADDRESS, "http": PORT, …}'`.

A process of its own, so that its processor time is the client's alone.
"""

import dataclasses
import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
from wire import answer

sys.path.insert(0, str(Path(__file__).parents[1]))
from grpc_load import Bare, Ours
from http_load import Streams, chat, completions, triton


def main() -> None:
    model, ports = sys.argv[1], json.loads(sys.argv[2])
    with ExitStack() as stack:
        callers: dict[str, Any] = {
            "gRPC": stack.enter_context(Bare(ports["grpc"], model)),
            "AsyncClient": stack.enter_context(Ours(ports["grpc"], model)),
            "generate_stream": stack.enter_context(Streams(triton(ports["http"], model))),
            "gateway": stack.enter_context(Streams(completions(ports["gateway"], model))),
            "gateway, chat": stack.enter_context(Streams(chat(ports["gateway"], model))),
        }

        def run(order: dict[str, Any]) -> dict[str, Any]:
            load = callers[order["who"]].run(order["prompts"], order["streams"], **order["parameters"])
            return dataclasses.asdict(load)

        def events(order: dict[str, Any]) -> dict[str, Any]:
            return {"events": callers[order["who"]].events(order["prompt"], **order["parameters"])}

        answer({"grpc": grpc.__version__}, {"run": run, "events": events})


if __name__ == "__main__":
    main()
