"""A real Triton on a packaged artifact, asked for text over HTTP as any client may."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Self

from deploykit.artifact import Artifact
from deploykit.config import ServeConfig
from deploykit.errors import ParityError
from deploykit.serve import LocalServer, serve

_TIMEOUT: Final = 600.0
"""Seconds until an answer must be there."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """What Triton answered to a prompt."""

    text: str
    logprob: float
    """Of all tokens together."""
    num_input_tokens: int
    num_output_tokens: int


class Triton:
    """A running Triton; `open_triton` starts one and ends it."""

    def __init__(self, server: LocalServer) -> None:
        self._generate = f"{server.http_url}/v2/models/{server.models[0]}/generate"
        self._metadata = f"{server.http_url}/v2"

    @classmethod
    @contextmanager
    def open(cls, artifact: Artifact) -> Iterator[Self]:
        """Start one on the artifact, on free ports of this machine.

        Raises:
            ArtifactError: it isn't packaged, or was changed.
            MissingExtraError: there is no Triton on this machine.
            ServeError: it doesn't come up.
        """
        ports = ServeConfig(http_port=0, grpc_port=0, metrics_port=0, health_port=0)
        with serve(artifact.path, ports) as server:
            yield cls(server)

    def version(self) -> str:
        """Return the server's version."""
        return str(self._ask(self._metadata, None, "metadata")["version"])

    def write(self, case: str, prompts: Sequence[str], *, tokens: int, at_once: bool) -> list[Written]:
        """Return greedy continuations of exactly that many tokens, asked for one after the other or all at once.

        Raises:
            ParityError: the server refuses a prompt.
        """

        def ask(prompt: str) -> Written:
            fields = {
                "text_input": prompt,
                "max_tokens": tokens,
                "temperature": 0.0,
                "ignore_eos": True,
                "exclude_input_in_output": True,
                "return_cumulative_logprob": True,
                "return_num_input_tokens": True,
                "return_num_output_tokens": True,
            }
            answer = self._ask(self._generate, fields, case)
            return Written(
                text=answer["text_output"],
                logprob=float(answer["cumulative_logprob"]),
                num_input_tokens=int(answer["num_input_tokens"]),
                num_output_tokens=int(answer["num_output_tokens"]),
            )

        with ThreadPoolExecutor(len(prompts) if at_once else 1) as pool:
            return list(pool.map(ask, prompts))

    def _ask(self, url: str, fields: dict[str, Any] | None, case: str) -> dict[str, Any]:
        data = None if fields is None else json.dumps(fields).encode()
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"})  # noqa: S310 - our own server
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:  # noqa: S310 - our own server
                return dict(json.load(response))
        except urllib.error.HTTPError as error:
            reason = " ".join(error.read().decode(errors="replace").split())[:400]
            raise ParityError(f"triton: refuses a prompt in case {case!r}: {reason}; see the model's log") from error
        except OSError as error:
            raise ParityError(f"triton: doesn't answer in case {case!r}: {error}; is it still running?") from error
