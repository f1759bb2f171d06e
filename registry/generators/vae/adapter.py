"""Adapter of the zoo's family ``vae``: see :mod:`registry.generators.small`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from registry.generators.small import SmallAdapter
from registry.generators.small_network import SmallNetwork
from registry.generators.vae.network import Autoencoder, Layout


class VaeAdapter(SmallAdapter):
    """Decoders of variational autoencoders."""

    name = "vae"

    def network(self, layout: Mapping[str, Any]) -> SmallNetwork:
        return Autoencoder(Layout(**layout))

    def latent(self, layout: Mapping[str, Any]) -> tuple[int, ...]:
        return (int(layout["latent"]),)
