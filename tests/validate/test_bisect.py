"""The place at which a difference begins: found in fused and traced graphs alike, and only where there is one."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from altering import altered, append, constant, replace_weight
from click.testing import CliRunner

from deploykit.artifact import Artifact
from deploykit.cli.main import commands
from deploykit.config import ConvertConfig
from deploykit.convert import convert
from deploykit.convert.hidden import torch_hidden_states
from deploykit.errors import CheckpointError, ParityError
from deploykit.validate.bisect import Hidden, Place, bisect, first_difference

PARTS = ["keys", "values", "attention", "mlp"]
PLACES = ["embedding"]
for number in range(2):
    PLACES += [f"layers.{number}/{part}" for part in PARTS] + [f"layers.{number}"]
PLACES += ["norm", "logits"]


@pytest.fixture(scope="session")
def llama_states(tiny_llama: Path) -> Hidden:
    return torch_hidden_states(tiny_llama, ConvertConfig())


@pytest.fixture(scope="session")
def gpt2(tiny_gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return convert(tiny_gpt2, tmp_path_factory.mktemp("bisect") / "gpt2")


@pytest.fixture(scope="session")
def gpt2_states(tiny_gpt2: Path) -> Hidden:
    return torch_hidden_states(tiny_gpt2, ConvertConfig())


def shifted(source: Artifact, out: Path, weight: str) -> Artifact:
    """Return a copy in which one element of a weight is off."""

    def change(array: Any) -> Any:
        broken = array.copy()
        broken.flat[array.size // 3] += 0.5
        return broken

    return altered(source, out, lambda graph: replace_weight(graph, weight, change))


def product(artifact: Artifact, number: int) -> str:
    """Return the constant factor of a traced graph's n-th product, which has no telling name."""
    from deploykit import graph

    weights = [
        node.inputs[1]
        for node in graph.load(artifact.graph("fp32")).graph
        if node.op_type == "MatMul" and node.inputs[1] is not None
    ]
    return [str(value.name) for value in weights if value.is_initializer()][number]


@pytest.mark.parametrize("kind", ["fused", "traced"])
def test_a_sound_graph_has_every_place_and_no_difference(
    kind: str, llama_states: Hidden, request: pytest.FixtureRequest
) -> None:
    found = bisect(request.getfixturevalue(kind), llama_states)
    assert found.first is None
    found.check()
    assert [place.name for place in found.places] == PLACES
    assert [entry["name"] for entry in found.to_json()["places"]] == PLACES
    assert all(place.same for place in found.places)
    # The last thing tried: a past, too, changes nothing.
    assert found.case == "chunk on a past"


@pytest.mark.parametrize(
    ("weight", "place"),
    [
        ("model.layers.0.input_layernorm.weight", "layers.0/keys"),
        ("model.layers.0.mlp.down_proj.weight", "layers.0/mlp"),
        ("model.layers.1.self_attn.o_proj.weight", "layers.1/attention"),
        ("model.layers.1.post_attention_layernorm.weight", "layers.1/mlp"),
        ("model.norm.weight", "norm"),
        ("lm_head.weight", "logits"),
    ],
)
def test_names_the_place_behind_a_damaged_weight(
    weight: str, place: str, fused: Artifact, llama_states: Hidden, tmp_path: Path
) -> None:
    found = bisect(shifted(fused, tmp_path / "damaged", weight), llama_states)
    with pytest.raises(ParityError, match=rf"^{place}: max \|onnx - pytorch\| = .* > .* in case 'prefill'"):
        found.check()


@pytest.mark.parametrize(
    ("weight", "place"),
    [
        ("transformer.wpe.weight", "embedding"),
        ("transformer.h.1.attn.c_attn.weight", "layers.1/keys"),
        ("transformer.h.0.mlp.c_proj.weight", "layers.0/mlp"),
    ],
)
def test_names_the_place_in_another_family(
    weight: str, place: str, gpt2: Artifact, gpt2_states: Hidden, tmp_path: Path
) -> None:
    assert bisect(gpt2, gpt2_states).first is None
    first = bisect(shifted(gpt2, tmp_path / "damaged", weight), gpt2_states).first
    assert first is not None
    assert first.name == place


# The order of a layer's products as traced: query, key, value, out, gate, up, down.
@pytest.mark.parametrize(
    ("number", "place"),
    [(1, "layers.0/keys"), (6, "layers.0/mlp"), (10, "layers.1/attention"), (13, "layers.1/mlp"), (14, "logits")],
)
def test_names_the_place_in_a_traced_graph(
    number: int, place: str, traced: Artifact, llama_states: Hidden, tmp_path: Path
) -> None:
    first = bisect(shifted(traced, tmp_path / "damaged", product(traced, number)), llama_states).first
    assert first is not None
    assert first.name == place


def test_nan_differs_and_json_stays_json(fused: Artifact, llama_states: Hidden, tmp_path: Path) -> None:
    name = "model.layers.1.mlp.down_proj.weight"
    source = altered(
        fused, tmp_path / "damaged", lambda graph: replace_weight(graph, name, lambda array: array * np.float32(np.nan))
    )
    found = bisect(source, llama_states)
    assert found.first is not None
    assert found.first.name == "layers.1/mlp"
    with pytest.raises(ParityError, match=r"layers\.1/mlp: max"):
        found.check()
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["first"] == "layers.1/mlp"


def test_what_only_a_past_shows_is_found_in_the_second_case(
    traced: Artifact, llama_states: Hidden, tmp_path: Path
) -> None:
    def change(graph: ir.Graph) -> None:
        # The past's values of layer 1 are halved before they are read, so a prefill is right.
        past = next(value for value in graph.inputs if value.name == "past_key_values.1.value")
        users = [(use.node, use.idx) for use in past.uses()]
        half = ir.node("Mul", [past, constant(graph, "half", np.array(0.5, np.float32))])
        graph.insert_before(graph[0], half)
        for node, at in users:
            if node.op_type != "Shape":
                node.replace_input_with(at, half.outputs[0])

    found = bisect(altered(traced, tmp_path / "damaged", change), llama_states)
    assert found.case == "chunk on a past"
    assert found.first is not None
    assert found.first.name == "layers.1/values"


def test_a_wrong_cache_is_named_though_the_logits_are_right(
    traced: Artifact, llama_states: Hidden, tmp_path: Path
) -> None:
    def change(graph: ir.Graph) -> None:
        append(graph, "present.1.key", "Mul", constant(graph, "half", np.array(0.5, np.float32)))

    first = bisect(altered(traced, tmp_path / "damaged", change), llama_states).first
    assert first is not None
    assert first.name == "layers.1/keys"


def test_a_precision_is_compared_with_fp32_and_its_worst_layer_named(
    int8: Artifact, llama_states: Hidden, tmp_path: Path
) -> None:
    found = bisect(int8, llama_states, precision="int8")
    assert (found.precision, found.truth) == ("int8", "fp32")
    found.check()
    by_name = {place.name: place for place in found.places}
    assert list(by_name) == PLACES
    errors = [by_name[name].relative_error for name in ("embedding", "layers.0", "layers.1")]
    assert all(error is not None and 1e-4 < error < 0.05 for error in errors)

    def coarse(array: Any) -> Any:
        return array * np.float32(1.2)

    name = "model.layers.1.mlp.down_proj.weight.T.scales"
    worse = altered(int8, tmp_path / "worse", lambda graph: replace_weight(graph, name, coarse), precision="int8")
    first = bisect(worse, llama_states, precision="int8").first
    assert first is not None
    assert first.name == "layers.1"


def test_a_reference_of_another_model_is_refused(fused: Artifact, gpt2_states: Hidden) -> None:
    with pytest.raises(
        ParityError, match=r"layers.0/keys: the reference's is \[4, 128, 16\], the graph's \[2, 128, 16\]"
    ):
        bisect(fused, gpt2_states)


def test_tokens_the_reference_doesnt_have(tiny_llama: Path, llama_states: Hidden) -> None:
    with pytest.raises(CheckpointError, match="too few for token 9999"):
        llama_states(np.array([1, 9999]))


def place(name: str, error: float | None) -> Place:
    return Place(name=name, max_abs_error=error, relative_error=error, allowed=0.5)


@pytest.mark.parametrize(
    ("errors", "first"),
    [
        ({"embedding": 0, "layers.0": 0, "logits": 0}, None),
        ({"embedding": 0, "layers.0": None, "logits": 0}, None),
        ({"embedding": None, "layers.0": 0, "logits": 1}, "logits"),
        ({"embedding": 0, "layers.0/keys": 0, "layers.0/mlp": 1, "layers.0": 1, "logits": 1}, "layers.0/mlp"),
        # Attention and MLP side by side: the MLP doesn't see what attention did wrong.
        (
            {"embedding": 0, "layers.0/attention": 1, "layers.0/mlp": 0, "layers.0": 1, "logits": 1},
            "layers.0/attention",
        ),
        ({"embedding": 0, "layers.0": 0, "layers.1": None, "norm": 1, "logits": 1}, "layers.1"),
        ({"embedding": 1, "layers.0": 1, "logits": 1}, "embedding"),
        ({"embedding": 0, "layers.0/keys": 1, "layers.0": 0, "logits": 0}, "layers.0/keys"),
    ],
)
def test_the_first_difference(errors: dict[str, float | None], first: str | None) -> None:
    found = first_difference([place(name, error) for name, error in errors.items()])
    assert (found and found.name) == first


def test_the_command_prints_the_places_and_ends_with_the_first_difference(
    fused: Artifact, tiny_llama: Path, tmp_path: Path
) -> None:
    source = shifted(fused, tmp_path / "damaged", "model.layers.1.mlp.down_proj.weight")
    arguments = ["validate", str(source.path), "--reference", str(tiny_llama), "--bisect"]
    failed = CliRunner().invoke(commands, arguments)
    assert failed.exit_code == 4
    assert re.search(r"^layers\.1/mlp .*<- the first that differs$", failed.stdout, re.MULTILINE)
    assert "error: layers.1/mlp: max |onnx - pytorch|" in failed.stderr
    assert json.loads(CliRunner().invoke(commands, [*arguments, "--json"]).stdout)["first"] == "layers.1/mlp"
    sound = CliRunner().invoke(commands, ["validate", str(fused.path), *arguments[2:]])
    assert sound.exit_code == 0
    assert "no difference beyond tolerance" in sound.stdout


def test_a_failed_comparison_says_how_to_find_the_layer(fused: Artifact, tiny_llama: Path, tmp_path: Path) -> None:
    source = shifted(fused, tmp_path / "damaged", "model.norm.weight")
    failed = CliRunner().invoke(commands, ["validate", str(source.path), "--reference", str(tiny_llama)])
    assert failed.exit_code == 4
    assert "rerun with --bisect to see in which layer it begins" in failed.stderr
