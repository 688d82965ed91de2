"""An export that can be served in both modes, and what runs in each."""

from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

import deploykit
from deploykit.artifact import Artifact
from deploykit.client import Client
from deploykit.config import EngineConfig, Mode, ServeConfig
from deploykit.engine import Engine, SamplingParams
from deploykit.serve import serve

PARAMS = SamplingParams(max_tokens=24, ignore_eos=True)


@pytest.fixture(scope="module")
def both(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return deploykit.export(tiny_llama, tmp_path_factory.mktemp("both") / "out", name="both", throughput=True)


def test_the_repository_holds_what_both_modes_run(both: Artifact) -> None:
    inner = Artifact.open(both.path / "model_repository/both/1")
    assert inner.precisions() == ["int8", "dynamic-int8"]
    assert (inner.precision_for("deterministic"), inner.precision_for("throughput")) == ("int8", "dynamic-int8")
    assert {"int8", "dynamic-int8"} <= set(both.manifest.parity)


@pytest.mark.triton
def test_mode_throughput_answers_what_dynamic_int8_answers(both: Artifact, ports: ServeConfig) -> None:
    with Engine.open(both.path, precision="dynamic-int8") as engine:
        expected = engine.generate("def ", PARAMS)
    with Engine.open(both.path, EngineConfig(mode="throughput")) as engine:
        assert engine.generate("def ", PARAMS).token_ids == expected.token_ids
    with serve(both.path, replace(ports, engine={"mode": "throughput", "max_rows": 2})) as server:
        facts = server.facts()["both"]
        assert (facts["precision"], facts["mode"], facts["rows"]) == ("dynamic-int8", "throughput", 2)
        # No figures where the model doesn't know the text that they were measured on.
        assert facts["quality"] == {}
        with Client(server.grpc_url) as client:
            assert client.generate("def ", max_tokens=24, ignore_eos=True).text == expected.text


def test_modes_run_different_graphs(both: Artifact) -> None:
    found = set()
    modes: tuple[Mode, ...] = get_args(Mode)
    for mode in modes:
        with Engine.open(both.path, EngineConfig(mode=mode)) as engine:
            found.add(engine.generate("def ", replace(PARAMS, max_tokens=1, logprobs=0)).cumulative_logprob)
    assert len(found) == len(modes)
    assert None not in found
