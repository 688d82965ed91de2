"""A pod's figures, and the arithmetic that says where they come from."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from deployments import FACTS
from hypothesis import given
from hypothesis import strategies as st

from deploykit.config import EngineConfig
from deploykit.deploy.config import DeployConfig
from deploykit.deploy.facts import ModelFacts
from deploykit.deploy.loading import OPEN_RATE, READ_RATE, START, load_seconds
from deploykit.deploy.sizing import LEAST_PROBES, MIB, RESERVE, STEP, Sizing, cores, quantity, size_pod

GATEWAY = DeployConfig(gateway=True)
S3 = DeployConfig(delivery="s3", source="s3://models/writer")
AMOUNT = re.compile(r"([\d,.]+) MiB")


def lines(sizing: Sizing) -> dict[str, str]:
    return {line.what: line.how for line in sizing.lines}


def amounts(text: str) -> float:
    """Return the sum of the amounts that a line tells, in MiB, but for what they are rounded up to."""
    return sum(float(each.replace(",", "")) for each in AMOUNT.findall(text.partition("; rounded")[0]))


def with_memory(facts: ModelFacts = FACTS, **parts: int) -> ModelFacts:
    return replace(facts, memory={**facts.memory, **parts})


@pytest.mark.parametrize(("config", "what"), [(DeployConfig(), "triton: memory"), (GATEWAY, "gateway: memory")])
@pytest.mark.parametrize("facts", [FACTS, replace(FACTS, has_chat_template=True), with_memory(weights=5000 * MIB)])
def test_memory_is_the_sum_that_is_told_with_a_reserve(config: DeployConfig, what: str, facts: ModelFacts) -> None:
    sizing = size_pod(facts, config)
    found = (sizing.gateway if "gateway" in what else sizing.serve).memory
    told = amounts(lines(sizing)[what].partition(")")[0]) * (1 + RESERVE / 100)
    # What is told is rounded to a tenth of a MiB.
    assert told - 2 <= found / MIB < told + STEP / MIB + 2
    assert found % STEP == 0


def test_disk_is_the_sum_that_is_told() -> None:
    for config in (DeployConfig(), S3):
        sizing = size_pod(FACTS, config)
        told = amounts(lines(sizing)["triton: ephemeral-storage"])
        assert told <= sizing.serve.ephemeral / MIB < told + STEP / MIB


def test_every_figure_has_a_line_and_the_gateways_only_where_there_is_one() -> None:
    always = {
        "triton: cpu", "triton: memory", "triton: ephemeral-storage", "/dev/shm", "/tmp", "--cache-memory",
        "startup probes", "grace period",
    }  # fmt: skip
    beside = {"gateway: cpu", "gateway: memory", "gateway: ephemeral-storage"}
    assert lines(size_pod(FACTS, DeployConfig())).keys() == always
    assert lines(size_pod(FACTS, GATEWAY)).keys() == always | beside
    assert lines(size_pod(FACTS, S3)).keys() == always | {"/models"}


@pytest.mark.parametrize("part", ["process", "weights", "tables", "cache", "activations"])
def test_each_part_of_the_engine_counts_in_full(part: str) -> None:
    less, more = FACTS, with_memory(FACTS, **{part: FACTS.memory[part] + 64 * STEP})
    grown = size_pod(more, DeployConfig()).serve.memory - size_pod(less, DeployConfig()).serve.memory
    assert abs(grown - 64 * STEP * 1.15) <= STEP


def test_loading_counts_where_it_is_the_peak() -> None:
    """The largest weight's copy is gone before rows are filled: one of the two is the peak, never their sum."""
    small, large = (size_pod(with_memory(loading=size), DeployConfig()) for size in (MIB, 4096 * MIB))
    assert "packed" not in lines(small)["triton: memory"]
    assert "largest weight while it is packed 4,096 MiB" in lines(large)["triton: memory"]
    assert "keys and values" not in lines(large)["triton: memory"]
    assert large.serve.memory > small.serve.memory + 4096 * MIB


def test_what_lies_in_memory_fits_its_limit() -> None:
    for queue in (1, 1024, 1_000_000):
        config = DeployConfig(engine=EngineConfig(max_queue=queue))
        sizing = size_pod(replace(FACTS, context=4096), config)
        assert sizing.shm >= max(64 * MIB, (queue + FACTS.rows) * 4096 * 8)
        assert sizing.serve.memory > sizing.shm + FACTS.memory["cache"] + FACTS.memory["process"]


def test_a_downloaded_model_has_room_on_the_disk() -> None:
    large = replace(FACTS, size=5_000_000_000)
    assert size_pod(large, DeployConfig()).model == 0
    sizing = size_pod(large, S3)
    assert sizing.model > large.size
    assert sizing.serve.ephemeral > sizing.model + sizing.tmp
    assert size_pod(large, S3).serve.memory == size_pod(large, DeployConfig()).serve.memory


def test_rows_that_are_set_aside_have_room_in_tmp() -> None:
    full, tight = FACTS, with_memory(cache=MIB, cache_limit=MIB, cache_full=1025 * MIB)
    config = DeployConfig(engine=EngineConfig(cache_memory=MIB))
    assert size_pod(tight, config).tmp - size_pod(full, DeployConfig()).tmp == 1024 * MIB
    assert "1,024 MiB of rows set aside" in lines(size_pod(tight, config))["/tmp"]
    assert size_pod(tight, config).cache == MIB
    assert lines(size_pod(tight, config))["--cache-memory"].startswith("as asked for")
    more = DeployConfig(engine=EngineConfig(cache_memory=100 * 2**40))
    assert lines(size_pod(FACTS, more))["--cache-memory"].endswith("; more was asked for")


@pytest.mark.parametrize(
    ("seconds", "probes"), [(0.0, LEAST_PROBES), (100.0, 60), (100.1, 61), (1000.0, 600), (33.4, LEAST_PROBES)]
)
def test_startup_is_given_three_times_the_load(seconds: float, probes: int) -> None:
    sizing = size_pod(replace(FACTS, load_seconds=seconds), DeployConfig())
    assert sizing.startup_threshold == probes
    assert sizing.startup_seconds == 5 * probes >= 3 * seconds


def test_the_load_is_a_sum_of_what_was_measured_and_what_a_new_node_adds() -> None:
    size = 3 * READ_RATE
    assert load_seconds(size, 1.25) == START + 3 + 1.25
    assert load_seconds(size, None) == START + 3 + size / OPEN_RATE
    told = replace(FACTS, size=size, load_seconds=load_seconds(size, 1.25))
    assert (
        "2 s for Triton + 3.0 s to read 300.0 MB + 1.2 s to open the graph (measured when it was packaged)"
        in (lines(size_pod(told, DeployConfig()))["startup probes"])
    )
    guessed = replace(told, load_measured=False)
    assert "guessed from its size" in lines(size_pod(guessed, DeployConfig()))["startup probes"]


def test_the_grace_period_holds_the_wait_and_the_streams() -> None:
    assert size_pod(FACTS, DeployConfig(pre_stop=20, exit_timeout=90)).grace == 120


def test_cores_are_those_that_were_asked_for() -> None:
    assert size_pod(FACTS, DeployConfig(cpu=7)).serve.cpu_millis == 7000


MEMORY = {name: st.integers(0, 2**40) for name in FACTS.memory}


@given(parts=st.fixed_dictionaries(MEMORY), size=st.integers(1, 2**42), rows=st.integers(1, 4096), chat=st.booleans())
def test_any_model_gets_what_it_needs_in_whole_steps(
    parts: Mapping[str, int], size: int, rows: int, chat: bool
) -> None:
    facts = replace(FACTS, memory=parts, size=size, rows=rows, has_chat_template=chat)
    sizing = size_pod(facts, S3)
    engine = parts["process"] + parts["weights"]
    assert sizing.serve.memory > 1.15 * (engine + max(parts["loading"], parts["cache"] + parts["tables"]) + sizing.shm)
    assert sizing.model >= size
    for amount in (sizing.serve.memory, sizing.serve.ephemeral, sizing.shm, sizing.tmp, sizing.gateway.memory):
        assert amount % STEP == 0
        assert quantity(amount).removesuffix("Mi").isdigit()
    assert all(line.value and line.how for line in sizing.lines)


@pytest.mark.parametrize(
    ("spelled", "wanted"),
    [
        (quantity(64 * MIB), "64Mi"), (quantity(2**40), "1048576Mi"), (quantity(1000), "1000"), (quantity(0), "0Mi"),
        (cores(2000), "2"), (cores(500), "500m"), (cores(1500), "1500m"),
    ],
)  # fmt: skip
def test_amounts_as_kubernetes_writes_them(spelled: Any, wanted: str) -> None:
    assert spelled == wanted
