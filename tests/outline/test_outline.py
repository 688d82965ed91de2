"""Reading ONNX files without their weights: beside onnx-ir, and on files that are none."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from deploykit.convert import convert
from deploykit.errors import ArtifactError
from deploykit.external import external_places
from deploykit.outline import read_outline


@pytest.fixture(scope="module")
def graph(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(tiny_llama, tmp_path_factory.mktemp("outline") / "artifact").graph()


def test_says_what_onnx_ir_reads(graph: Path) -> None:
    outline, model = read_outline(graph), ir.load(graph)
    assert outline.ir_version == model.ir_version
    assert outline.opsets == model.opset_imports
    assert [value.name for value in outline.outputs] == [value.name for value in model.graph.outputs]
    assert [value.name for value in (*outline.inputs, *outline.defaults)] == sorted(
        (str(value.name) for value in model.graph.inputs), key=lambda name: name == "num_logits_to_keep"
    )
    assert [node.op_type for node in outline.nodes] == [node.op_type for node in model.graph]
    for name, value in model.graph.initializers.items():
        assert value.const_value is not None
        tensor = outline.tensors[name]
        assert tensor.shape == tuple(value.const_value.shape.numpy())
        assert tensor.nbytes == value.const_value.nbytes == tensor.length
        assert (tensor.location is not None) == isinstance(value.const_value, ir.ExternalTensor)
    logits = next(value for value in outline.outputs if value.name == "logits")
    assert (logits.dtype, logits.shape) == ("float32", ("batch_size", "num_logits", 318))


def test_counts_weights_in_the_file_without_reading_them(tmp_path: Path) -> None:
    value = ir.Value(name="w", const_value=ir.tensor(np.zeros((300, 7), np.float16), name="w"))
    x = ir.val("x", ir.DataType.FLOAT16, ["n", 300])
    node = ir.node("MatMul", [x, value])
    graph = ir.Graph([x], node.outputs, nodes=[node], initializers=[value], opset_imports={"": 20}, name="g")
    node.outputs[0].name = "y"
    ir.save(ir.Model(graph, ir_version=10), tmp_path / "model.onnx")
    outline = read_outline(tmp_path / "model.onnx")
    assert outline.inline_bytes() == 300 * 7 * 2
    assert outline.inputs[0].shape == ("n", 300)


def test_reads_graphs_inside_nodes(tmp_path: Path) -> None:
    inner = ir.node("Neg", [], num_outputs=1)
    inner.outputs[0].name = "z"
    branch = ir.Graph([], inner.outputs, nodes=[inner], name="branch")
    x = ir.val("x", ir.DataType.BOOL, [])
    node = ir.node("If", [x], attributes={"then_branch": branch})
    node.outputs[0].name = "y"
    graph = ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": 20}, name="g")
    ir.save(ir.Model(graph, ir_version=10), tmp_path / "model.onnx")
    assert {found.op_type for found in read_outline(tmp_path / "model.onnx").nodes} == {"If", "Neg"}


def test_a_file_that_is_cut_or_changed_anywhere_is_an_outline_or_one_error(graph: Path, tmp_path: Path) -> None:
    whole, draw = graph.read_bytes(), random.Random(0)
    messages = []
    for case in range(300):
        data = bytearray(whole[: draw.randrange(1, len(whole))] if case % 2 else whole)
        for _ in range(0 if case % 2 else 3):
            data[draw.randrange(len(data))] = draw.randrange(256)
        (tmp_path / "bad.onnx").write_bytes(data)
        try:
            read_outline(tmp_path / "bad.onnx")
        except ArtifactError as error:
            messages.append(str(error))
    assert len(messages) > 150
    assert all("bad.onnx" in message and "\n" not in message for message in messages)


@pytest.mark.parametrize("data", [b"", b"hello, world", b"\xff" * 100, b"\x08\x0a", b"\x3a\x00"])
def test_what_is_no_onnx_is_one_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "bad.onnx").write_bytes(data)
    with pytest.raises(ArtifactError, match="not an ONNX file"):
        read_outline(tmp_path / "bad.onnx")


def field(number: int, value: bytes) -> bytes:
    """Return a field of protobuf that holds bytes."""
    size, length = len(value), b""
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + value


def stored_in(location: bytes) -> bytes:
    """Return an ONNX file whose only tensor lies in another file."""
    external = field(13, field(1, b"location") + field(2, location))
    return b"\x08\x0a" + field(7, field(5, b"\x10\x01" + field(8, b"w") + external))


def test_graphs_nested_without_end_are_one_error(tmp_path: Path) -> None:
    graph = b""
    for _ in range(150):
        graph = field(1, field(5, field(6, graph)))
    (tmp_path / "deep.onnx").write_bytes(b"\x08\x0a" + field(7, graph))
    with pytest.raises(ArtifactError, match="nested deeper"):
        read_outline(tmp_path / "deep.onnx")


def test_names_that_no_file_can_have(tmp_path: Path) -> None:
    (tmp_path / "long.onnx").write_bytes(stored_in(b"a" * 300))
    with pytest.raises(ArtifactError, match="longer than a file system takes"):
        read_outline(tmp_path / "long.onnx")


def test_what_a_terminal_would_obey_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "bold.onnx").write_bytes(stored_in(b"\x1b[31mred\x00\n"))
    assert read_outline(tmp_path / "bold.onnx").tensors["w"].location == "\ufffd[31mred\ufffd\ufffd"


def test_a_missing_file_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"none\.onnx: can't be read"):
        read_outline(tmp_path / "none.onnx")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\0" * 4096, "field number 0"),
        # A graph's tensor with 100,000 axes.
        (b"\x3a\xa9\x8d\x06\x2a\xa5\x8d\x06\x0a\xa1\x8d\x06" + b"\1" * 99_999 + b"\1\1", "more than 64 numbers"),
    ],
)
def test_what_would_take_long_is_refused_at_once(tmp_path: Path, data: bytes, problem: str) -> None:
    (tmp_path / "bad.onnx").write_bytes(data)
    with pytest.raises(ArtifactError, match=problem):
        read_outline(tmp_path / "bad.onnx")


def test_a_file_larger_than_protobuf_allows_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "bad.onnx").open("wb") as file:
        file.truncate(2**31)
    with pytest.raises(ArtifactError, match="2147483648 bytes, but protobuf ends at 2147483647"):
        read_outline(tmp_path / "bad.onnx")


@pytest.mark.parametrize("read", [read_outline, lambda file: list(external_places(file))])
def test_more_nodes_than_memory_holds_are_refused(
    read: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = b"\x0a\x00" * 60
    (tmp_path / "m.onnx").write_bytes(b"\x08\x0a\x3a" + bytes([len(nodes)]) + nodes)
    read(tmp_path / "m.onnx")
    for reader in ("outline", "external"):
        monkeypatch.setattr(f"deploykit.{reader}.MOST_PARTS", 50)
    with pytest.raises(ArtifactError, match="more than 50 "):
        read(tmp_path / "m.onnx")
