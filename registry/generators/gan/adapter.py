"""Adapter of the zoo's family ``gan``: see :mod:`registry.generators.small`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from registry.generators.gan.network import Generator, Layout
from registry.generators.small import SmallAdapter
from registry.generators.small_network import SmallNetwork


class GanAdapter(SmallAdapter):
    """DCGAN generators."""

    name = "gan"

    def network(self, layout: Mapping[str, Any]) -> SmallNetwork:
        return Generator(Layout(**layout))

    def latent(self, layout: Mapping[str, Any]) -> tuple[int, ...]:
        return (int(layout["latent"]),)
