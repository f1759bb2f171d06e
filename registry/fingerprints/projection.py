"""Reading a key from weights: projection of what a suspect's tensors differ by on the basis.

    observed = {target: observe(directions, base, suspect) for ...}      # one for each tensor found
    projection = project(observed, bits=basis.bits)
    projection.readings[0].logits                                       # int64 (k,), all tensors together

A suspect is ``theta_0 + sum_j phi_j D_j + noise`` in every tensor, where the noise is what happened to the
copy since: rounding, fine-tuning, pruning, the keys of other copies it was mixed with. So x, the
estimate of phi, is the posterior mean under a normal prior of variance p and normal noise of a
variance s^2 for each tensor, both estimated from the suspect itself by expectation-maximisation, with

- weights for each element as of Student's t, so that few far outliers do not count;
- exact zeros left out as missing data: that is what pruning leaves, and no fingerprinted value is
  exactly zero;
- the tensor's own scale as a nuisance with a prior of its own (automatic relevance determination; Tipping,
  "Sparse Bayesian learning and the relevance vector machine", 2001): multiplied weights hide nothing.

The logits are the log-odds of phi_j, up to a common factor, under the same estimates, their rms brought
to ``UNIT`` and clipped at ``CLIP``. Nothing of this needs to be right for a verdict to be: the bound of
:mod:`verifier.evidence` holds for any logits that were made without the keys. All choices here are made
by looking at weights alone, so they cost no evidence either.

**Several readings.** Tensors of several copies may be interleaved. So besides the reading of all tensors
there are readings of groups of tensors that agree with each other (two, and those split again) and of
each tensor alone, unless one key explains all of them. Whoever tests these further readings pays for them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from registry.fingerprints.basis import Target

Floats = NDArray[np.float64]

UNIT, CLIP = 32, 128
"""Rms of a reading's integer logits, and the most that one bit counts."""

ITERATIONS = 12
"""Steps of expectation-maximisation; an exact copy has reached the least noise by then."""

FREEDOM = 4.0
"""Degrees of freedom of the elements' Student's t."""

LEAST_NOISE = 1e-3
"""Noise is not taken for less than this share of the fingerprint's own rms in a tensor."""

TENSORS_MOST = 64
"""Tensors that are read alone and grouped, those with the most elements: the rest adds little."""

GROUPED_LEAST = 4
"""Tensors from which on a division into groups is tried."""

REASSIGNED = 3
"""Rounds in which tensors move to the group that predicts them better."""

LITTLE_NOISE = 0.1
"""Noise below this share of the fingerprint's rms, as rounding leaves, hides no other copy's tensor."""

UNMARKED = 0.1
"""Below this rms of x (1 for a copy, 1/sqrt(n) for the average of n), if known as well, there is no key."""

_RESCALED = 0.05
_CHUNK = 1 << 15


@dataclass(frozen=True)
class Observation:
    """One tensor: ``directions`` (k, n) with the strength included, ``base`` and ``difference`` (n,).

    ``known`` (n,) says which elements the suspect still has; ``scale`` is the factor by which it was
    found multiplied, already divided out.
    """

    directions: NDArray[np.float32]
    base: Floats
    difference: Floats
    known: NDArray[np.bool_]
    scale: float = 1.0

    def part(self, start: int, stop: int) -> tuple[Floats, Floats, Floats]:
        """(directions, base, difference) of some elements in double precision."""
        return (
            self.directions[:, start:stop].astype(np.float64),
            self.base[start:stop],
            self.difference[start:stop],
        )


@dataclass(frozen=True)
class Reading:
    """Integer logits (k,) and the tensors they were read from."""

    logits: NDArray[np.int64]
    targets: tuple[Target, ...]


@dataclass(frozen=True)
class Projection:
    """What a suspect's weights say: the reading of all tensors first, then those of some of them.

    ``amplitude`` is the rms of x over the bits: about 1 for a copy, ``1 / sqrt(n)`` for the average of n,
    0 for the base. ``unmarked``: the weights are known well enough to say that they hold no key.
    """

    readings: list[Reading]
    amplitude: float
    unmarked: bool


def observe(directions: NDArray[np.float32], base: Floats, suspect: Floats) -> Observation:
    """What ``suspect`` says of the key; ``base`` and it have one shape, ``directions`` is (k, *shape).

    A tensor that was multiplied as a whole is divided by its factor: the median ratio to the base, where
    the ratios agree on it.
    """
    flat, values = base.reshape(-1).astype(np.float64), suspect.reshape(-1).astype(np.float64)
    rows = np.ascontiguousarray(directions.reshape(len(directions), -1))
    known = values != 0
    scale = _factor(flat, values, known)
    return Observation(rows, flat, np.where(known, values / scale - flat, 0.0), known, scale)


def _factor(base: Floats, suspect: Floats, known: NDArray[np.bool_]) -> float:
    large = known & (np.abs(base) > 0.1 * float(np.abs(base).max(initial=0.0)))
    if np.count_nonzero(large) < 8:
        return 1.0
    ratios = suspect[large] / base[large]
    factor = float(np.median(ratios))
    spread = float(np.median(np.abs(ratios - factor)))
    agreed = abs(factor - 1) > _RESCALED + 3 * spread and abs(factor) > 3 * spread
    return factor if agreed and math.isfinite(1 / factor) else 1.0


def project(observed: Mapping[Target, Observation], bits: int) -> Projection:
    """Read the key of ``bits`` bits that the observed tensors hold; see the module."""
    useful = {target: found for target, found in observed.items() if found.known.any()}
    if not useful:
        return Projection([Reading(np.zeros(bits, np.int64), ())], 0.0, bool(observed))
    targets = list(useful)
    fit = _Fit([useful[target] for target in targets], bits)
    readings = [Reading(fit.logits(), tuple(targets))]
    if len(targets) > 1 and not fit.explains_all():
        largest = sorted(range(len(targets)), key=lambda i: -int(useful[targets[i]].known.sum()))
        chosen = sorted(largest[:TENSORS_MOST])
        for group in _groups(fit, chosen):
            found = [targets[i] for i in group]
            readings.append(Reading(_Fit([useful[t] for t in found], bits).logits(), tuple(found)))
        readings += [Reading(fit.logits([i]), (targets[i],)) for i in chosen]
        # A tensor that is the base's says nothing.
        readings[1:] = [reading for reading in readings[1:] if reading.logits.any()]
    amplitude, uncertainty = fit.amplitude()
    return Projection(readings, amplitude, amplitude < UNMARKED and uncertainty < UNMARKED)


class _Fit:
    """The estimate from some tensors: normal equations of each, noise and prior; see the module."""

    def __init__(self, observed: Sequence[Observation], bits: int) -> None:
        self._observed, self._bits = observed, bits
        self._prior = 1.0
        self._energy = [_energy(found) for found in observed]
        self._noise = [
            max(float(np.mean(found.difference[found.known] ** 2)), LEAST_NOISE**2 * energy, 1e-300)
            for found, energy in zip(observed, self._energy, strict=True)
        ]
        self._weights = [found.known.astype(np.float64) for found in observed]
        self._scale_prior = [1.0] * len(observed)
        self._collect()
        for _ in range(ITERATIONS):
            self._maximise()
            self._collect()

    def normal(self, members: Iterable[int] | None = None) -> tuple[Floats, Floats]:
        """The normal equations (k, k) and (k,) of the tensors ``members`` (all by default)."""
        gram, information = np.zeros((self._bits, self._bits)), np.zeros(self._bits)
        for i in range(len(self._observed)) if members is None else members:
            gram += self._gram[i]
            information += self._information[i]
        return gram, information

    def estimate(self, gram: Floats, information: Floats) -> Floats:
        """Posterior mean (k,) of the key under normal equations."""
        return np.asarray(np.linalg.solve(gram + np.eye(self._bits) / self._prior, information), np.float64)

    def solve(
        self, members: Iterable[int] | None = None, prior: float | None = None
    ) -> tuple[Floats, Floats]:
        """Posterior mean (k,) and covariance (k, k) of the key, from the tensors ``members``."""
        gram, information = self.normal(members)
        precision = gram + np.eye(self._bits) / (prior or self._prior)
        covariance = np.asarray(np.linalg.inv(precision), np.float64)
        return covariance @ information, covariance

    def explains_all(self) -> bool:
        """Whether one key explains every tensor but for little noise: then none is another copy's."""
        pairs = zip(self._noise, self._energy, strict=True)
        return all(noise <= LITTLE_NOISE**2 * energy for noise, energy in pairs)

    def logits(self, members: Iterable[int] | None = None) -> NDArray[np.int64]:
        """Integer logits (k,) of the key, from the tensors ``members`` (all by default).

        With x and c a bit's posterior mean and variance, its own evidence is e = x / (1 - c / p) with
        variance v = c / (1 - c / p), and its log-odds are as e / (v + q): q = p / 4 stands for what the
        model leaves out. So well-known bits count as their x: alike, or 0 where two copies were averaged.
        """
        x, covariance = self.solve(members)
        c = np.diag(covariance)
        odds = x / (c + self._prior / 4 * np.maximum(1 - c / self._prior, 0))
        rms = math.sqrt(float(np.mean(odds**2)))
        if not (math.isfinite(rms) and rms > 0):
            return np.zeros(self._bits, np.int64)
        return np.clip(np.rint(odds * (UNIT / rms)), -CLIP, CLIP).astype(np.int64)

    def amplitude(self) -> tuple[float, float]:
        """Rms of the key as it would be estimated for a copy, and the rms of its uncertainty."""
        x, covariance = self.solve(prior=1.0)
        uncertainty = float(np.mean(np.diag(covariance)))
        return math.sqrt(max(float(np.mean(x**2)) - uncertainty, 0.0)), math.sqrt(uncertainty)

    def agreement(self, members: Sequence[int]) -> Floats:
        """Cosines (m, m) between what each tensor alone says of the key; the diagonal is 0."""
        alone = np.stack([self.estimate(*self.normal([i])) for i in members])
        alone /= np.maximum(np.linalg.norm(alone, axis=1, keepdims=True), 1e-300)
        cosines = alone @ alone.T
        np.fill_diagonal(cosines, 0.0)
        return np.asarray(cosines, np.float64)

    def misfit(self, i: int, x: Floats) -> float:
        """The squared residual of tensor i under the key x, but for what does not depend on x."""
        return float(x @ self._gram[i] @ x - 2 * x @ self._information[i])

    def _collect(self) -> None:
        """The normal equations of each tensor, its scale eliminated."""
        self._gram, self._information = [], []
        self._scale_terms = []
        for i, found in enumerate(self._observed):
            gram, cross = np.zeros((self._bits, self._bits)), np.zeros(self._bits)
            information = np.zeros(self._bits)
            base_square = base_difference = 0.0
            weights = self._weights[i] / self._noise[i]
            for start, stop in _chunks(len(found.base)):
                rows, base, difference = found.part(start, stop)
                weight = weights[start:stop]
                weighted = rows * weight
                gram += weighted @ rows.T
                cross += weighted @ base
                information += weighted @ difference
                base_square += float((weight * base) @ base)
                base_difference += float((weight * base) @ difference)
            scale_precision = base_square + 1 / self._scale_prior[i]
            self._gram.append(gram - np.outer(cross, cross) / scale_precision)
            self._information.append(information - cross * (base_difference / scale_precision))
            self._scale_terms.append((cross, base_difference, scale_precision))

    def _maximise(self) -> None:
        """New noise, weights, scales and prior from the present estimate."""
        x, covariance = self.solve()
        self._prior = float(np.clip(np.mean(x**2 + np.diag(covariance)), 1e-8, 4.0))
        for i, found in enumerate(self._observed):
            cross, base_difference, scale_precision = self._scale_terms[i]
            scale = (base_difference - float(cross @ x)) / scale_precision
            self._scale_prior[i] = max(scale**2 + 1 / scale_precision, 1e-12)
            residual = np.concatenate(list(_residuals(found, x, scale)))
            count = int(found.known.sum())
            # The part of the residual's expectation that the uncertainty of x accounts for.
            blur = self._noise[i] * float(np.sum(self._gram[i] * covariance)) / count
            squares = residual**2 + blur
            weights = (FREEDOM + 1) / (FREEDOM + squares / self._noise[i])
            self._weights[i] = np.where(found.known, weights, 0.0)
            noise = float((self._weights[i] * squares).sum()) / count
            self._noise[i] = max(noise, LEAST_NOISE**2 * self._energy[i], 1e-300)


def _energy(found: Observation) -> float:
    """Mean square of the fingerprint in a tensor over random keys."""
    total = sum(
        float(np.square(found.part(start, stop)[0]).sum()) for start, stop in _chunks(len(found.base))
    )
    return total / max(len(found.base), 1)


def _residuals(found: Observation, x: Floats, scale: float) -> Iterator[Floats]:
    for start, stop in _chunks(len(found.base)):
        rows, base, difference = found.part(start, stop)
        yield difference - x @ rows - scale * base


def _chunks(n: int) -> Iterator[tuple[int, int]]:
    for start in range(0, n, _CHUNK):
        yield start, min(start + _CHUNK, n)


def _groups(fit: _Fit, members: Sequence[int]) -> list[list[int]]:
    """Groups of tensors that say the same of the key: a division in two, and each part divided again."""
    found = _halves(fit, members)
    return found + [part for half in found for part in _halves(fit, half)]


def _halves(fit: _Fit, members: Sequence[int]) -> list[list[int]]:
    """Two groups of tensors: by the leading eigenvector of their agreement, then tensor by tensor to the
    group that predicts it better without it."""
    if len(members) < GROUPED_LEAST:
        return []
    cosines = fit.agreement(members)
    off_diagonal = cosines.sum() / (len(members) * (len(members) - 1))
    apart = cosines - off_diagonal
    np.fill_diagonal(apart, 0.0)
    side = np.linalg.eigh(apart)[1][:, -1] > 0
    for _ in range(REASSIGNED):
        yes = fit.normal(m for m, s in zip(members, side, strict=True) if s)
        no = fit.normal(m for m, s in zip(members, side, strict=True) if not s)
        moved = np.array(
            [
                _misprediction(fit, m, yes, bool(s)) < _misprediction(fit, m, no, not s)
                for m, s in zip(members, side, strict=True)
            ]
        )
        if (moved == side).all():
            break
        side = moved
    halves = [[m for m, s in zip(members, side, strict=True) if s == which] for which in (True, False)]
    return halves if all(halves) else []


def _misprediction(fit: _Fit, i: int, total: tuple[Floats, Floats], inside: bool) -> float:
    """How badly the tensors of a group, whose normal equations are ``total``, predict tensor i, which is
    left out where it is ``inside`` the group."""
    own = fit.normal([i])
    gram, information = (total[0] - own[0], total[1] - own[1]) if inside else total
    return fit.misfit(i, fit.estimate(gram, information))
