r"""Data whose true coordinates are known. Derivation: ``book/autoencoders.md``."""

import math

import torch
from torch import Tensor

from aecore.nn import check_sizes

__all__ = ["swiss_roll"]

_INNER, _OUTER, _HEIGHT = 1.5 * math.pi, 4.5 * math.pi, 21.0


def swiss_roll(
    n: int, *, noise: float = 0.0, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    r"""Points on a rolled-up rectangle, and where they lie on the flat one.

    Implements :eq:`eq-autoencoders-swiss-roll` with the angles that
    :eq:`eq-autoencoders-arc-length` assigns to the arc lengths:

    .. math:: (s, v) \mapsto (t \cos t,\; v,\; t \sin t), \qquad
        s + s_0 = \tfrac12 \big( t \sqrt{1 + t^2} + \operatorname{arsinh} t \big) .

    The roll is that of ``sklearn.datasets.make_swiss_roll``, one and a half turns with
    :math:`\tfrac32\pi \le t \le \tfrac92\pi` and 21 high, but points are uniform on the *surface*,
    not in the angle, and the coordinates are lengths on the sheet: the geodesic distance of two
    points without noise is the Euclidean distance of their coordinates.

    Args:
        n: Number of points :math:`N`.
        noise: Standard deviation of Gaussian noise added to the points; the coordinates stay those
            of the point before the noise.
        generator: Source of the randomness, on the CPU; torch's global one by default.

    Returns:
        The points, shape ``(N, 3)``, and their coordinates ``(N, 2)``: the arc length :math:`s`,
        0 at the inner edge and about 89.4 at the outer one, and the height :math:`v` in [0, 21].

    Raises:
        ValueError: If ``n`` is no positive integer, or ``noise`` is negative.

    Source:
        Tenenbaum et al. (2000) for the data set.

    Example:
        >>> points, coordinates = swiss_roll(5)
        >>> points.shape, coordinates.shape
        (torch.Size([5, 3]), torch.Size([5, 2]))
    """
    check_sizes(n=n)
    if not 0 <= noise < math.inf:
        raise ValueError(f"noise must be a finite number, at least 0, got {noise}")
    start, end = _arc_length(torch.tensor([_INNER, _OUTER], dtype=torch.float64))
    size = torch.stack([end - start, torch.tensor(_HEIGHT)])
    coordinates = size * torch.rand(n, 2, dtype=torch.float64, generator=generator)
    t = _angle(coordinates[:, 0] + start)
    points = torch.stack([t * t.cos(), coordinates[:, 1], t * t.sin()], dim=1)
    points += noise * torch.randn(n, 3, dtype=torch.float64, generator=generator)
    default = torch.get_default_dtype()
    return points.to(default), coordinates.to(default)


def _arc_length(t: Tensor) -> Tensor:
    """Length of the spiral ``(t cos t, t sin t)`` from its centre to angle ``t``."""
    return 0.5 * (t * (1 + t.square()).sqrt() + t.asinh())


def _angle(s: Tensor) -> Tensor:
    """Inverse of :func:`_arc_length` by Newton's method.

    The arc length is convex and at least ``t² / 2``, so that ``sqrt(2 s)`` lies at or above the
    root, and from there each step comes nearer without passing it.
    """
    t = (2 * s).sqrt()
    for _ in range(6):
        t = t - (_arc_length(t) - s) / (1 + t.square()).sqrt()
    return t
