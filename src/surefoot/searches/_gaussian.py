"""The Gaussian process of the probabilistic line search: an integrated Wiener process."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.special import ndtr

_OFFSET = 10.0
"""τ of PLS eq. (4): the process starts this far before the line, so that 0 is an ordinary place."""
_JITTER = 1e-12  # keeps the noise-free matrix invertible; far below any measured noise
_INTERVALS = 2000  # of Simpson's rule; even


def _prior(a: Tensor, b: Tensor) -> Tensor:
    """Prior covariance of (values, slopes) at ``a`` with those at ``b``. PLS eqs. (4), (5), θ = 1.

    A matrix of four blocks, of shape (2 len(a), 2 len(b)).
    """
    x, y = a[:, None] + _OFFSET, b[None, :] + _OFFSET
    low = torch.minimum(x, y)
    values = low**3 / 3.0 + 0.5 * (x - y).abs() * low**2
    value_slope = torch.where(x < y, 0.5 * x * x, x * y - 0.5 * y * y)
    slope_value = torch.where(y < x, 0.5 * y * y, x * y - 0.5 * x * x)
    return torch.cat(
        [torch.cat([values, value_slope], dim=1), torch.cat([slope_value, low], dim=1)]
    )


class LineModel:
    """What is believed about a line after noisy values and slopes of it were seen.

    The posterior mean is a cubic between any two places, the variance has a closed form.

    Args:
        value_variance: variance of the noise of a value.
        slope_variance: variance of the noise of a slope.
    """

    def __init__(self, value_variance: float, slope_variance: float) -> None:
        self._noise = (value_variance, slope_variance)
        self.places: list[float] = []
        self._values: list[float] = []
        self._slopes: list[float] = []
        self._factors: tuple[Tensor, Tensor] | None = None
        self._weights = tensor([])

    def add(self, t: float, value: float, slope: float) -> None:
        """Take in an observation."""
        self.places.append(t)
        self._values.append(value)
        self._slopes.append(slope)
        places = tensor(self.places)
        noise = tensor([variance + _JITTER for variance in self._noise for _ in self.places])
        self._factors = torch.linalg.lu_factor(_prior(places, places) + torch.diag(noise))
        seen = tensor(self._values + self._slopes)
        self._weights = torch.linalg.lu_solve(*self._factors, seen[:, None])[:, 0]

    def mean(self, ts: Sequence[float]) -> tuple[list[float], list[float]]:
        """Posterior means of the values and of the slopes at ``ts``."""
        both: list[float] = (_prior(tensor(ts), tensor(self.places)) @ self._weights).tolist()
        return both[: len(ts)], both[len(ts) :]

    def believe(self, ts: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Posterior mean and covariance of (values, slopes) at ``ts``. PLS eq. (6)."""
        assert self._factors is not None
        at = tensor(ts)
        cross = _prior(at, tensor(self.places))
        explained = cross @ torch.linalg.lu_solve(*self._factors, cross.T)
        return cross @ self._weights, _prior(at, at) - explained

    def minima(self) -> list[float]:
        """Minima of the posterior mean between the places observed: at most one a cell."""
        cells = list(itertools.pairwise(sorted(self.places)))
        thirds = [t for low, high in cells for t in (low, 0.5 * (low + high), high)]
        slopes = self.mean(thirds)[1]
        # a cubic's slope is a parabola, and three of its values determine it
        roots = [_rising_root(*slopes[i : i + 3]) for i in range(0, len(slopes), 3)]
        pairs = zip(roots, cells, strict=True)
        return [low + u * (high - low) for u, (low, high) in pairs if u is not None]


def _rising_root(at_0: float, at_half: float, at_1: float) -> float | None:
    """Where in (0, 1) the parabola through three equally spaced values rises through zero."""
    a = 2.0 * (at_0 - 2.0 * at_half + at_1)
    b = -3.0 * at_0 + 4.0 * at_half - at_1
    if abs(a) < 1e-12 * max(abs(b), 1e-300):
        root = -at_0 / b if b > 0.0 else math.nan
    else:
        inside = b * b - 4.0 * a * at_0
        root = (-b + math.sqrt(inside)) / (2.0 * a) if inside > 0.0 else math.nan
    return root if 0.0 < root < 1.0 else None


def expected_improvement(mean: Tensor, variance: Tensor, lowest: float) -> Tensor:
    """How far below ``lowest`` normally distributed values are expected to be. PLS eq. (9)."""
    gain, sigma = lowest - mean, variance.clamp(min=0.0).sqrt()
    z = gain / sigma.clamp(min=1e-12)
    density = torch.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
    return torch.where(sigma < 1e-9, gain.clamp(min=0.0), gain * ndtr(z) + sigma * density)


def probability_both_positive(mean: Tensor, cov: Tensor, upper: Tensor) -> Tensor:
    """P(a > 0 and 0 < b < upper) for pairs of jointly normal numbers. PLS eqs. (14) to (16).

    One integral is closed, the other is Simpson's rule over b: far better than what the noise
    estimates are worth.

    Args:
        mean: of a and b, shape (n, 2).
        cov: their covariances, shape (n, 2, 2).
        upper: shape (n,).
    """
    # no noise to speak of: the conditions hold or they do not
    certain = ((mean >= 0.0).all(dim=1) & (mean[:, 1] <= upper)).to(mean.dtype)
    var_a, var_b = cov[:, 0, 0].clamp(min=1e-9), cov[:, 1, 1].clamp(min=1e-9)
    a, b = mean[:, 0] / var_a.sqrt(), mean[:, 1] / var_b.sqrt()
    rho = (cov[:, 0, 1] / (var_a * var_b).sqrt()).clamp(-1.0 + 1e-9, 1.0 - 1e-9)
    low = (-b).clamp(-9.0, 9.0)
    high = (upper / var_b.sqrt() - b).clamp(-9.0, 9.0)
    share = torch.linspace(0.0, 1.0, _INTERVALS + 1, dtype=mean.dtype, device="cpu")
    z = low[:, None] + (high - low)[:, None] * share
    inner = ndtr((a[:, None] + rho[:, None] * z) / ((1.0 - rho) * (1.0 + rho)).sqrt()[:, None])
    f = inner * torch.exp(-0.5 * z * z)
    ends = f[:, 0] + f[:, -1] + 4.0 * f[:, 1::2].sum(dim=1) + 2.0 * f[:, 2:-1:2].sum(dim=1)
    uncertain = ends * (high - low) / (3.0 * _INTERVALS) / math.sqrt(2.0 * math.pi)
    drowned = (cov[:, 0, 0] < 1e-9) | (cov[:, 1, 1] < 1e-9)
    return torch.where(drowned, certain, uncertain)


def tensor(numbers: Sequence[Any]) -> Tensor:
    """Double precision on the CPU, whatever torch's defaults are."""
    return torch.tensor(numbers, dtype=torch.float64, device="cpu")
