"""Networks that torch has exported, looked through before torch loads them.

`.pt`, `.pth`, `.ts`: a TorchScript file is a program of its own language, which torch runs, in part while it loads: it
cannot reach Python, but it has operators that read and write files, and objects of classes that other libraries
register. A network needs neither.

`.pt2`: an exported program. torch calls its own loader unsafe, and it is: sample inputs are unpickled without limits
where the safe way fails, pickled objects and compiled libraries may lie in the archive, operators are found by name in
all of torch (`torch.os.system`), sizes are evaluated as Python, and names become the source of the module that is made.
So everything in the archive that decides what is run is read here first, and what a network does not need is refused. A
program that torch has exported from an ordinary network passes.
"""

import ast
import io
import json
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.export.pt2_archive import PT2ArchiveReader

from parfocal.encoders.loading import first_line
from parfocal.errors import EncoderError

# What torch.export.save writes: since 2.8 below the archive's own folder, before at its root.
_PLAIN = re.compile(r"archive_format|archive_version|byteorder|version|\.data/\w+|(extra|extra_files)/.+")
_TENSORS = re.compile(r"data/(weights/weight|constants/tensor)_\d+")
_PICKLED = re.compile(r"data/(sample_inputs|weights|constants)/model\.pt|serialized_\w+\.pt")
_PROGRAM = re.compile(r"models/model\.json|serialized_exported_program\.json")
_PAYLOADS = re.compile(r"data/(weights|constants)/model_(weights|constants)_config\.json")
_IS_TENSOR = re.compile(r"(weight|tensor)_\d+")

_WORD = re.compile(r"[\w.]*", re.ASCII)
_TEXT = re.compile(r"[^'\"\\\x00-\x1f{}]*")  # of an argument; torch puts some between quotes into source
_VERSION = re.compile(r"[\w.+-]*", re.ASCII)
_OPERATOR = re.compile(r"torch\.ops\.(aten|prims|quantized|quantized_decomposed|torchvision)\.\w+\.\w+", re.ASCII)
_HIGHER = re.compile(r"torch\.ops\.higher_order\.(cond|scan|while_loop|map_impl|wrap_with_\w+)", re.ASCII)
_PURE = re.compile(r"math\.[a-z]\w*|torch\._?sym_\w+", re.ASCII)
_ARITHMETIC = frozenset({
    "add", "sub", "mul", "truediv", "floordiv", "mod", "neg", "pos", "pow", "abs", "eq", "ne", "lt", "le", "gt",
    "ge", "and_", "or_", "xor", "not_", "invert", "index", "getitem",
})  # fmt: skip
# What torch finds under the name of an operator with its overload.
_OPERATOR_TYPE = type(torch.ops.aten.add.Tensor)
_FILES = frozenset({"from_file", "save", "load"})  # operators that read or write any file

_CLASSES = frozenset({
    "Symbol", "Integer", "Rational", "Float", "Add", "Mul", "Pow", "Mod", "Max", "Min", "Abs", "floor", "ceiling",
    "Eq", "Ne", "Lt", "Le", "Gt", "Ge", "Equality", "Unequality", "StrictLessThan", "LessThan", "StrictGreaterThan",
    "GreaterThan", "And", "Or", "Not", "Piecewise", "ExprCondPair", "Tuple", "FloorDiv", "Where", "ModularIndexing",
    "PythonMod", "CleanDiv", "CeilToInt", "FloorToInt", "CeilDiv", "LShift", "RShift", "PowByNatural", "FloatPow",
    "FloatTrueDiv", "IntTrueDiv", "IsNonOverlappingAndDenseIndicator", "TruncToFloat", "TruncToInt", "RoundToInt",
    "RoundDecimal", "ToFloat", "Identity",
})  # fmt: skip
_VALUES = frozenset(["oo", "int_oo", "Infinity", "NegativeInfinity", "true", "false", "True", "False", "zoo", "nan"])
_NUMBER = re.compile(r"[+-]?[\d./e+-]+", re.ASCII)
_SHAPES = frozenset({"size", "stride", "storage_offset"})
_TREES = frozenset({None, "builtins.tuple", "builtins.list", "builtins.dict"})


def load_exported(path: Path) -> Any:
    """The exported program in a file, of which nothing has been run or unpickled that a network does not need.

    Raises:
        EncoderError: the file holds something else, or torch cannot read it.
    """
    try:
        _check_archive(path)
        return torch.export.load(str(path))
    except _UnsafeError as error:
        raise EncoderError(
            f"cannot load {path}: {error}, and could run code of whoever made the file. Export the network again with "
            "torch.export.save, or as ONNX."
        ) from error
    except Exception as error:  # a damaged or foreign file may fail in any way
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> EncoderError:
    return EncoderError(
        f"cannot load {path}: torch cannot read it as an exported network ({first_line(error)}). "
        f"A state_dict is no network: use timm:NAME,checkpoint={path}."
    )


class _UnsafeError(Exception):
    """What was found, as the subject of a sentence."""


def _check_archive(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        names = [info.filename for info in archive.infolist() if not info.is_dir()]
        if len(set(names)) < len(names):
            raise _UnsafeError("it holds two members of one name")
        tops = {name.split("/")[0] for name in names}
        root = f"{tops.pop()}/" if len(tops) == 1 and all("/" in name for name in names) else ""
        views: list[Callable[[str], bytes]] = [lambda name: archive.read(root + name)]
        members = {name.removeprefix(root) for name in names}
        try:
            reader = PT2ArchiveReader(str(path))
        except RuntimeError:  # the format before 2.8, which torch itself reads as a plain archive
            pass
        else:
            # torch has a reader of its own; what is looked through here must be what it will see.
            if set(reader.get_file_names()) != members:
                raise _UnsafeError("two readers find different members in it")
            views.append(reader.read_bytes)
        for name in sorted(members):
            check = _check_of(name)
            if check is None:
                continue
            for view in views:
                check(name, view(name))


def _check_of(name: str) -> Callable[[str, bytes], None] | None:
    """How a member is checked; None where nothing of it is run."""
    if _PLAIN.fullmatch(name) or _TENSORS.fullmatch(name):
        return None
    for pattern, check in ((_PICKLED, _check_pickle), (_PROGRAM, _check_program), (_PAYLOADS, _check_payloads)):
        if pattern.fullmatch(name):
            return check
    raise _UnsafeError(f"it holds {name!r}, which is no part of a network")


def _check_pickle(name: str, content: bytes) -> None:
    """Tensors and plain values alone: where these are all, torch unpickles nothing else either."""
    if not content:
        return
    try:
        torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # of a crafted file the unpickler may raise anything
        raise _UnsafeError(f"its {name} holds more than tensors") from error


def _check_payloads(name: str, content: bytes) -> None:
    for key, one in json.loads(content)["config"].items():
        if one.get("use_pickle") or not _IS_TENSOR.fullmatch(str(one["path_name"])):
            raise _UnsafeError(f"its {key!r} is a pickled object")


def _check_program(name: str, content: bytes) -> None:
    for key, value in _texts(json.loads(content), ""):
        check = _CHECKS.get(key, _is_word)
        if not check(value):
            raise _UnsafeError(f"its program holds {key} {value[:60]!r}, which is no part of a network")


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Every text of a program with the key that it stands under; keys themselves stand under `name`."""
    if isinstance(value, dict):
        for own, inner in value.items():
            yield "a size" if key == "range_constraints" else "name", own
            if own != "metadata":  # where a node comes from: told in errors, never run
                yield from _texts(inner, own)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, key)
    elif isinstance(value, str):
        yield key, value


def _is_word(text: str) -> bool:
    return bool(_WORD.fullmatch(text))


def _is_operator(text: str) -> bool:
    """Whether a name means an operator on tensors and numbers, which can do nothing else."""
    if text.startswith("_operator."):
        return text.removeprefix("_operator.") in _ARITHMETIC
    if _PURE.fullmatch(text) or _HIGHER.fullmatch(text):
        return True
    if not _OPERATOR.fullmatch(text):
        return False
    _, _, namespace, name, overload = text.split(".")
    try:
        found = getattr(getattr(getattr(torch.ops, namespace), name), overload)
    except (AttributeError, RuntimeError):
        return True  # an operator of a library that is not here: torch says so
    return isinstance(found, _OPERATOR_TYPE) and name not in _FILES


def _is_size(text: str) -> bool:
    """Whether a size is arithmetic: torch hands the text to sympy, which evaluates it as Python."""
    return _parses(text, _is_term)


def _is_guard(text: str) -> bool:
    """Whether a condition on inputs asks for nothing but their shapes: torch makes source of it."""
    return _TEXT.fullmatch(text.replace("'", "")) is not None and _parses(text, _asks_for_shapes)


def _is_arithmetic(node: ast.expr, is_term: Callable[[ast.expr], bool]) -> bool:
    """Whether an expression joins nothing but numbers and such terms by operators."""
    match node:
        case ast.Constant(value=value):
            return isinstance(value, int | float)
        case ast.UnaryOp(operand=inner):
            return is_term(inner)
        case ast.BinOp(left=left, right=right):
            return is_term(left) and is_term(right)
        case ast.Compare(left=left, comparators=others):
            return all(map(is_term, [left, *others]))
        case ast.BoolOp(values=values):
            return all(map(is_term, values))
    return False


def _is_term(node: ast.expr) -> bool:
    match node:
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=keywords) if name in _CLASSES:
            if any(not isinstance(one.value, ast.Constant) or isinstance(one.value.value, str) for one in keywords):
                return False
            plain = [one.value for one in arguments if isinstance(one, ast.Constant) and isinstance(one.value, str)]
            if plain:  # a text is taken apart again by most of sympy
                own = {"Symbol": _WORD, "Integer": _NUMBER, "Float": _NUMBER, "Rational": _NUMBER}.get(name)
                return own is not None and all(own.fullmatch(one) for one in plain) and len(plain) == len(arguments)
            return all(map(_is_term, arguments))
        case ast.Name(id=name):
            return name in _VALUES or bool(re.fullmatch(r"z?[suf]\d+", name))
        case ast.Tuple(elts=values):
            return all(map(_is_term, values))
    return _is_arithmetic(node, _is_term)


def _asks_for_shapes(node: ast.expr) -> bool:
    match node:
        case ast.Call(func=ast.Attribute(value=inner, attr=name), args=arguments, keywords=[]) if name in _SHAPES:
            return _asks_for_shapes(inner) and all(map(_asks_for_shapes, arguments))
        case ast.Subscript(value=inner, slice=ast.Constant(value=str(word))):
            return _asks_for_shapes(inner) and _is_word(word)
        case ast.Subscript(value=inner, slice=place):
            return _asks_for_shapes(inner) and _asks_for_shapes(place)
        case ast.Name(id=name):
            return name == "L"
    return _is_arithmetic(node, _asks_for_shapes)


def _parses(text: str, allowed: Callable[[ast.expr], bool]) -> bool:
    try:
        return allowed(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _is_tree(text: str) -> bool:
    """Whether inputs or outputs are nested in plain containers; torch imports the modules of others by name."""
    if not text:
        return True
    protocol, tree = json.loads(text)
    return protocol == 1 and _is_plain_tree(tree)


def _is_plain_tree(tree: dict[str, Any]) -> bool:
    if tree["type"] not in _TREES:
        return False
    context = json.loads(tree["context"] or "null")
    keys = context if isinstance(context, list) else [context]
    words = all(key is None or isinstance(key, int) or (isinstance(key, str) and _is_word(key)) for key in keys)
    return words and all(map(_is_plain_tree, tree["children_spec"]))


_CHECKS: dict[str, Callable[[str], bool]] = {
    "target": _is_operator,
    "as_operator": _is_operator,
    "expr_str": _is_size,
    "a size": _is_size,
    "guards_code": _is_guard,
    "in_spec": _is_tree,
    "out_spec": _is_tree,
    "as_string": lambda text: bool(_TEXT.fullmatch(text)),
    "as_strings": lambda text: bool(_TEXT.fullmatch(text)),
    "torch_version": lambda text: bool(_VERSION.fullmatch(text)),
}


_LIBRARIES = frozenset({"aten", "prim", "prims", "quantized", "torchvision"})
_SCRIPT_FILES = re.compile(rb"\b(save|load|load_tensor|from_file|read_file|write_file)\s*\(")
_SCRIPT_OPERATOR = re.compile(rb"\bops\s*\.\s*(\w+)")
_CLASS = re.compile(rb"torch\.classes\.(\w+)")


def load_torchscript(path: Path, device: torch.device) -> Any:
    """The network in a TorchScript file.

    Raises:
        EncoderError: torch cannot read it, or it holds what a network does not need.
    """
    try:
        reason = _reason_to_refuse(path)
        if reason is None:
            load: Any = torch.jit.load
            with warnings.catch_warnings():
                # torch announces the end of TorchScript; the files that people have must load until it is there.
                warnings.simplefilter("ignore", FutureWarning)
                warnings.simplefilter("ignore", DeprecationWarning)
                return load(str(path), map_location=device).eval()
    except Exception as error:  # a damaged or foreign file may fail in any way
        raise _unreadable(path, error) from error
    raise EncoderError(
        f"cannot load {path}: {reason}, which no network needs and which could harm this machine. "
        "Export the network again, best with torch.export.save or as ONNX."
    )


def _reason_to_refuse(path: Path) -> str | None:
    """What is in the file that must not be run; torch's own reader is asked, which is what loads it too."""
    reader: Any = torch._C.PyTorchFileReader(str(path))
    names = reader.get_all_records()
    if "constants.pkl" not in names:
        raise ValueError("it holds no TorchScript")
    for name in names:
        is_code = name.startswith("code/") and name.endswith(".py")
        if not is_code and not name.endswith(".pkl"):
            continue
        content = reader.get_record(name)
        other = {found.decode() for found in _CLASS.findall(content)} - {"quantized"}
        if is_code:
            other |= {found.decode() for found in _SCRIPT_OPERATOR.findall(content)} - _LIBRARIES
        if other:
            return f"its {name} uses {min(other)!r}"
        file = _SCRIPT_FILES.search(content) if is_code else None
        if file:
            return f"its {name} calls {file[1].decode()}()"
    return None
