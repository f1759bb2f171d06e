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

ROW, LABEL, TREE, TOP = 20, 150, 220, 34
"""Height of a row, widths of labels and dendrogram, height above the rows; pixels."""
DARKEST = 0.85


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

    def svg(self) -> str:
        """Dendrogram, names and distance matrix side by side; colours follow the page's text colour."""
        drawn = dendrogram(self.merges, no_plot=True)
        order = drawn["leaves"]
        n, highest = len(order), max(float(self.merges[:, 2].max()), 1e-9)
        left = TREE + 16 + LABEL
        width, height = left + n * ROW + 16, TOP + n * ROW + 16
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" role="img" font-family="sans-serif" font-size="12" fill="currentColor">',
            f"<title>Lineage of {n} models: dendrogram and distances</title>",
        ]

        def across(distance: float) -> float:
            return 8 + (TREE - 16) * (1 - distance / highest)

        for places, heights in zip(drawn["icoord"], drawn["dcoord"], strict=True):
            points = " ".join(
                f"{across(h):.1f},{TOP + p / 10 * ROW:.1f}" for p, h in zip(places, heights, strict=True)
            )
            parts.append(f'<polyline points="{points}" fill="none" stroke="currentColor"/>')
        parts.append(f'<text x="8" y="14">{highest:.2f}</text>')
        parts.append(f'<text x="{TREE - 8}" y="14" text-anchor="end">distance 0</text>')
        for row, model in enumerate(order):
            y = TOP + row * ROW
            parts.append(f'<text x="{TREE}" y="{y + 14}">{escape(self.models[model])}</text>')
            for column, other in enumerate(order):
                value = float(self.distances[model, other])
                shade = DARKEST * (1 - min(value / highest, 1.0))
                parts.append(
                    f'<rect x="{left + column * ROW}" y="{y}" width="{ROW}" height="{ROW}" '
                    f'fill="#2a6fbb" fill-opacity="{shade:.2f}">'
                    f"<title>{escape(self.models[model])} - {escape(self.models[other])}: {value:.3f}</title>"
                    "</rect>"
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
