"""Where a graph may keep its weights; the onnx package writes what the engine reads without it."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from deploykit import graph
from deploykit.convert import convert
from deploykit.errors import ArtifactError
from deploykit.external import Place, check_external_data, external_places
from deploykit.spec import DecoderSpec, LayerCache
from deploykit.validate.decoder import Decoder


def tensor(location: object = "m.onnx_data", **entries: object) -> TensorProto:
    """A tensor of 4 floats whose bytes lie in another file."""
    made = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": 0, "length": 16, **entries}.items():
        made.external_data.add(key=key, value=str(value))
    return made


def without_length() -> TensorProto:
    made = tensor()
    del made.external_data[2]
    return made


def named_twice() -> TensorProto:
    made = tensor("../secret")
    made.external_data.add(key="location", value="m.onnx_data")
    return made


def initializer(model: onnx.ModelProto, weight: TensorProto) -> None:
    model.graph.initializer.append(weight)


def attribute(model: onnx.ModelProto, weight: TensorProto) -> None:
    model.graph.node.add(op_type="Constant", output=["c"]).attribute.append(helper.make_attribute("value", weight))


def attribute_list(model: onnx.ModelProto, weight: TensorProto) -> None:
    model.graph.node.add(op_type="Any", output=["c"]).attribute.append(helper.make_attribute("values", [weight]))


def subgraph(model: onnx.ModelProto, weight: TensorProto) -> None:
    branch = helper.make_graph([], "branch", [], [], [weight])
    model.graph.node.add(op_type="If", output=["c"]).attribute.append(helper.make_attribute("then_branch", branch))


def sparse(model: onnx.ModelProto, weight: TensorProto) -> None:
    model.graph.sparse_initializer.add().values.CopyFrom(weight)


def function(model: onnx.ModelProto, weight: TensorProto) -> None:
    node = model.functions.add(name="f").node.add(op_type="Constant", output=["c"])
    node.attribute.append(helper.make_attribute("value", weight))


def training(model: onnx.ModelProto, weight: TensorProto) -> None:
    model.training_info.add().initialization.initializer.append(weight)


HIDEOUTS = [initializer, attribute, attribute_list, subgraph, sparse, function, training]


def write(
    folder: Path, weight: TensorProto, hide: Callable[[onnx.ModelProto, TensorProto], None] = initializer
) -> Path:
    model = helper.make_model(helper.make_graph([], "g", [], []))
    hide(model, weight)
    file = folder / "m.onnx"
    file.write_bytes(model.SerializeToString())
    (folder / "m.onnx_data").write_bytes(bytes(16))
    return file


@pytest.mark.parametrize("hide", HIDEOUTS)
def test_finds_weights_wherever_a_graph_can_hold_them(
    tmp_path: Path, hide: Callable[[onnx.ModelProto, TensorProto], None]
) -> None:
    file = write(tmp_path, tensor(), hide)
    assert list(external_places(file)) == [Place("m.onnx_data", 0, 16)]
    check_external_data(file)
    with pytest.raises(ArtifactError, match=r"m.onnx keeps weights in '\.\./secret', not in m.onnx_data; export again"):
        check_external_data(write(tmp_path, tensor("../secret"), hide))


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (tensor("/etc/passwd"), "keeps weights in '/etc/passwd'"),
        (tensor("a/../m.onnx_data"), "keeps weights in 'a/../m.onnx_data'"),
        (tensor(""), "keeps weights in ''"),
        (tensor("m.onnx"), "keeps weights in 'm.onnx'"),
        (tensor(offset=-1), "wants 16 bytes at -1 of m.onnx_data, which has 16"),
        (tensor(length=-1), "wants -1 bytes at 0"),
        (tensor(length=17), "wants 17 bytes at 0 of m.onnx_data, which has 16; export again"),
        (tensor(offset=2**63, length=2**64), "which has 16"),
        (tensor(offset="x"), "not an ONNX file"),
        (without_length(), "not an ONNX file: a tensor in another file has no length"),
        (tensor(__class__="x"), "unknown external data key '__class__'"),
        (tensor(basepath="/"), "unknown external data key 'basepath'"),
        (named_twice(), "a tensor names its location twice"),
    ],
)
def test_refuses_weights_that_are_elsewhere(tmp_path: Path, weight: TensorProto, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        check_external_data(write(tmp_path, weight))


def test_refuses_a_data_file_that_is_a_link_or_missing(tmp_path: Path) -> None:
    file = write(tmp_path, tensor())
    data = tmp_path / "m.onnx_data"
    data.rename(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match=r"m\.onnx_data is not there as a regular file"):
        check_external_data(file)
    data.symlink_to("elsewhere")
    with pytest.raises(ArtifactError, match=r"m\.onnx_data is not there as a regular file"):
        check_external_data(file)


def test_a_place_may_be_shared_but_not_begin_within_another(tmp_path: Path) -> None:
    def add(other: TensorProto) -> Callable[[onnx.ModelProto, TensorProto], None]:
        return lambda model, weight: model.graph.initializer.extend([weight, other])

    check_external_data(write(tmp_path, tensor(length=8), add(tensor(length=8))))
    check_external_data(write(tmp_path, tensor(length=8), add(tensor(offset=8, length=8))))
    with pytest.raises(ArtifactError, match=r"wants 12 bytes at 0 and 8 at 8 of m\.onnx_data, which overlap"):
        check_external_data(write(tmp_path, tensor(length=12), add(tensor(offset=8, length=8))))


def load_lazily(file: Path) -> None:
    graph.load(file)


def load_to_validate(file: Path) -> None:
    layer = LayerCache(heads=1, key_dim=1, value_dim=1)
    spec = DecoderSpec(cache="shared", layers=(layer,), vocab_size=1, max_context=2, logits_to_keep=True)
    Decoder(file, spec)


@pytest.mark.parametrize("load", [load_lazily, load_to_validate])
@pytest.mark.parametrize("hide", HIDEOUTS)
@pytest.mark.parametrize("entries", [{"location": "../secret"}, {"offset": 2**62}, {"__class__": "x"}])
def test_every_reader_asks_first(
    tmp_path: Path,
    load: Callable[[Path], None],
    hide: Callable[[onnx.ModelProto, TensorProto], None],
    entries: dict[str, object],
) -> None:
    (tmp_path / "secret").write_bytes(bytes(16))
    (tmp_path / "inner").mkdir()
    file = write(tmp_path / "inner", tensor(**{"location": "m.onnx_data", **entries}), hide)
    with pytest.raises(ArtifactError, match=r"m\.onnx (keeps weights in|wants|is not an ONNX file: unknown external)"):
        load(file)


def test_reads_a_real_graph_as_the_onnx_package_does(tmp_path: Path, tiny_llama: Path) -> None:
    llama = convert(tiny_llama, tmp_path / "out")
    model = onnx.load(llama.graph(), load_external_data=False)
    expected = [
        {entry.key: entry.value for entry in weight.external_data}
        for weight in model.graph.initializer
        if weight.external_data
    ]
    assert expected
    assert list(external_places(llama.graph())) == [
        Place(entry["location"], int(entry["offset"]), int(entry["length"])) for entry in expected
    ]
    check_external_data(llama.graph())


def test_refuses_endless_nesting(tmp_path: Path) -> None:
    """The onnx package can't write this either: protobuf stops at the same depth."""

    def field(number: int, content: bytes) -> bytes:
        size = bytes([len(content) & 0x7F | 0x80, len(content) >> 7])
        return bytes([number << 3 | 2]) + size + content

    graph = b""
    for _ in range(60):
        graph = field(1, field(5, field(6, graph)))  # a node's attribute's graph
    file = tmp_path / "m.onnx"
    file.write_bytes(field(7, graph))
    with pytest.raises(ArtifactError, match="nested deeper than 100 levels"):
        check_external_data(file)


@settings(max_examples=300, deadline=None)
@given(
    damage=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4), cut=st.booleans()
)
def test_damaged_files_give_one_line(
    tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[int, int]], cut: bool
) -> None:
    file = write(tmp_path_factory.mktemp("damaged"), tensor(), subgraph)
    content = bytearray(file.read_bytes())
    for place, byte in damage:
        content[place % len(content)] = byte
    file.write_bytes(content[: damage[0][0] % len(content)] if cut else content)
    line = ""
    try:
        check_external_data(file)
    except ArtifactError as error:
        line = str(error)
    assert "\n" not in line


def test_a_negative_axis_is_refused_before_anything_is_reshaped(tmp_path: Path) -> None:
    weight = tensor()
    weight.dims[:] = [-2, -2]
    with pytest.raises(ArtifactError, match=r"m\.onnx: tensor 'w' has a negative axis; export the checkpoint again"):
        graph.load(write(tmp_path, weight))
