"""The directions with most evidence for the distortion they cost, which both learned schemes look for.

scaled = leading_directions(evidence, distortion, cost, ridge=1.0, count=64)
directions = scaled / cost[:, None]
"""

from __future__ import annotations

import torch


def leading_directions(
    evidence: torch.Tensor, distortion: torch.Tensor, cost: torch.Tensor, ridge: float, count: int
) -> torch.Tensor:
    """Leading eigenvectors (P, count) of Q against M, by falling evidence, float64, in units of ``cost``.

    A step delta of the weights costs ``delta' M delta``, ``distortion`` M (P, P); ``cost`` (P,), the root of
    M's diagonal, never 0, is the unit of each weight. ``evidence`` Q (P, P) is that of steps in these units.
    ``ridge`` is added to M's diagonal, in these units too, and the directions are orthonormal in the sum
    divided by ``1 + ridge``.
    """
    eye = torch.eye(len(cost), dtype=torch.float64)
    root = torch.linalg.cholesky((distortion / cost[:, None] / cost + ridge * eye) / (1 + ridge))
    whitened = torch.linalg.solve_triangular(root, evidence, upper=False)
    whitened = torch.linalg.solve_triangular(root, whitened.T, upper=False)
    _, vectors = torch.linalg.eigh((whitened + whitened.T) / 2)
    return torch.linalg.solve_triangular(root.T, vectors.flip(1)[:, :count], upper=True)
