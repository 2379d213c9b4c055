"""A ``torch.export`` program (``.pt2``), read without torch's own loader, which unpickles and evaluates what it reads.

The archive is a zip of tensors' bytes and one graph in JSON. Both are read as data: the graph is walked, and an
operator runs only if it computes on tensors and numbers. What needs a pickle (tensor subclasses, custom objects) is
refused; example inputs, guards and symbolic expressions are never looked at.
"""

from __future__ import annotations

import functools
import math
import operator
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compressbench.artefacts.artefact import Given, Input, Wanted, chosen
from compressbench.artefacts.module import OpenModule
from compressbench.errors import UserError, reason
from compressbench.files import HEADER, INSTEAD, a_file, digest_of, json_object

WEIGHTS, CONSTANTS, MODELS = "data/weights/", "data/constants/", "models/"
TYPES: Mapping[int, torch.dtype] = {
    1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16,
    7: torch.float32, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16, 28: torch.uint16,
    29: torch.float8_e4m3fn, 30: torch.float8_e5m2,
}  # fmt: skip
"""torch's serialized scalar types (its export schema)."""
FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}
PYTHON: Mapping[str, Callable[..., Any]] = {
    **{f"_operator.{n}": getattr(operator, n) for n in (
        "add", "sub", "mul", "floordiv", "mod", "neg", "truediv", "pow", "getitem",
        "eq", "ne", "lt", "le", "gt", "ge", "and_", "or_",
    )},
    **{f"math.{n}": getattr(math, n) for n in ("ceil", "floor", "trunc", "sqrt")},
    "torch.sym_int": int, "torch.sym_float": float, "torch.sym_max": max, "torch.sym_min": min,
    "torch.sym_not": operator.not_, "torch.sym_sqrt": math.sqrt, "torch._sym_sqrt": math.sqrt,
}  # fmt: skip
"""What computes on sizes."""
UNDERSCORED = {
    "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "_assert_async", "_assert_scalar", "_assert_tensor_metadata", "_conj",
    "_convolution", "_embedding_bag", "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams",
    "_fft_c2c", "_fft_c2r", "_fft_r2c", "_fused_rms_norm", "_int_mm", "_local_scalar_dense", "_log_softmax",
    "_native_batch_norm_legit", "_native_batch_norm_legit_functional", "_native_batch_norm_legit_no_training",
    "_native_multi_head_attention", "_prelu_kernel", "_reshape_alias", "_safe_softmax",
    "_scaled_dot_product_attention_math", "_scaled_dot_product_flash_attention_for_cpu", "_softmax", "_to_copy",
    "_transformer_encoder_layer_fwd", "_trilinear", "_unsafe_view", "_upsample_bicubic2d_aa", "_upsample_bilinear2d_aa",
    "_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_nearest_exact3d", "_weight_norm",
    "_weight_norm_interface",
}  # fmt: skip
"""Of ATen's internal operators, those that exports hold and that check what they are given."""
FOREIGN = (
    "from_file",
    "set_",
    "set_data",
    "resize_",
    "resize_as_",
    "save",
    "warn",
    "print",
    "rename_",
    "manual_seed",
)
"""Operators that reach beyond their tensors."""
TEXTS = {
    "approximate", "equation", "indexing", "interpolation", "interpolation_mode", "mode", "norm", "ord", "pad_mode",
    "padding", "padding_mode", "padding_side", "reduce", "reduction", "rounding_mode", "side", "UPLO", "driver",
    "assert_msg", "mapping_type", "zero_point_domain",
}  # fmt: skip
"""Arguments of text that choose how is computed; no other text is passed to an operator."""
QUANTIZED = {
    "quantized_decomposed": (
        "quantize_per_",
        "dequantize_per_",
        "choose_qparams",
        "_choose_qparams",
        "fake_quant_per_",
    ),
    "torchao": ("quantize_affine", "dequantize_affine", "choose_qparams_affine", "choose_scale_float8"),
}
"""Namespaces of quantized exports -> how the operators begin that are let run."""
GRAD = "torch.ops.higher_order.wrap_with_set_grad_enabled"


@dataclass(frozen=True)
class Exported:
    """A program of ``torch.export.save``."""

    path: Path
    given: Given

    @property
    def name(self) -> str:
        """The file's."""
        return self.path.name

    @property
    def form(self) -> str:
        """In words."""
        return f"torch.export program, torch {torch.__version__} on the CPU"

    @property
    def files(self) -> tuple[Path, ...]:
        """The archive."""
        return (self.path,)

    @functools.cached_property
    def program(self) -> Program:
        """The program as a module."""
        return _program(self.path, self.given)

    @property
    def wants(self) -> Wanted:
        """By its signature."""
        return self.program.wants

    @functools.cached_property
    def identity(self) -> str:
        """Of the file, and which output is taken."""
        return digest_of(self.files, "pt2", self.given.output)

    def open(self, threads: int = 1) -> OpenModule:
        """See ``Artefact``."""
        return OpenModule(self.program, self.wants, self.name, threads)

    def differentiable(self) -> nn.Module | None:
        """The program: its operators have gradients."""
        return self.program


def read(path: Path, given: Given) -> Exported:
    """The program of an archive, checked: whole, nothing pickled, no operator but those that compute.

    Raises:
        UserError: it is anything else.
    """
    found = Exported(path, given)
    _ = found.program
    return found


Env = dict[str, Any]
Read = Callable[[Env], Any]


@dataclass(frozen=True)
class Step:
    """One node: a function, where its arguments are, what its results are called."""

    run: Callable[..., Any]
    args: Sequence[Read]
    kwargs: Mapping[str, Read]
    keep: Callable[[Env, Any], None]


class Program(nn.Module):
    """A graph that is walked: inputs in order, one output.

    Attributes:
        wants: what it is called with.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        held: Mapping[str, Tensor],
        constants: Mapping[str, Any],
        wants: Wanted,
        output: Read,
    ) -> None:
        super().__init__()
        self.steps, self.constants, self.output, self.wants = list(steps), dict(constants), output, wants
        self._held = list(held)
        for place, tensor in enumerate(held.values()):
            self.register_buffer(f"held{place}", tensor)

    @property
    def rounds(self) -> bool:
        """Whether some of its steps round to integers."""
        return any("quantize" in str(step.run) for step in self.steps)

    def forward(self, *inputs: Tensor) -> Tensor:
        """The answers."""
        env: Env = dict(self.constants)
        env |= {name: getattr(self, f"held{place}") for place, name in enumerate(self._held)}
        env |= {i.name: x for i, x in zip(self.wants.inputs, inputs, strict=True)}
        _walk(self.steps, env)
        return self.output(env)


def _walk(steps: Sequence[Step], env: Env) -> None:
    for step in steps:
        step.keep(env, step.run(*(a(env) for a in step.args), **{k: a(env) for k, a in step.kwargs.items()}))


def _program(path: Path, given: Given) -> Program:
    a_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(_Archive(path, archive), given)
    except UserError:
        raise
    except (zipfile.BadZipFile, EOFError, NotImplementedError, OSError) as error:
        raise UserError(f"{path}: a damaged archive: {reason(error)}") from error
    except Exception as error:  # a graph in JSON can be wrong in every way
        raise UserError(
            f"{path}: no program as torch.export of 2.8 or later saves it: {type(error).__name__}: {reason(error)}"
        ) from error


class _Archive:
    """The records of a program's zip file, by their names in it without the folder that holds them all."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path, self.archive = path, archive
        infos = archive.infolist()
        top = next(
            (i.filename[: -len("archive_format")] for i in infos if i.filename.endswith("archive_format")), ""
        )
        self.records = {i.filename.removeprefix(top): i for i in infos}
        for info in infos:
            if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
                raise UserError(
                    f"{path}: {info.filename} is packed; torch.export stores its records as they are"
                )
        if len(self.records) != len(infos):
            raise UserError(f"{path}: holds a record twice")
        if any(name.startswith("data/aotinductor/") for name in self.records):
            raise UserError(
                f"{path}: holds compiled code, which is not run; export the net alone, or {INSTEAD}"
            )

    def bytes(self, name: str, most: int | None = None) -> bytes:
        """One record."""
        if name not in self.records:
            raise UserError(f"{self.path}: has no record {name}")
        info = self.records[name]
        if most is not None and info.file_size > most:
            raise UserError(
                f"{self.path}: {name} has {info.file_size:,} bytes, more than the {most:,} that are read"
            )
        return self.archive.read(info)

    def json(self, name: str) -> dict[str, Any]:
        """One record of JSON."""
        return json_object(self.bytes(name, HEADER), f"{self.path}: {name}")


def _read(archive: _Archive, given: Given) -> Program:
    path = archive.path
    models = [n for n in archive.records if n.startswith(MODELS) and n.endswith(".json")]
    if not models:
        raise UserError(f"{path}: holds no program of torch.export; {INSTEAD}")
    main = models[0] if len(models) == 1 else f"{MODELS}model.json"
    if main not in models:
        raise UserError(f"{path}: holds {len(models)} programs, none called model")
    stem = main.removeprefix(MODELS).removesuffix(".json")
    inner = archive.json(main)["graph_module"]
    tensors = _tensors(archive, WEIGHTS, f"{stem}_weights_config.json")
    tensors |= _tensors(archive, CONSTANTS, f"{stem}_constants_config.json")
    graph, signature = inner["graph"], inner["signature"]
    held: dict[str, Tensor] = {}
    constants: dict[str, Any] = {}
    inputs: list[Input] = []
    for spec in signature["input_specs"]:
        ((kind, body),) = spec.items()
        if kind in _HELD:
            name = str(body[_HELD[kind]])
            if name not in tensors:
                raise UserError(f"{path}: its tensor {name} is not in it")
            held[str(body["arg"]["name"])] = tensors[name]
        elif kind == "user_input":
            inputs += _input(body["arg"], graph, path)
        elif kind == "constant_input":
            constants[str(body["name"])] = next(iter(body["value"].values()))
        else:
            raise UserError(
                f"{path}: has an input of kind {kind}, which would have to be unpickled; {INSTEAD}"
            )
    if not inputs:
        raise UserError(f"{path}: takes no tensor")
    steps = _steps(graph, path)
    answers = [
        arg
        for spec, arg in zip(signature["output_specs"], graph["outputs"], strict=True)
        if "user_output" in spec and ("as_tensor" in arg)
    ]
    if not answers:
        raise UserError(f"{path}: gives no tensor")
    told = [_output(arg["as_tensor"]["name"], graph) for arg in answers]
    place = chosen(told, given, path.name)
    shape = told[place][1]
    classes = shape[1] if shape is not None and len(shape) > 1 else None
    output = answers[place]["as_tensor"]["name"]
    return Program(steps, held, constants, Wanted(tuple(inputs), classes), operator.itemgetter(output)).eval()


_HELD = {"parameter": "parameter_name", "buffer": "buffer_name", "tensor_constant": "tensor_constant_name"}


def _tensors(archive: _Archive, folder: str, config: str) -> dict[str, Tensor]:
    """The tensors of a folder of the archive; such as share their bytes share them here."""
    if f"{folder}{config}" not in archive.records:
        if any(name.startswith(folder) and name.endswith(".pt") for name in archive.records):
            raise UserError(
                f"{archive.path}: its tensors are pickled, as older versions of torch saved them; export it again with "
                "torch 2.9 or later, or to ONNX"
            )
        return {}
    whole: dict[str, Tensor] = {}
    found = {}
    for name, meta in archive.json(f"{folder}{config}")["config"].items():
        record = str(meta["path_name"])
        if (
            meta.get("use_pickle")
            or meta.get("tensor_meta") is None
            or not record.startswith(("weight_", "tensor_"))
        ):
            raise UserError(
                f"{archive.path}: {name} is pickled (a tensor subclass or an object), and no pickle is opened; "
                "torchao's unwrap_tensor_subclass(model) makes plain tensors of them before the export"
            )
        form = meta["tensor_meta"]
        dtype = _dtype(form["dtype"], archive.path)
        if record not in whole:
            content = archive.bytes(f"{folder}{record}")
            whole[record] = (
                torch.frombuffer(bytearray(content), dtype=dtype) if content else torch.empty(0, dtype=dtype)
            )
        sizes, strides = ([_whole(n) for n in form[k]] for k in ("sizes", "strides"))
        try:
            found[str(name)] = torch.as_strided(whole[record], sizes, strides, _whole(form["storage_offset"]))
        except RuntimeError as error:
            raise UserError(f"{archive.path}: {name} doesn't fit its bytes: {reason(error)}") from error
    return found


def _whole(size: Mapping[str, Any]) -> int:
    if type(size.get("as_int")) is not int:
        raise ValueError(f"a size of {size}")
    return size["as_int"]


def _dtype(number: int, path: Path) -> torch.dtype:
    if number not in TYPES:
        raise UserError(f"{path}: holds tensors of a type that isn't read (number {number} of torch's)")
    return TYPES[number]


def _input(arg: Mapping[str, Any], graph: Mapping[str, Any], path: Path) -> list[Input]:
    if "as_none" in arg:
        return []
    if "as_tensor" not in arg:
        raise UserError(f"{path}: takes a {next(iter(arg)).removeprefix('as_')}; only tensors can be given")
    name = str(arg["as_tensor"]["name"])
    meta = graph["tensor_values"][name]
    dtype = str(_dtype(meta["dtype"], path)).removeprefix("torch.")
    return [Input(name, _shape(meta), dtype)]


def _shape(meta: Mapping[str, Any]) -> tuple[int | None, ...]:
    return tuple(n.get("as_int") for n in meta["sizes"])


def _output(name: str, graph: Mapping[str, Any]) -> tuple[str, tuple[int | None, ...] | None, str]:
    meta = graph["tensor_values"].get(name)
    if meta is None:
        return name, None, "float32"
    return name, _shape(meta), str(TYPES.get(meta["dtype"], "float32")).removeprefix("torch.")


def _steps(graph: Mapping[str, Any], path: Path) -> list[Step]:
    return [_step(node, path) for node in graph["nodes"]]


def _step(node: Mapping[str, Any], path: Path) -> Step:
    target = str(node["target"])
    if target == GRAD:
        return _grad(node, path)
    run = _function(target, path)
    texts = {a["name"]: a["arg"]["as_string"] for a in node["inputs"] if "as_string" in a["arg"]}
    if odd := next((n for n in texts if n not in TEXTS), None):
        raise UserError(f"{path}: passes text as {odd} to {target}, which is not run; {INSTEAD}")
    args = [_argument(a["arg"], path) for a in node["inputs"] if a.get("kind") == 1]
    kwargs = {str(a["name"]): _argument(a["arg"], path) for a in node["inputs"] if a.get("kind") != 1}
    return Step(run, args, kwargs, _keeper(node["outputs"]))


def _grad(node: Mapping[str, Any], path: Path) -> Step:
    """A part that runs with gradients switched on or off: a graph of its own."""
    switch, inner, *rest = (a["arg"] for a in node["inputs"])
    graph = inner["as_graph"]["graph"]
    names = [
        a["as_tensor"]["name"] if "as_tensor" in a else a["as_sym_int"]["as_name"] for a in graph["inputs"]
    ]
    steps = _steps(graph, path)
    outputs = [_argument(a, path) for a in graph["outputs"]]
    enabled = bool(switch["as_bool"])

    def run(*given: Any) -> Any:
        env: Env = dict(zip(names, given, strict=True))
        with torch.set_grad_enabled(enabled and torch.is_grad_enabled()):
            _walk(steps, env)
            found = [read(env) for read in outputs]
        return found[0] if len(node["outputs"]) == 1 and "as_tensors" not in node["outputs"][0] else found

    return Step(run, [_argument(a, path) for a in rest], {}, _keeper(node["outputs"]))


def _function(target: str, path: Path) -> Callable[..., Any]:
    """What a target names, if it is one of those that only compute.

    Raises:
        UserError: it isn't.
    """
    if target in PYTHON:
        return PYTHON[target]
    parts = target.split(".")
    if len(parts) == 5 and parts[:2] == ["torch", "ops"] and all(p.isidentifier() for p in parts):
        _, _, space, base, overload = parts
        if space in QUANTIZED and base.startswith(QUANTIZED[space]):
            _register(space, path)
        elif space != "aten" or base in FOREIGN or (base.startswith("_") and base not in UNDERSCORED):
            space = ""
        packet = getattr(getattr(torch.ops, space), base, None) if space else None
        found = getattr(packet, overload, None) if packet is not None else None
        if isinstance(found, torch._ops.OpOverload) and not any(
            str(a.type) in ("Storage", "Stream") for a in found._schema.arguments
        ):
            return found
    raise UserError(f"{path}: uses {target[:100]}, which is not among the operators that are run; {INSTEAD}")


def _register(space: str, path: Path) -> None:
    """Makes the operators of quantized exports known to torch."""
    import importlib

    module = {
        "quantized_decomposed": "torch.ao.quantization.fx._decomposed",
        "torchao": "torchao.quantization.quant_primitives",
    }[space]
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"{path}: was quantized with torchao ({error}): pip install 'compressbench[pt2e]'"
        ) from error


def _argument(arg: Mapping[str, Any], path: Path) -> Read:
    """Where a node finds an argument: among what was computed, or as a value."""
    ((kind, value),) = arg.items()
    if kind == "as_tensor":
        return operator.itemgetter(str(value["name"]))
    if kind in ("as_sym_int", "as_sym_float", "as_sym_bool"):
        return _number(value)
    if kind in ("as_tensors", "as_sym_ints", "as_sym_floats", "as_sym_bools"):
        each = [operator.itemgetter(str(v["name"])) if kind == "as_tensors" else _number(v) for v in value]
        return lambda env: [read(env) for read in each]
    if kind in ("as_optional_tensor", "as_optional_tensors"):
        several = [_optional(v) for v in (value if isinstance(value, list) else [value])]
        return (lambda env: [read(env) for read in several]) if isinstance(value, list) else several[0]
    constant = _value(kind, value, path)
    return lambda env: constant


def _value(kind: str, value: Any, path: Path) -> Any:
    if kind == "as_none":
        return None
    if kind == "as_scalar_type":
        return _dtype(value, path)
    if kind == "as_memory_format":
        return FORMATS[value]
    if kind == "as_layout":
        return torch.strided
    if kind == "as_device":
        return torch.device("cpu")
    if kind == "as_complex":
        return complex(value["real"], value["imag"])
    if kind == "as_float" and isinstance(value, str):  # as the schema writes what JSON has no number for
        return {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}[value]
    if kind in _PLAIN and isinstance(value, _PLAIN[kind]):
        return value
    raise UserError(f"{path}: has an argument of kind {kind}, which is not read; {INSTEAD}")


_PLAIN: Mapping[str, Any] = {
    "as_int": int, "as_float": float | int, "as_bool": bool, "as_string": str,
    "as_ints": list, "as_floats": list, "as_bools": list, "as_int_lists": list, "as_float_lists": list,
}  # fmt: skip


def _number(value: Mapping[str, Any]) -> Read:
    ((kind, inner),) = value.items()
    if kind == "as_name":
        return operator.itemgetter(str(inner))
    if not isinstance(inner, int | float):
        raise ValueError(f"a number of {value}")
    return lambda env: inner


def _optional(value: Mapping[str, Any]) -> Read:
    if "as_tensor" in value:
        return operator.itemgetter(str(value["as_tensor"]["name"]))
    return lambda env: None


def _keeper(outputs: Sequence[Mapping[str, Any]]) -> Callable[[Env, Any], None]:
    """Notes what a node gave under the names that the graph gives it."""
    each = [_named(o) for o in outputs]
    if len(each) == 1 and isinstance(each[0], str):
        only = each[0]
        return lambda env, result: env.__setitem__(only, result)

    def keep(env: Env, result: Any) -> None:
        if not each:
            return
        results = [result] if len(each) == 1 else result
        for name, one in zip(each, results, strict=True):
            if isinstance(name, str):
                env[name] = one
            elif name:
                env.update(zip(name, one, strict=True))

    return keep


def _named(output: Mapping[str, Any]) -> str | list[str]:
    ((kind, value),) = output.items()
    if kind == "as_tensor":
        return str(value["name"])
    if kind in ("as_sym_int", "as_sym_float", "as_sym_bool") and "as_name" in value:
        return str(value["as_name"])
    if kind == "as_tensors":
        return [str(v["name"]) for v in value]
    if kind == "as_optional_tensor":
        return str(value["as_tensor"]["name"]) if "as_tensor" in value else []
    if kind == "as_none":
        return []
    raise ValueError(f"a result of kind {kind}")
