"""A torch module as an ONNX file, the one way all networks here are written.

export_onnx(network, {"pixels": example}, "logits", {"pixels": {0: n}}, Path("network.onnx"))
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

STORED_HALF = 1024
"""Numbers from which a tensor of weights is stored in half precision, if they lie in its range."""
HALF_ROUNDING = 2.0**-11
"""Relative error of a tensor in half precision whose numbers neither overflow nor become subnormal."""


def export_onnx(
    module: nn.Module,
    example: Mapping[str, torch.Tensor],
    output: str,
    shapes: Mapping[str, Any],
    path: Path,
    *,
    half: bool = False,
) -> None:
    """Write ``module``, whose arguments are ``example``'s tensors in their order, to ``path``.

    ``shapes`` names the dimensions of each argument that may vary. With ``half`` large weights are stored in
    half precision, for networks that such rounding does not change.
    """
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            tuple(example.values()),
            path,
            input_names=list(example),
            output_names=[output],
            dynamic_shapes=dict(shapes),
            external_data=False,
            dynamo=True,
            verbose=False,
        )
    _compact(path, half)


def _compact(path: Path, half: bool) -> None:
    """Make the file smaller: without what the exporter notes on each operator, and with ``half`` its large
    weights rounded.

    These are cast back before they are used, so that all devices compute with the same numbers.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(path)
    graph = model.graph
    casts = []
    for tensor in graph.initializer:
        if not half or tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < STORED_HALF:
            continue
        name, values = tensor.name, numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            rounded = values.astype(np.float16)
        if np.linalg.norm(rounded - values) <= HALF_ROUNDING * np.linalg.norm(values):
            tensor.CopyFrom(numpy_helper.from_array(rounded, f"{name}.half"))
            casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    for node in nodes:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for field in ("node", "value_info", "metadata_props"):
        graph.ClearField(field)
    graph.node.extend(nodes)
    onnx.save(model, path)
