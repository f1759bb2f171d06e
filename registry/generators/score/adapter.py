"""Adapter of the zoo's family ``score``: see :mod:`registry.generators.small`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from registry.generators.score.network import Layout, Score
from registry.generators.small import SmallAdapter
from registry.generators.small_network import SmallNetwork


class ScoreAdapter(SmallAdapter):
    """Score-based models of pixels."""

    name = "score"

    def network(self, layout: Mapping[str, Any]) -> SmallNetwork:
        return Score(Layout(**layout))

    def latent(self, layout: Mapping[str, Any]) -> tuple[int, ...]:
        return (3 * int(layout["size"]) ** 2,)
