"""How models are related: hierarchical clustering of fingerprints, drawn as a dendrogram with its matrix.

tree = Tree.of(["vae-a@1", "gan-a@1"], embeddings)     # (n, d), unit length
tree.clusters(4)                                       # a number for each model
tree.svg()                                             # text, for a file or a page
tree.document()                                        # JSON
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import dendrogram, fcluster, linkage
from scipy.spatial.distance import squareform

ROW, TREE, TOP, LETTER = 20, 260, 40, 7.2
"""Height of a row, width of the dendrogram, height above the rows, width of a letter; pixels."""
DARKEST = 0.85
UNRELATED = 1.0
"""Distance of models that have nothing in common. Drawings reach at least so far: otherwise near relatives
would look far from each other where there are no others."""


@dataclass(frozen=True)
class Tree:
    """Models by name, their distances (n, n), and the average linkage of these in scipy's form."""

    models: tuple[str, ...]
    distances: NDArray[np.float64]
    merges: NDArray[np.float64]

    @classmethod
    def of(cls, models: Sequence[str], embeddings: NDArray[Any]) -> Tree:
        """From unit embeddings (n, d) of at least two models; distance is one less the cosine."""
        vectors = np.asarray(embeddings, np.float64)
        distances = np.clip(1 - vectors @ vectors.T, 0, 2)
        distances = (distances + distances.T) / 2
        np.fill_diagonal(distances, 0)
        merges = linkage(squareform(distances, checks=False), "average", optimal_ordering=True)
        return cls(tuple(models), distances, merges)

    def clusters(self, count: int) -> list[int]:
        """The cluster, from 1, of each model when the tree is cut into ``count`` of them."""
        return [int(number) for number in fcluster(self.merges, count, "maxclust")]

    def document(self) -> dict[str, Any]:
        """The tree as JSON: schema ``hallmark/lineage-tree/1``; merges join rows of scipy's linkage."""
        return {
            "schema": "hallmark/lineage-tree/1",
            "models": list(self.models),
            "distances": [[round(value, 5) for value in row] for row in self.distances.tolist()],
            "merges": [
                {"left": int(a), "right": int(b), "distance": round(height, 5), "models": int(count)}
                for a, b, height, count in self.merges.tolist()
            ],
        }

    def svg(self, derived: float = 0.0) -> str:
        """Dendrogram, names and distance matrix side by side; colours follow the page's text colour.

        Up to the distance ``derived``, which is marked, one model's weights descend from the other's.
        """
        order = dendrogram(self.merges, no_plot=True)
        rows, n = order["leaves"], len(self.models)
        highest = max(float(self.merges[:, 2].max()), UNRELATED)
        left = round(TREE + 24 + LETTER * max(map(len, self.models)) + LETTER * len(str(n)))
        width, height = left + n * ROW + 8, TOP + n * ROW + 8

        def across(distance: float) -> float:
            return 8 + (TREE - 16) * (1 - distance / highest)

        def text(x: float, y: float, anchor: str, said: str) -> str:
            return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(said)}</text>'

        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" role="img" font-family="sans-serif" font-size="12" fill="currentColor">',
            f"<title>Lineage of {n} models: dendrogram and distances</title>",
            text(8, 14, "start", f"distance {highest:.2f}"),
            text(across(0), 14, "end", "0"),
        ]
        if derived:
            parts.append(
                f'<line x1="{across(derived):.1f}" x2="{across(derived):.1f}" y1="{TOP - 8}" '
                f'y2="{height - 8}" stroke="currentColor" stroke-dasharray="2 3">'
                f"<title>right of this line, at {derived:.3f}: derived weights</title></line>"
            )
        for places, heights in zip(order["icoord"], order["dcoord"], strict=True):
            points = " ".join(
                f"{across(h):.1f},{TOP + p / 10 * ROW:.1f}" for p, h in zip(places, heights, strict=True)
            )
            parts.append(f'<polyline points="{points}" fill="none" stroke="currentColor"/>')
        for row, model in enumerate(rows):
            y = TOP + row * ROW
            parts.append(text(TREE, y + 14, "start", f"{row + 1}  {self.models[model]}"))
            parts.append(text(left + (row + 0.5) * ROW, TOP - 6, "middle", str(row + 1)))
            for column, other in enumerate(rows):
                value = float(self.distances[model, other])
                shade = DARKEST * (1 - min(value / highest, 1.0))
                pair = f"{self.models[model]} - {self.models[other]}: {value:.3f}"
                parts.append(
                    f'<rect x="{left + column * ROW}" y="{y}" width="{ROW}" height="{ROW}" fill="#2a6fbb" '
                    f'fill-opacity="{shade:.2f}"><title>{escape(pair)}</title></rect>'
                )
        return "\n".join([*parts, "</svg>", ""])


def adjusted_rand(first: Sequence[object], second: Sequence[object]) -> float:
    """Agreement of two partitions (Hubert, Arabie 1985): 1 the same, about 0 by chance."""
    rows, columns = (
        np.unique(np.array(list(map(str, labels))), return_inverse=True)[1] for labels in (first, second)
    )
    table = np.zeros((rows.max() + 1, columns.max() + 1))
    np.add.at(table, (rows, columns), 1)

    def pairs(counts: NDArray[np.float64]) -> float:
        return float((counts * (counts - 1) / 2).sum())

    together, by_row, by_column = pairs(table), pairs(table.sum(1)), pairs(table.sum(0))
    chance = by_row * by_column / (len(rows) * (len(rows) - 1) / 2)
    most = (by_row + by_column) / 2
    return 1.0 if most == chance else (together - chance) / (most - chance)
