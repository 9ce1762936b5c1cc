r"""Data whose true coordinates are known, and a model of data whose every density is.

Derivations: ``book/autoencoders.md`` for the roll, ``book/inference.md`` for the linear model;
``book/beta_vae.md`` uses the sprites.
"""

import math

import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from aecore.losses import gaussian_nll
from aecore.nn import check_sizes, check_width

__all__ = ["SPRITE_FACTORS", "LinearGaussian", "draw_sprites", "sprites", "swiss_roll"]

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


class LinearGaussian:
    r"""Latent-variable model with Gaussian latents and a linear decoder: all in closed form.

    Implements :eq:`eq-inference-linear-gaussian`:

    .. math:: z \sim \mathcal N(0, I), \qquad x \mid z \sim \mathcal N(W z + b, \sigma^2 I) .

    Every result has the type and the device of the tensors given, and a gradient in them where
    they ask for one.

    Args:
        weight: Decoder weight :math:`W`, shape ``(D, L)``, float32 or float64.
        bias: Mean of the data :math:`b`, shape ``(D,)``, of the weight's type.
        log_var: Log-variance :math:`\log \sigma^2` of the noise: a number.

    Raises:
        ValueError: If a shape or a type does not fit, or a value is not finite.

    Source:
        Tipping and Bishop (1999), who call it probabilistic principal component analysis.

    Example:
        >>> model = LinearGaussian(torch.ones(3, 1), torch.zeros(3), 0.0)
        >>> mean, covariance = model.posterior(torch.ones(2, 3))
        >>> mean.flatten(), covariance
        (tensor([0.7500, 0.7500]), tensor([[0.2500]]))
    """

    def __init__(self, weight: Tensor, bias: Tensor, log_var: float) -> None:
        if weight.ndim != 2 or 0 in weight.shape:
            raise ValueError(f"weight must have shape (D, L), got {tuple(weight.shape)}")
        if weight.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"weight must be float32 or float64, got {weight.dtype}")
        if bias.shape != weight.shape[:1] or bias.dtype != weight.dtype:
            raise ValueError(
                f"bias must have shape ({len(weight)},) and type {weight.dtype} like the weight's "
                f"rows, got {tuple(bias.shape)} and {bias.dtype}"
            )
        if not isinstance(log_var, int | float) or not math.isfinite(log_var):
            raise ValueError(f"log_var must be a finite number, got {log_var!r}")
        for name, values in (("weight", weight), ("bias", bias)):
            if not values.isfinite().all():
                raise ValueError(f"{name} must be finite, got NaN or infinity in it")
        self.weight, self.bias, self.log_var = weight, bias, float(log_var)
        self.n_inputs, self.n_latents = weight.shape

    def sample(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Draw ``n`` examples by acting the model out: ``x`` ``(n, D)`` and its ``z`` ``(n, L)``.

        ``generator`` is the source of the randomness, torch's global one by default.
        """
        check_sizes(n=n)
        z = self.weight.new_empty(n, self.n_latents).normal_(generator=generator)
        eps = self.weight.new_empty(n, self.n_inputs).normal_(generator=generator)
        return self.decode(z) + math.exp(0.5 * self.log_var) * eps, z

    def prior(self, y: Tensor | None = None) -> Independent:
        """The standard Gaussian over latents, event shape ``(L,)``; ``y`` is not used."""
        zeros = self.weight.new_zeros(self.n_latents)
        return Independent(Normal(zeros, torch.ones_like(zeros)), 1)

    def decode(self, z: Tensor) -> Tensor:
        """Mean ``W z + b`` of the data, ``(B, D)``, for latents ``(B, L)``."""
        check_width("z", z, self.n_latents)
        return z @ self.weight.T + self.bias

    def nll(self, x: Tensor, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Minus ``log p(x | z)`` in nats, constants included, ``(B,)``; ``y`` is not used."""
        check_width("x", x, self.n_inputs)
        return gaussian_nll(self.decode(z), x, self.log_var)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""The exact ``p(z | x)``, a Gaussian.

        Implements :eq:`eq-inference-linear-posterior`: with the precision
        :math:`\Lambda = I + W^\top W / \sigma^2`, the covariance is :math:`\Lambda^{-1}` and the
        mean :math:`\Lambda^{-1} W^\top (x - b) / \sigma^2`.

        Args:
            x: Data, shape ``(B, D)``.

        Returns:
            The means, shape ``(B, L)``, and the one covariance of them all, ``(L, L)``.
        """
        check_width("x", x, self.n_inputs)
        covariance = torch.cholesky_inverse(torch.linalg.cholesky(self._precision()))
        mean = (x - self.bias) @ self.weight @ covariance * math.exp(-self.log_var)
        return mean, covariance

    def log_evidence(self, x: Tensor) -> Tensor:
        r"""The exact ``log p(x)`` in nats, shape ``(B,)``, for data ``(B, D)``.

        Implements :eq:`eq-inference-linear-evidence`:
        :math:`p(x) = \mathcal N(b, W W^\top + \sigma^2 I)`. Computed as the bound at the exact
        posterior, which needs no matrix of size ``(D, D)``.
        """
        return self.elbo(x, *self.posterior(x))

    def elbo(self, x: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
        r"""Evidence lower bound of each example for any Gaussian ``q``, without sampling.

        Implements :eq:`eq-inference-linear-elbo`: for :math:`q = \mathcal N(m, C)`

        .. math:: \mathrm{ELBO} = \log p(x \mid m) - \tfrac12 \big( \|m\|^2
            + \operatorname{tr} \Lambda C - \log |C| - L \big) .

        Args:
            x: Data, shape ``(B, D)``.
            mean: Means of ``q``, shape ``(B, L)``.
            covariance: Covariances of ``q``, positive definite, shape ``(L, L)`` for one shared
                by all examples, or ``(B, L, L)``.

        Returns:
            Nats of each example, shape ``(B,)``.

        Raises:
            ValueError: If a shape does not fit.
        """
        check_width("mean", mean, self.n_latents)
        size = self.n_latents
        if covariance.shape not in ((size, size), (len(x), size, size)):
            raise ValueError(
                f"covariance must have shape ({size}, {size}) or ({len(x)}, {size}, {size}), "
                f"got {tuple(covariance.shape)}"
            )
        trace = (self._precision() * covariance).sum(dim=(-2, -1))
        log_det = 2 * torch.linalg.cholesky(covariance).diagonal(dim1=-2, dim2=-1).log().sum(-1)
        divergence = mean.square().sum(dim=-1) + trace - log_det - size
        bound: Tensor = -self.nll(x, mean) - 0.5 * divergence
        return bound

    def _precision(self) -> Tensor:
        """Precision of the posterior, ``(L, L)``: the same for every ``x``."""
        eye = torch.eye(self.n_latents).to(self.weight)
        return eye + self.weight.T @ self.weight * math.exp(-self.log_var)


#: Factors of :func:`sprites` in the order of its columns, and how many values each takes.
SPRITE_FACTORS = {"shape": 3, "scale": 4, "orientation": 4, "x": 12, "y": 12}

# Shares of the image's width: sides of the square, and where centres may lie.
_SMALLEST, _LARGEST, _MARGIN = 0.24, 0.38, 0.335


def sprites(
    n: int, *, size: int = 32, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """White shapes on black whose five factors are known and independent.

    Each factor is drawn uniformly from its values, and :func:`draw_sprites` paints the images.

    Args:
        n: Number of images :math:`N`.
        size: Height and width of an image in pixels.
        generator: Source of the randomness, on the CPU; torch's global one by default.

    Returns:
        The images, flat and binary, shape ``(N, size²)``, and their factors, ``(N, 5)``, int64:
        indices into the values of :data:`SPRITE_FACTORS`.

    Raises:
        ValueError: If ``n`` or ``size`` is no positive integer.

    Source:
        After the design of dSprites, Matthey et al. (2017), with shapes and a grid of our own.

    Example:
        >>> images, factors = sprites(7)
        >>> images.shape, factors.shape
        (torch.Size([7, 1024]), torch.Size([7, 5]))
    """
    check_sizes(n=n, size=size)
    columns = [torch.randint(count, (n,), generator=generator) for count in SPRITE_FACTORS.values()]
    factors = torch.stack(columns, dim=1)
    return draw_sprites(factors, size=size), factors


def draw_sprites(factors: Tensor, *, size: int = 32) -> Tensor:
    r"""Paint the sprites that have the given factors.

    ============ ====== =====================================================================
    factor       values meaning
    ============ ====== =====================================================================
    shape        3      square; ellipse with axes 2 : 1; equilateral triangle, of equal area
    scale        4      the square's side, from 0.24 to 0.38 of the image's width, evenly
    orientation  4      angle in steps of 22.5°, from 0° to 67.5°
    x, y         12, 12 centre, from 0.335 to 0.665 of the width, left to right, top to bottom
    ============ ====== =====================================================================

    A pixel is white where its centre lies in the shape. Angles end before 90° because the square
    looks the same after a quarter turn: so no two of the 6,912 sprites of 32 × 32 pixels are
    equal (on coarser grids of pixels, a few are). What remains of the symmetry is that a square at
    67.5° is as near to one at 90°, which is the one at 0°, as to one at 45°: for squares this
    factor is a circle, cut open.

    Args:
        factors: Indices of the five factors, shape ``(N, 5)``, integers.
        size: Height and width of an image in pixels.

    Returns:
        Images of zeros and ones in torch's default type, shape ``(N, size²)``.

    Raises:
        ValueError: If ``factors`` has another shape or an index out of range, or ``size`` is no
            positive integer.
    """
    check_sizes(size=size)
    counts = torch.tensor(list(SPRITE_FACTORS.values()), device=factors.device)
    if factors.ndim != 2 or factors.shape[1] != len(counts):
        raise ValueError(f"factors must have shape (N, {len(counts)}), got {tuple(factors.shape)}")
    if ((factors < 0) | (factors >= counts)).any():
        raise ValueError(f"factors must lie below {counts.tolist()} and not below 0")
    shares = factors.double() / (counts - 1)  # (N, 5), in [0, 1]
    side = _SMALLEST + (_LARGEST - _SMALLEST) * shares[:, 1, None, None]
    angle = math.radians(67.5) * shares[:, 2, None, None]
    centre = _MARGIN + (1 - 2 * _MARGIN) * shares[:, 3:, None, None]
    pixel = (torch.arange(size, dtype=torch.float64, device=factors.device) + 0.5) / size
    right, down = pixel - centre[:, 0], pixel[:, None] - centre[:, 1]  # (N, 1, W), (N, H, 1)
    u = (right * angle.cos() + down * angle.sin()) / side
    v = (down * angle.cos() - right * angle.sin()) / side
    inside = torch.stack([_in_square(u, v), _in_ellipse(u, v), _in_triangle(u, v)])
    image = inside.gather(0, factors[None, :, :1, None].expand(1, -1, size, size))
    return image[0].flatten(1).to(torch.get_default_dtype())


def _in_square(u: Tensor, v: Tensor) -> Tensor:
    return (u.abs() <= 0.5) & (v.abs() <= 0.5)


def _in_ellipse(u: Tensor, v: Tensor) -> Tensor:
    """Half-axes a and a/2 with the area π a² / 2 = 1."""
    return (u.square() + 4 * v.square()).le(2 / math.pi)


def _in_triangle(u: Tensor, v: Tensor) -> Tensor:
    """Three half-planes at the distance r from the centre: the area is 3 √3 r² = 1."""
    r = math.sqrt(1 / (3 * math.sqrt(3)))
    slanted = 0.5 * v + math.sqrt(0.75) * u.abs()
    inside: Tensor = (slanted <= r) & (-v <= r)
    return inside
