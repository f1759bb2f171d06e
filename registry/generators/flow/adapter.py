"""Adapter of the zoo's family ``flow``: see :mod:`registry.generators.small`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from registry.generators.flow.network import Flow, Layout
from registry.generators.small import SmallAdapter


class FlowAdapter(SmallAdapter):
    """Glow-like normalising flows."""

    name = "flow"

    def network(self, layout: Mapping[str, Any]) -> nn.Module:
        return Flow(Layout(**layout))

    def latent(self, layout: Mapping[str, Any]) -> tuple[int, ...]:
        return (3 * int(layout["size"]) ** 2,)
