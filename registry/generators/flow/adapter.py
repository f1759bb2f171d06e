"""Adapter of the zoo's family ``flow``: see :mod:`registry.generators.small`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from registry.generators.flow.network import Flow, Layout
from registry.generators.small import SmallAdapter
from registry.generators.small_network import SmallNetwork


class FlowAdapter(SmallAdapter):
    """Glow-like normalising flows."""

    name = "flow"

    def network(self, layout: Mapping[str, Any]) -> SmallNetwork:
        return Flow(Layout(**layout))

    def latent(self, layout: Mapping[str, Any]) -> tuple[int, ...]:
        return (3 * int(layout["size"]) ** 2,)
