"""Files that were made to run code of their maker are refused in one line, and nothing of them has run."""

import contextlib
import io
import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, external_data_helper, helper, numpy_helper
from torch import Tensor, nn

from parfocal.encoders import load_tile_encoder
from parfocal.encoders.exported import _is_guard, _is_operator, _is_size, _is_tree
from parfocal.errors import EncoderError

Members = dict[str, bytes]


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(3, 5, 7, stride=4)
        self.register_buffer("shift", torch.ones(5))

    def forward(self, images: Tensor) -> Tensor:
        return torch.nn.functional.pad(self.convolution(images), (1, 1)).relu().mean(dim=(2, 3)) + self.shift * 2


class Makes:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "network.pt2"
    tiles = torch.export.Dim("tiles", min=1, max=64)
    with torch.no_grad():
        program = torch.export.export(Network().eval(), (torch.zeros(2, 3, 224, 224),), dynamic_shapes=({0: tiles},))
    torch.export.save(program, path)
    return path


def crafted(good: Path, out: Path, change: Callable[[Members], None]) -> Path:
    """The archive written again by another writer, with some members changed."""
    with zipfile.ZipFile(good) as archive:
        members = {name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(f"network/{name}", content)
    return out


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def program_of(members: Members) -> Any:
    return json.loads(members["models/model.json"])


def refused(spec: str, marker: Path, part: str) -> None:
    with pytest.raises(EncoderError, match=part) as raised:
        load_tile_encoder(spec)
    assert len(str(raised.value).splitlines()) == 1
    assert not marker.exists()


def test_a_good_program_loads_whoever_wrote_the_archive(good: Path, tmp_path: Path) -> None:
    again = crafted(good, tmp_path / "again.pt2", lambda members: None)
    tiles = np.random.default_rng(0).integers(0, 255, (3, 224, 224, 3), dtype=np.uint8)

    rows = [load_tile_encoder(f"file:{path}").encode(tiles) for path in (good, again)]

    np.testing.assert_array_equal(*rows)


def sample_inputs(members: Members, marker: Path) -> None:
    members["data/sample_inputs/model.pt"] = saved((Makes(marker),))


def old_weights(members: Members, marker: Path) -> None:
    members["data/weights/model.pt"] = saved({"convolution.bias": Makes(marker)})


def pickled_weight(members: Members, marker: Path) -> None:
    name = "data/weights/model_weights_config.json"
    config = json.loads(members[name])
    next(iter(config["config"].values()))["use_pickle"] = True
    members[name] = json.dumps(config).encode()
    members["data/weights/weight_0"] = saved(Makes(marker))


def opaque_object(members: Members, marker: Path) -> None:
    name = "data/constants/model_constants_config.json"
    config = json.loads(members[name])
    payload = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    config["config"]["thing"] = payload
    members[name] = json.dumps(config).encode()
    members["data/constants/opaque_obj_0"] = pickle.dumps(Makes(marker))


def size_as_code(members: Members, marker: Path) -> None:
    text = members["models/model.json"].decode()
    members["models/model.json"] = text.replace(
        "Symbol('s", f"__import__('os').mkdir('{marker}') or Symbol('s"
    ).encode()


def operator_of_the_system(members: Members, marker: Path) -> None:
    content = program_of(members)
    graph = content["graph_module"]["graph"]
    node = json.loads(json.dumps(next(one for one in graph["nodes"] if "relu" in one["target"])))
    node |= {"target": "torch.os.mkdir", "inputs": [{"name": "path", "kind": 1, "arg": {"as_string": str(marker)}}]}
    graph["nodes"].insert(0, node)
    members["models/model.json"] = json.dumps(content).encode()


def name_as_code(members: Members, marker: Path) -> None:
    text = members["models/model.json"].decode()
    members["models/model.json"] = text.replace('"images"', f"\"images=__import__('os').mkdir('{marker}')\"").encode()


def guard_as_code(members: Members, marker: Path) -> None:
    content = program_of(members) | {"guards_code": [f"__import__('os').mkdir('{marker}')"]}
    members["models/model.json"] = json.dumps(content).encode()


def compiled_library(members: Members, marker: Path) -> None:
    members["data/aotinductor/model/model.so"] = b"\x7fELF"


ATTACKS = (
    (sample_inputs, "its data/sample_inputs/model.pt holds more than tensors"),
    (old_weights, "its data/weights/model.pt holds more than tensors"),
    (pickled_weight, "is a pickled object"),
    (opaque_object, "opaque_obj_0|is a pickled object"),
    (size_as_code, "its program holds expr_str"),
    (operator_of_the_system, "its program holds target 'torch.os.mkdir'"),
    (name_as_code, "its program holds name"),
    (guard_as_code, "its program holds guards_code"),
    (compiled_library, "it holds 'data/aotinductor/model/model.so'"),
)


@pytest.mark.parametrize(("attack", "part"), ATTACKS, ids=[attack.__name__ for attack, _ in ATTACKS])
def test_an_exported_program_that_could_run_code_is_refused(
    attack: Callable[[Members, Path], None], part: str, good: Path, tmp_path: Path
) -> None:
    marker = tmp_path / "made"
    path = crafted(good, tmp_path / "crafted.pt2", lambda members: attack(members, marker))

    refused(f"file:{path}", marker, part)


@pytest.mark.parametrize("attack", [sample_inputs, pickled_weight, opaque_object, size_as_code])
def test_torch_alone_would_have_run_it(attack: Callable[[Members, Path], None], good: Path, tmp_path: Path) -> None:
    """The twin: these files are what they are taken for."""
    marker = tmp_path / "made"
    path = crafted(good, tmp_path / "crafted.pt2", lambda members: attack(members, marker))
    with contextlib.suppress(Exception):
        torch.export.load(path)

    assert marker.is_dir()


def test_an_archive_that_two_readers_see_differently_is_refused(good: Path, tmp_path: Path) -> None:
    path = crafted(good, tmp_path / "crafted.pt2", lambda members: None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("network/models/model.json", b"{}")

    refused(f"file:{path}", tmp_path / "made", "two members of one name")


@pytest.mark.parametrize(
    ("text", "is_good"),
    [
        ("torch.ops.aten.add.Tensor", True),
        ("torch.ops.aten.__and__.Tensor", True),
        ("_operator.mul", True),
        ("torch.sym_max", True),
        ("torch.ops.higher_order.wrap_with_set_grad_enabled", True),
        ("torch.os.system", False),
        ("torch.load", False),
        ("torch.ops.load_library", False),
        ("torch.ops.aten.save.default", False),
        ("torch.ops.aten.from_file.default", False),
        ("torch.ops.image.write_file.default", False),
        ("torch.ops.aten.add.Tensor.__class__", False),
        ("torch.ops.aten.__class__.__init__", False),
        ("_operator.methodcaller", False),
        ("math.__loader__", False),
    ],
)
def test_only_operators_on_tensors_and_numbers_are_run(text: str, is_good: bool) -> None:
    assert _is_operator(text) == is_good


@pytest.mark.parametrize(
    ("text", "is_good"),
    [
        ("Symbol('s77', positive=True, integer=True)", True),
        ("Add(Integer(-1), FloorDiv(Symbol('s0', integer=True), Integer(16)))", True),
        ("Rational('1/3')", True),
        ("2*s0 + 1", True),
        ("__import__('os').system('x')", False),
        ("Symbol('a').__class__", False),
        ("Max('open(0)', 1)", False),
        ("Symbol('a', x='open(0)')", False),
        ("sympify('1')", False),
        ("[1 for _ in s0]", False),
        ("(lambda: 1)()", False),
        ("Symbol(", False),
    ],
)
def test_only_arithmetic_is_evaluated(text: str, is_good: bool) -> None:
    assert _is_size(text) == is_good


def test_only_shapes_and_plain_containers_are_asked_for() -> None:
    assert _is_guard("L['images'].size()[0] % 2 == 0 and L['images'].size(1) <= 64")
    assert not _is_guard("L['a\"']")
    assert not _is_guard("L['x'].__class__() == 1")
    assert _is_tree('[1, {"type": "builtins.dict", "context": "[\\"a\\"]", "children_spec": []}]')
    assert not _is_tree('[1, {"type": "collections.defaultdict", "context": "null", "children_spec": []}]')
    hook = '{"__enum__": true, "fqn": "antigravity:A", "name": "x"}'
    assert not _is_tree(json.dumps([1, {"type": "builtins.dict", "context": hook, "children_spec": []}]))


@pytest.mark.parametrize("suffix", [".pt2", ".pt", ".pth", ".ts"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_under_the_name_of_a_network_is_not_unpickled(suffix: str, zipped: bool, tmp_path: Path) -> None:
    path, marker = tmp_path / f"crafted{suffix}", tmp_path / "made"
    torch.save({"weight": Makes(marker)}, path, _use_new_zipfile_serialization=zipped)

    refused(f"file:{path}", marker, "cannot load")


@pytest.mark.parametrize("zipped", [True, False])
def test_weights_are_tensors_and_nothing_else(zipped: bool, tmp_path: Path) -> None:
    path, marker = tmp_path / "crafted.pth", tmp_path / "made"
    torch.save({"weight": Makes(marker)}, path, _use_new_zipfile_serialization=zipped)

    refused(f"timm:resnet18,checkpoint={path}", marker, "without running code")
    path.write_bytes(pickle.dumps(Makes(marker)))
    refused(f"timm:resnet18,checkpoint={path}", marker, "without running code")


def torchscript(tmp_path: Path) -> Path:
    path = tmp_path / "network.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(Network().eval(), torch.zeros(1, 3, 224, 224)).save(str(path))
    return path


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("  torch.save(images, {marker!r})\n", r"calls save\(\)"),
        ("  ops.aten.save(images, {marker!r})\n", r"calls save\(\)"),
        ("  ops.image.write_file({marker!r}, images)\n", "uses 'image'"),
        ("  _0 = torch.from_file({marker!r}, True, 9)\n", r"calls from_file\(\)"),
    ],
)
def test_torchscript_that_writes_files_is_refused(line: str, part: str, tmp_path: Path) -> None:
    good, marker = torchscript(tmp_path), tmp_path / "made"
    assert load_tile_encoder(f"file:{good}").dim == 5

    def change(members: Members) -> None:
        name = next(name for name in members if name.endswith(".py") and b"images" in members[name])
        head, sign, rest = members[name].partition(b"-> Tensor:\n")
        members[name] = head + sign + line.format(marker=str(marker)).encode() + rest

    refused(f"file:{crafted(good, tmp_path / 'crafted.pt', change)}", marker, part)


def write_onnx(path: Path, place: str) -> Path:
    """A network whose weight lies at a place beside the model, inside a subgraph's constant where asked."""
    weight = numpy_helper.from_array(np.ones((3, 5), np.float32), "weight")
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["images"], ["means"], axes=[2, 3], keepdims=0),
            helper.make_node("MatMul", ["means", "weight"], ["rows"]),
        ],
        "network",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["tile", 3, 224, 224])],
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["tile", 5])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    external_data_helper.set_external_data(model.graph.initializer[0], place)
    raw = model.graph.initializer[0].raw_data
    model.graph.initializer[0].ClearField("raw_data")
    path.write_bytes(model.SerializeToString())
    if place == "weights.bin":
        (path.parent / place).write_bytes(raw)
    return path


def test_weights_beside_an_onnx_model_are_part_of_its_digest(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "network.onnx", "weights.bin")
    first = load_tile_encoder(f"file:{path}")
    (tmp_path / "weights.bin").write_bytes(np.full((3, 5), 2, np.float32).tobytes())

    assert first.dim == 5
    assert load_tile_encoder(f"file:{path}").digest != first.digest


@pytest.mark.parametrize(
    "place", ["../secret.bin", "a/../../secret.bin", "/etc/hostname", "\\\\server\\x", "..\\x", "C:x"]
)
def test_an_onnx_model_reads_nothing_outside_its_folder(place: str, tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(60))
    (tmp_path / "model").mkdir()
    path = write_onnx(tmp_path / "model" / "network.onnx", place)

    refused(f"file:{path}", tmp_path / "made", "outside its own folder")


def test_weights_of_an_onnx_model_that_are_not_there_are_named(tmp_path: Path) -> None:
    refused(f"file:{write_onnx(tmp_path / 'network.onnx', 'absent.bin')}", tmp_path / "made", "'absent.bin' are not")


def test_external_weights_are_found_however_deep_they_lie(tmp_path: Path) -> None:
    inner = onnx.load_from_string(write_onnx(tmp_path / "inner.onnx", "/etc/hostname").read_bytes()).graph
    node = helper.make_node("If", ["yes"], ["out"], then_branch=inner, else_branch=inner)
    outer = helper.make_graph([node], "outer", [], [])
    path = tmp_path / "outer.onnx"
    path.write_bytes(helper.make_model(outer, ir_version=8).SerializeToString())

    refused(f"file:{path}", tmp_path / "made", "outside its own folder")
