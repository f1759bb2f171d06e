"""Our exported attribution networks as differentiable PyTorch functions: what an attacker with a bundle has.

    logits = load_onnx(folder / "network.onnx")      # float (n, S, S, 3) in 0..255 -> float (n, k)
    logits(pixels).sum().backward()

Only the operators that :mod:`registry.attribution.export` writes; any other is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper

from registry.errors import InputError

Tensor = torch.Tensor
Op = Callable[..., Any]


def load_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    """The graph with input ``pixels`` and output ``logits``; :class:`InputError` names any other operator."""
    graph = onnx.load(path).graph
    constants = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
    nodes = [(node.op_type, list(node.input), list(node.output), _attributes(node)) for node in graph.node]
    for kind, *_ in nodes:
        if kind not in _OPERATORS:
            raise InputError(f"{path}: operator {kind} is not known to this benchmark.")

    def run(pixels: Tensor) -> Tensor:
        values: dict[str, Any] = {**constants, "pixels": pixels, "": None}
        for kind, inputs, outputs, attributes in nodes:
            result = _OPERATORS[kind](*[values[name] for name in inputs], **attributes)
            values |= dict(zip(outputs, result if isinstance(result, tuple) else (result,), strict=False))
        logits: Tensor = values["logits"]
        return logits

    return run


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    pads: list[int],
    strides: list[int],
    dilations: list[int],
    group: int,
    **_: Any,
) -> Tensor:
    top, left, bottom, right = pads
    return F.conv2d(F.pad(x, (left, right, top, bottom)), weight, bias, strides, 0, dilations, group)


def _average_pool(
    x: Tensor,
    *,
    kernel_shape: list[int],
    strides: list[int],
    pads: list[int],
    count_include_pad: int = 0,
    **_: Any,
) -> Tensor:
    if pads[:2] != pads[2:]:
        raise InputError("only pools with the same margin on both sides are known to this benchmark.")
    return F.avg_pool2d(x, kernel_shape, strides, pads[:2], count_include_pad=bool(count_include_pad))


def _depth_to_space(x: Tensor, *, blocksize: int, mode: bytes = b"DCR") -> Tensor:
    if mode != b"CRD":
        raise InputError("DepthToSpace in another order than PixelShuffle's is not known to this benchmark.")
    return F.pixel_shuffle(x, blocksize)


def _batch_norm(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, *, epsilon: float, **_: Any
) -> Tensor:
    return F.batch_norm(x, mean, variance, weight, bias, eps=epsilon)


def _gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    transA: int = 0,
    transB: int = 0,
    alpha: float = 1.0,
    beta: float = 1.0,
) -> Tensor:
    product = alpha * (a.T if transA else a) @ (b.T if transB else b)
    return product if c is None else product + beta * c


def _reshape(x: Tensor, shape: Tensor, *, allowzero: int = 0) -> Tensor:
    sides = [x.shape[i] if side == 0 and not allowzero else side for i, side in enumerate(shape.tolist())]
    return x.reshape(sides)


def _reduce(function: Callable[..., Tensor]) -> Op:
    def run(x: Tensor, axes: Tensor | None = None, *, keepdims: int = 1, **_: Any) -> Tensor:
        dims = list(range(x.dim())) if axes is None else axes.tolist()
        return function(x, dims, bool(keepdims))

    return run


def _concat(*parts: Tensor, axis: int) -> Tensor:
    return torch.cat(parts, axis)


def _slice(x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor, steps: Tensor) -> Tensor:
    for start, end, axis, step in zip(*(t.tolist() for t in (starts, ends, axes, steps)), strict=True):
        index = [slice(None)] * x.dim()
        index[axis] = slice(start, min(end, x.shape[axis]), step)
        x = x[tuple(index)]
    return x


_OPERATORS: dict[str, Op] = {
    "Add": torch.add,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": lambda x, *, to, **_: x.float() if to == onnx.TensorProto.FLOAT else x.long(),
    "Clip": lambda x, low=None, high=None: torch.clamp(x, low, high),
    "Concat": _concat,
    "Conv": _conv,
    "DepthToSpace": _depth_to_space,
    "Div": torch.div,
    "Equal": torch.eq,
    "Flatten": lambda x, *, axis=1: x.flatten(axis),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda x: x.mean((2, 3), keepdim=True),
    "Greater": torch.gt,
    "Identity": lambda x: x,
    "MatMul": torch.matmul,
    "Mul": torch.mul,
    "Pow": torch.pow,
    "ReduceMean": _reduce(lambda x, dims, keep: x.mean(dims, keepdim=keep)),
    "ReduceMin": _reduce(lambda x, dims, keep: x.amin(dims, keepdim=keep)),
    "ReduceSum": _reduce(lambda x, dims, keep: x.sum(dims, keepdim=keep)),
    "Relu": torch.relu,
    "Reshape": _reshape,
    "Sigmoid": torch.sigmoid,
    "Slice": _slice,
    "Sqrt": torch.sqrt,
    "Sub": torch.sub,
    "Tanh": torch.tanh,
    "Transpose": lambda x, *, perm: x.permute(perm),
    "Unsqueeze": lambda x, axes: x.reshape(_unsqueezed(x, axes.tolist())),
}


def _unsqueezed(x: Tensor, axes: list[int]) -> list[int]:
    shape, dims = list(x.shape), x.dim() + len(axes)
    for axis in sorted(axis % dims for axis in axes):
        shape.insert(axis, 1)
    return shape
