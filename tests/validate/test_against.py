"""Other runtimes on the same artifact: ONNX Runtime alone in a process of its own, and a real Triton."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from altering import altered, append, constant, rewritten, without
from click.testing import CliRunner

from deploykit.artifact import Artifact
from deploykit.cli.main import commands
from deploykit.config import PackageConfig, QuantizeConfig, ValidateConfig
from deploykit.errors import ArtifactError, ConfigError, ParityError
from deploykit.package import package
from deploykit.quantize import quantize
from deploykit.validate.against import STEPS, _judged, against, prompts
from deploykit.validate.peers.process import Generated
from deploykit.validate.peers.triton import Written
from deploykit.validate.written import Expected
from deploykit.validate.written import _judged as judged_text

CASES = {"one prompt", "one token", "ragged batch"}


@pytest.mark.parametrize(("kind", "precision"), [("fused", "fp32"), ("traced", "fp32"), ("int8", "int8")])
def test_onnxruntime_alone_writes_the_same_tokens(kind: str, precision: Any, request: pytest.FixtureRequest) -> None:
    found = against(request.getfixturevalue(kind), "onnxruntime", precision=precision)
    assert found.runtime.startswith("onnxruntime 1.")
    assert found.precision == precision
    assert set(found.cases) == CASES
    for case in found.cases.values():
        assert case["max_abs_error"] <= case["allowed"]
        assert case["equal"] == 1
    assert found.cases["ragged batch"]["tokens"] > found.cases["one token"]["tokens"] >= 1
    json.dumps(found.to_json(), allow_nan=False)


@pytest.fixture(scope="module")
def lenient(fused: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A graph that is right for whoever asks for all logits by name, and wrong for who leaves the default."""

    def change(graph: ir.Graph) -> None:
        default = next(value for value in graph.inputs if value.name == "num_logits_to_keep")
        default.const_value = ir.tensor(np.array(1, np.int64), name="num_logits_to_keep")
        one = ir.node("Cast", [default], attributes={"to": ir.DataType.FLOAT})
        graph.append(one)
        append(graph, "logits", "Add", one.outputs[0])

    return altered(fused, tmp_path_factory.mktemp("against") / "lenient", change)


def test_a_graph_that_another_caller_reads_differently_is_caught(lenient: Artifact) -> None:
    with pytest.raises(
        ParityError, match=r"logits: max \|onnxruntime 1\..* - onnx\| = 1 > .* in case 'one prompt' \(row 0, token \d"
    ):
        against(lenient, "onnxruntime")


def test_a_graph_that_the_runtime_refuses_is_named_with_its_case(fused: Artifact, tmp_path: Path) -> None:
    def change(graph: ir.Graph) -> None:
        first = next(value for value in graph.inputs if value.name == "input_ids")
        one = ir.node("Squeeze", [first, constant(graph, "planted.rows", np.array([0]))])
        zero = ir.node("ReduceMin", [one.outputs[0]], attributes={"keepdims": 0})
        gone = ir.node("Mul", [zero.outputs[0], constant(graph, "planted.zero", np.array(0))])
        cast = ir.node("Cast", [gone.outputs[0]], attributes={"to": ir.DataType.FLOAT})
        graph.extend([one, zero, gone, cast])
        append(graph, "logits", "Add", cast.outputs[0])

    with pytest.raises(ParityError, match=r"onnxruntime: fails in case 'ragged batch': .*Squeeze"):
        against(altered(fused, tmp_path / "one row", change), "onnxruntime")


@pytest.mark.parametrize(("runtime", "package_name"), [("genai", "onnxruntime-genai"), ("optimum", "optimum-onnx")])
def test_a_runtime_that_isnt_here_says_how_to_get_it(
    runtime: Any, package_name: str, fused: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=rf"{package_name}.* isn't installed here; .*pip install.*--python {runtime}/bin"
    ):
        against(fused, runtime)


def test_a_python_without_the_runtime(fused: Artifact, tmp_path: Path) -> None:
    # A real interpreter without site-packages: its own standard library only.
    import subprocess
    import sys

    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    with pytest.raises(ConfigError, match=r"lacks it \(ModuleNotFoundError: .*\); .*pip install 'onnxruntime' numpy"):
        against(fused, "onnxruntime", python=tmp_path / "bare" / "bin" / "python")


def test_a_file_that_is_no_python(fused: Artifact, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no program")
    with pytest.raises(ConfigError, match=r"--python .*text: can't be run: Permission denied; give a Python's path"):
        against(fused, "genai", python=tmp_path / "text")
    # Runs, and ends well without an answer.
    with pytest.raises(ParityError, match="genai: fails in case 'starting'"):
        against(fused, "genai", python=Path("/bin/true"))


def test_no_runtime_is_led_out_of_the_folder(fused: Artifact, tmp_path: Path) -> None:
    outside = rewritten(fused, tmp_path / "outside", b"model.onnx_data", b"../outside_data")
    with pytest.raises(ArtifactError, match=r"model\.onnx keeps weights in '\.\./outside_data'"):
        against(outside, "onnxruntime")


def test_a_python_that_isnt_there(fused: Artifact) -> None:
    with pytest.raises(ConfigError, match="--python nowhere: no such file"):
        against(fused, "genai", python=Path("nowhere"))


def test_a_precision_that_isnt_there(fused: Artifact) -> None:
    with pytest.raises(ArtifactError, match="no int4 model in it"):
        against(fused, "onnxruntime", precision="int4")


def test_prompts_hold_no_token_with_a_meaning_and_leave_room(fused: Artifact, tmp_path: Path) -> None:
    spec = fused.manifest.decoder
    assert (spec.pad_token_id, spec.eos_token_ids) == (2, (1,))
    # Without a tokenizer they are random ids, among which the special ones would be.
    rows = prompts(without(fused, tmp_path / "bare", "tokenizer.json"), ValidateConfig()).all()
    assert max(map(len, rows)) + STEPS == spec.max_context
    assert not np.isin(np.concatenate(rows), [1, 2]).any()


class Stub:
    """Logits by token: token t is followed by t + 1, which leads by 1."""

    def __init__(self, spec: Any) -> None:
        self.spec = spec

    def run(self, ids: Any, mask: Any, past: Any = None) -> Any:
        return np.eye(8, dtype=np.float32)[(ids + 1) % 8], past


def judged(fused: Artifact, tokens: list[int], logits: Any) -> Any:
    got = Generated(tokens=np.array([tokens]), logits=np.asarray(logits, np.float32)[None])
    return _judged("peer 1.0", "case", Stub(fused.manifest.decoder), [np.array([3])], got, 1e-4)  # type: ignore[arg-type]


def test_what_follows_the_end_of_text_is_not_compared(fused: Artifact) -> None:
    logits = np.eye(8)[[4, 1, 0]]
    right = np.eye(8)[[4, 5, 6]]
    assert judged(fused, [4, 5, 6], right)["tokens"] == 3
    with pytest.raises(ParityError, match="token 1 of its answer"):
        judged(fused, [4, 5, 6], logits)
    end = np.eye(8)[[4, 5, 6]]
    end[1] = np.nan
    # 1 ends the text: it stands where 4 was due, so the token itself is wrong, and nothing behind it is looked at.
    with pytest.raises(ParityError, match=r"peer 1.0 chose 1 where its logits say 4 in case 'case' \(row 0, token 0"):
        judged(fused, [1, 5, 6], end)


@pytest.mark.parametrize("wrong", [0.01, -0.01, np.nan, np.inf])
def test_one_logit_of_one_token_is_enough(wrong: float, fused: Artifact) -> None:
    logits = np.eye(8)[[4, 5, 6]]
    logits[2, 0] += wrong
    with pytest.raises(ParityError, match=r"max \|peer 1.0 - onnx\| = .* > 0.0001 in case 'case' \(row 0, token 2"):
        judged(fused, [4, 5, 6], logits)


def expected(**fields: Any) -> Expected:
    usual: dict[str, Any] = {"prompt": "x", "num_input_tokens": 3, "logprob": -8.0, "allowed": 1e-3}
    texts = tuple("abcdefgh"[: at + 1] for at in range(STEPS))
    return Expected(**{**usual, "texts": texts, "leads": (1.0,) * STEPS, **fields})


def written(**fields: Any) -> Written:
    usual: dict[str, Any] = {"text": "abcdefgh", "logprob": -8.0, "num_input_tokens": 3, "num_output_tokens": STEPS}
    return Written(**{**usual, **fields})


def test_a_text_that_is_the_same() -> None:
    figures = judged_text("triton", "alone", [expected()], [written(logprob=-8.004)])
    assert (figures["equal"], figures["tokens"], figures["max_abs_error"]) == (1, STEPS, 0.0005)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            {"text": "abcxefgh"},
            r"writes 'abcxefgh' instead of 'abcdefgh' in case 'alone' \(prompt 0, from token 3 on\)",
        ),
        ({"logprob": -8.1}, "log-probability: "),
        ({"logprob": np.nan}, "log-probability: "),
        ({"num_output_tokens": 7}, "counts 3 of prompt and 7 of answer"),
        ({"num_input_tokens": 4}, "counts 4 of prompt"),
    ],
)
def test_a_text_that_differs(answer: dict[str, Any], said: str) -> None:
    with pytest.raises(ParityError, match=said):
        judged_text("triton", "alone", [expected()], [written(**answer)])


def test_a_text_that_parts_at_a_tie_is_counted_and_no_failure() -> None:
    ours = expected(leads=(1.0, 1.0, 1.0, 0.001, 1.0, 1.0, 1.0, 1.0))
    assert judged_text("triton", "alone", [ours], [written(text="abcxefgh", logprob=-9.0)])["equal"] == 3 / STEPS


@pytest.fixture(scope="module")
def packaged(int8: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return package(int8, tmp_path_factory.mktemp("against") / "packaged", PackageConfig(name="tiny"))


@pytest.mark.triton
def test_triton_writes_our_texts(packaged: Artifact) -> None:
    found = against(packaged, "triton")
    assert found.runtime.startswith("triton 2.")
    assert set(found.cases) == {"each prompt alone", "all prompts at once"}
    for case in found.cases.values():
        assert case["tokens"] == 4 * STEPS
        assert case["equal"] == 1
        assert case["max_abs_error"] <= case["allowed"]


def test_triton_runs_only_what_is_packaged(packaged: Artifact, fused: Artifact) -> None:
    with pytest.raises(ConfigError, match="runs what is packaged, int8, not fp32"):
        against(packaged, "triton", precision="fp32")
    with pytest.raises(ArtifactError, match="not packaged for Triton yet"):
        against(fused, "triton")


def test_batches_are_compared_where_a_row_is_rounded_by_itself(int8: Artifact, tmp_path: Path) -> None:
    source = quantize(int8, tmp_path / "dynamic", QuantizeConfig(precision="dynamic-int8"))
    assert set(against(source, "onnxruntime").cases) == CASES


def test_neighbours_that_change_tokens_are_not_compared(fused: Artifact, tmp_path: Path) -> None:
    def share_scales(graph: ir.Graph) -> None:
        logits = next(value for value in graph.outputs if value.name == "logits")
        levels = ir.node("DynamicQuantizeLinear", [logits], num_outputs=3)
        graph.append(levels)
        back = ir.node("DequantizeLinear", list(levels.outputs))
        nothing = ir.node("Sub", [back.outputs[0], back.outputs[0]])
        graph.extend([back, nothing])
        append(graph, "logits", "Add", nothing.outputs[0])

    shared = altered(fused, tmp_path / "shared", share_scales)
    assert set(against(shared, "onnxruntime").cases) == {"one prompt", "one token"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--bisect"], "--bisect compares with PyTorch's hidden states; add --reference CHECKPOINT"),
        (["--bisect", "--against", "genai", "--reference", "x"], "ask one at a time"),
        (["--against", "genai", "-o", "out"], "--against only looks and writes nothing; leave out -o"),
        (["--precision", "int8"], "--precision goes with --bisect or --against"),
        (["--against", "genai", "--reference", "x"], "not with PyTorch; leave out --reference"),
        (["--against", "genai", "--report", "x"], "writes nothing; leave out --report"),
        (["--against", "triton", "--python", "python"], "--python goes with --against genai, optimum or onnxruntime"),
    ],
)
def test_options_that_dont_go_together(options: list[str], said: str) -> None:
    result = CliRunner().invoke(commands, ["validate", "nowhere", *options])
    assert result.exit_code == 2
    assert said in result.output


def test_the_command_prints_a_table_or_json(int8: Artifact) -> None:
    arguments = ["validate", str(int8.path), "--against", "onnxruntime", "--precision", "int8"]
    table = CliRunner().invoke(commands, arguments)
    assert table.exit_code == 0
    assert "int8 in onnxruntime 1." in table.stdout
    assert "ragged batch" in table.stdout
    assert "100.0% of 24 tokens equal" in table.stdout
    assert json.loads(CliRunner().invoke(commands, [*arguments, "--json"]).stdout)["precision"] == "int8"
