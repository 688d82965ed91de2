"""Triton's `/metrics` tell what was asked of the model."""

import json
import math
import shutil
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from triton_calls import stream

from deploykit.client import Client
from deploykit.config import ServeConfig
from deploykit.serve import LocalServer, serve
from deploykit.serve.heartbeat import is_running

pytestmark = pytest.mark.triton

PROMPT = "def greet(name):"
HISTOGRAMS = ("time_to_first_token_seconds", "time_per_output_token_seconds", "e2e_request_latency_seconds")
STAGES = ("request_queue_time_seconds", "request_prefill_time_seconds", "request_decode_time_seconds")

Figures = dict[tuple[str, str], float]
"""By name and by the labels that aren't the model's."""


def scrape(server: LocalServer) -> tuple[Figures, dict[str, str]]:
    """Return the model's figures, and the type of each metric."""
    with urllib.request.urlopen(server.metrics_url, timeout=5) as response:
        families = list(text_string_to_metric_families(response.read().decode()))
    figures: Figures = {}
    for family in families:
        for sample in family.samples:
            labels = dict(sample.labels)
            if not sample.name.startswith("nv_") and labels.pop("model") == "tiny" and labels.pop("version") == "1":
                figures[sample.name, ",".join(labels.values())] = sample.value
    return figures, {family.name: family.type for family in families}


def until(server: LocalServer, holds: Callable[[Figures], bool]) -> Figures:
    """Return the figures once they are so; they come once a second."""
    end = time.monotonic() + 10
    while not holds(figures := scrape(server)[0]):
        assert time.monotonic() < end, figures
        time.sleep(0.1)
    return figures


def test_figures_are_those_of_the_requests(server: LocalServer) -> None:
    # What others have asked before is told of within a second.
    time.sleep(1.2)
    before = scrape(server)[0]
    with Client(server.grpc_url, model="tiny") as client:
        answers = [client.generate(PROMPT, max_tokens=tokens, ignore_eos=True) for tokens in (1, 5, 9)]

    def grown(figures: Figures, name: str, label: str = "") -> float:
        return figures[name, label] - before.get((name, label), 0)

    after = until(server, lambda figures: grown(figures, "generation_tokens_total") == 15)
    assert grown(after, "prompt_tokens_total") == sum(answer.num_input_tokens for answer in answers)
    assert grown(after, "request_success_total", "length") == 3
    assert [grown(after, f"{name}_count") for name in HISTOGRAMS] == [3, 12, 3]
    assert [grown(after, f"{name}_bucket", "+Inf") for name in HISTOGRAMS] == [3, 12, 3]
    sums = [grown(after, f"{name}_sum") for name in HISTOGRAMS]
    assert sums[0] + sums[1] == pytest.approx(sums[2], rel=0.2)
    assert 0 < math.fsum(sums) < 20
    assert (after["num_requests_running", ""], after["num_requests_waiting", ""]) == (0, 0)
    assert [grown(after, f"{name}_count") for name in STAGES] == [3, 3, 3]
    assert sum(grown(after, f"{name}_sum") for name in STAGES) == pytest.approx(sums[2], rel=0.2)
    types = scrape(server)[1]
    assert {types[name] for name in STAGES} == {"histogram"}
    assert {types[name] for name in HISTOGRAMS} == {"histogram"}
    assert (types["generation_tokens"], types["num_requests_running"]) == ("counter", "gauge")


def test_gauges_show_what_runs_and_what_was_cancelled(slow_server: LocalServer) -> None:
    before = scrape(slow_server)[0]
    with stream(slow_server, text_input=PROMPT, stream=True, max_tokens=400, ignore_eos=True) as responses:
        next(responses)
        running = until(slow_server, lambda figures: figures["num_requests_running", ""] == 1)
        assert 0 < running["kv_cache_usage_perc", ""] < 1
    cancelled = ("request_success_total", "cancelled")
    after = until(slow_server, lambda figures: figures.get(cancelled, 0) == before.get(cancelled, 0) + 1)
    assert after["num_requests_running", ""] == 0


def test_figures_go_on_when_a_model_is_replaced_and_add_up_while_the_old_one_ends(
    slow_repository: Path, anywhere: ServeConfig, tmp_path: Path
) -> None:
    root = shutil.copytree(slow_repository, tmp_path / "repository")
    long = {"text_input": PROMPT, "stream": True, "max_tokens": 400, "ignore_eos": True}

    def running(number: int) -> Callable[[Figures], bool]:
        return lambda figures: figures["num_requests_running", ""] == number

    with serve(root, anywhere) as server, Client(server.grpc_url, model="tiny") as client:
        client.generate(PROMPT, max_tokens=5, ignore_eos=True)
        until(server, lambda figures: figures["generation_tokens_total", ""] == 5)
        before = server.beats()["tiny"].pid
        file = root / "tiny/1/manifest.json"
        manifest = json.loads(file.read_text())
        manifest["history"].append(manifest["history"][-1])
        file.write_text(json.dumps(manifest))
        with stream(server, **long) as old:
            next(old)
            until(server, running(1))
            assert server.reload() == ["tiny"]
            with stream(server, **long) as new:
                next(new)
                both = until(server, running(2))
                assert 0 < both["kv_cache_usage_perc", ""] < 1
            until(server, running(1))
        end = time.monotonic() + 20
        while is_running(before):
            assert time.monotonic() < end
            time.sleep(0.05)
        ended = until(server, running(0))
        assert ended["kv_cache_usage_perc", ""] == 0
        client.generate(PROMPT, max_tokens=4, ignore_eos=True)
        first, cancelled = (("request_success_total", reason) for reason in ("length", "cancelled"))
        after = until(server, lambda figures: figures[first] == 2)
        assert after[cancelled] == 2
        assert after["generation_tokens_total", ""] > 9
        assert [after[f"{name}_count", ""] for name in HISTOGRAMS[::2]] == [4, 4]
        assert server.restarts == 0
