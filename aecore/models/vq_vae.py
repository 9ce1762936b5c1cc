r"""Vector-quantised autoencoder and a prior over its codes. Derivation: ``book/vq_vae.md``."""

import math
import warnings
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aecore.losses import bernoulli_nll, squared_error
from aecore.nn import ConvDecoder, ConvEncoder, as_tuple, check_choice, check_sizes, check_width

__all__ = [
    "VQVAE",
    "CodePrior",
    "centroids",
    "kmeans",
    "nearest_code",
    "perplexity",
    "straight_through",
]

_CHECK_EVERY = 50  # updates between two looks at whether the codebook has collapsed


def nearest_code(h: Tensor, codes: Tensor) -> Tensor:
    r"""Index of the code that is nearest to each vector.

    Implements :eq:`eq-vq_vae-nearest`: :math:`k(h) = \arg\min_k \|h - e_k\|^2`. The term
    :math:`\|h\|^2` is the same for all codes and is left out of the comparison.

    Args:
        h: Vectors, shape ``(..., L)``.
        codes: Codes :math:`e_1, \dots, e_K`, shape ``(K, L)``.

    Returns:
        Indices from 0 to K - 1, int64, shape ``(...)``; of equally near codes one.

    Raises:
        ValueError: If the widths differ.

    Example:
        >>> nearest_code(torch.tensor([[0.2], [0.9]]), torch.tensor([[0.0], [1.0]]))
        tensor([0, 1])
    """
    check_width("h", h, codes.shape[-1])
    return (codes.square().sum(dim=-1) - 2 * h @ codes.T).argmin(dim=-1)


def straight_through(h: Tensor, q: Tensor) -> Tensor:
    r"""The quantised vector, with the gradient of the one that was quantised.

    Implements :eq:`eq-vq_vae-straight-through`: :math:`h + \operatorname{sg}(q - h)`, whose value
    is :math:`q` and whose Jacobian is the identity in :math:`h` and zero in :math:`q`.

    Args:
        h: Encoder outputs, any shape.
        q: Their codes, the same shape.

    Returns:
        A tensor of that shape.

    Source:
        Bengio et al. (2013); van den Oord et al. (2017).
    """
    return h + (q - h).detach()


def centroids(sums: Tensor, counts: Tensor, codes: Tensor) -> Tensor:
    r"""Mean of the vectors in each cell, and the old code where a cell has none.

    Implements :eq:`eq-vq_vae-centroid`. Sums and counts may be moving averages, if both are
    averages with the same weights: those cancel.

    Args:
        sums: Sum of each cell's vectors, shape ``(K, L)``.
        counts: Number of each cell's vectors, shape ``(K,)``.
        codes: The codes so far, shape ``(K, L)``.

    Returns:
        The new codes, shape ``(K, L)``.

    Example:
        >>> sums, counts = torch.tensor([[3.0], [0.0]]), torch.tensor([2.0, 0.0])
        >>> centroids(sums, counts, torch.tensor([[1.0], [7.0]]))
        tensor([[1.5000],
                [7.0000]])
    """
    seen = counts[:, None] > 1e-12
    return torch.where(seen, sums / torch.where(seen, counts[:, None], 1.0), codes)


def kmeans(
    points: Tensor, n_codes: int, *, n_steps: int = 10, generator: torch.Generator | None = None
) -> Tensor:
    r"""Codes by k-means: a spread-out start, then Lloyd's two steps in turn.

    Implements :eq:`eq-vq_vae-lloyd`. The start takes points one by one, each with a probability
    proportional to its squared distance from those taken before.

    Args:
        points: Vectors, shape ``(N, L)``.
        n_codes: How many codes.
        n_steps: How often to assign all points and move all codes.
        generator: Source of randomness, on the device of ``points``.

    Returns:
        The codes, shape ``(K, L)``.

    Raises:
        ValueError: If ``n_codes`` is no positive integer or exceeds the number of points.

    Source:
        Lloyd (1982); Arthur and Vassilvitskii (2007) for the start.
    """
    check_sizes(n_codes=n_codes)
    if len(points) < n_codes:
        raise ValueError(f"points must be at least n_codes = {n_codes}, got {len(points)}")
    weight = torch.ones_like(points[:, 0])
    picked: list[Tensor] = []
    for k in range(n_codes):
        # the tiny number lets it go on where fewer than n_codes points differ
        picked.append(points[torch.multinomial(weight + 1e-20, 1, generator=generator)])
        distance = (points - picked[-1]).square().sum(dim=-1)
        weight = distance if k == 0 else torch.minimum(weight, distance)
    codes = torch.cat(picked)
    for _ in range(n_steps):
        codes = centroids(*_statistics(points, nearest_code(points, codes), n_codes), codes)
    return codes


def perplexity(counts: Tensor) -> Tensor:
    r"""How many codes are in use: the exponential of the entropy of their frequencies.

    Implements :eq:`eq-vq_vae-perplexity`. It is K if all are used equally often, 1 if one is used.

    Args:
        counts: How often each code was used, or its frequency, shape ``(K,)``.

    Returns:
        A scalar from 1 to K.

    Example:
        >>> perplexity(torch.tensor([5.0, 5.0, 0.0]))
        tensor(2.)
    """
    entropy: Tensor = torch.special.entr(counts / counts.sum()).sum()
    return entropy.exp()


class VQVAE(nn.Module):
    r"""Strided convolutions to a grid of vectors, each replaced by the nearest of K codes.

    Implements :eq:`eq-vq_vae-objective`. The decoder sees the codes alone, so an image is
    :math:`H' W'` indices. With ``codebook="moving average"`` the codes are no parameters:
    :meth:`after_step` moves them by :eq:`eq-vq_vae-moving-average`, both averages starting at zero,
    and a code that no vector has ever chosen stays where it is.

    In training, a codebook whose perplexity over about the last ``1 / (1 - decay)`` batches is
    below an eighth of its size is reported once, as a ``RuntimeWarning``.

    Args:
        shape: ``(C, H, W)`` of one image; data come flat, ``(B, C·H·W)``.
        n_latents: Width :math:`L` of a code.
        n_codes: Size :math:`K` of the codebook, at least 2.
        channels: Channels of each stage, from the image inwards; each stage halves the grid.
        likelihood: ``"bernoulli"``: the decoder gives logits; ``"gaussian"``: it gives the mean,
            and the reconstruction term is the squared error.
        beta: Weight :math:`\beta > 0` of the commitment term.
        codebook: ``"gradient"``: codes are parameters, moved by the codebook term; ``"moving
            average"``: moved by :meth:`after_step`.
        decay: Decay :math:`\gamma` of the moving averages, in (0, 1).
        revive: A code used less often than this share of the fair 1/K is put onto a random encoder
            output of the last batch, and counted as fairly used until it shows otherwise; looked at
            every ten updates. 0: never.

    Raises:
        ValueError: If an argument is out of range; the message names it.

    Source:
        van den Oord et al. (2017), appendix A.1 for the moving averages.

    Example:
        >>> model = VQVAE(n_latents=8, n_codes=64)
        >>> model.encode(torch.zeros(5, 784)).shape
        torch.Size([5, 7, 7])
    """

    codes: Tensor
    counts: Tensor
    sums: Tensor
    weight: Tensor

    def __init__(
        self,
        *,
        shape: Sequence[int] = (1, 28, 28),
        n_latents: int,
        n_codes: int,
        channels: Sequence[int] = (16, 32),
        likelihood: str = "bernoulli",
        beta: float = 0.25,
        codebook: str = "gradient",
        decay: float = 0.99,
        revive: float = 0.0,
    ) -> None:
        super().__init__()
        shape = as_tuple("shape", shape, "three positive integers (C, H, W)", least=3, most=3)
        some = "a tuple of one or more positive integers, such as (16,)"
        channels = as_tuple("channels", channels, some, least=1)
        check_sizes(n_latents=n_latents, n_codes=n_codes)
        if n_codes < 2:
            raise ValueError(f"n_codes must be at least 2: one code says nothing, got {n_codes}")
        check_choice("likelihood", likelihood, ("bernoulli", "gaussian"))
        check_choice("codebook", codebook, ("gradient", "moving average"))
        if not 0 < beta < math.inf:
            raise ValueError(f"beta must be finite and positive, got {beta}")
        if not 0 < decay < 1:
            raise ValueError(f"decay must lie in (0, 1), got {decay}")
        if not 0 <= revive < 1:
            raise ValueError(f"revive must lie in [0, 1), got {revive}; 0 is never")
        self.shape, self.n_inputs, self.n_latents = shape, math.prod(shape), n_latents
        self.n_codes, self.channels, self.likelihood = n_codes, channels, likelihood
        self.beta, self.codebook, self.decay, self.revive = beta, codebook, decay, revive
        height, width = (-(-size // 2 ** len(channels)) for size in shape[1:])  # rounded up
        self.grid = (height, width)
        widths = (shape[0], *channels)
        self.encoder = ConvEncoder(widths)
        self.to_code = nn.Conv2d(widths[-1], n_latents, 1)
        self.from_code = nn.Conv2d(n_latents, widths[-1], 3, padding=1)
        self.decoder = ConvDecoder(widths[::-1])
        codes = torch.empty(n_codes, n_latents).uniform_(-1 / n_codes, 1 / n_codes)
        if codebook == "gradient":
            self.codes = nn.Parameter(codes)
        else:
            self.register_buffer("codes", codes)
            self.register_buffer("sums", torch.zeros(n_codes, n_latents))
        self.register_buffer("counts", torch.zeros(n_codes))
        self.register_buffer("weight", torch.zeros(()))  # the same average of the number one
        self._batch: tuple[Tensor, Tensor] | None = None
        self._n_steps, self._warned = 0, False

    def features(self, x: Tensor) -> Tensor:
        """Map flat images ``(B, D)`` to encoder outputs before quantisation, ``(B, H', W', L)``."""
        check_width("x", x, self.n_inputs)
        maps: Tensor = self.to_code(F.relu(self.encoder(x.reshape(-1, *self.shape))))
        return maps.permute(0, 2, 3, 1)

    def encode(self, x: Tensor) -> Tensor:
        """Map flat images ``(B, D)`` to indices ``(B, H', W')``, int64."""
        return nearest_code(self.features(x), self.codes)

    def decode(self, indices: Tensor) -> Tensor:
        """Map indices ``(B, H', W')`` to logits (Bernoulli) or means (Gaussian), ``(B, D)``."""
        return self.decode_vectors(self.codes[_checked(indices, self.grid, self.n_codes)])

    def decode_vectors(self, q: Tensor) -> Tensor:
        """Map vectors ``(B, H', W', L)`` to what :meth:`decode` gives, ``(B, D)``."""
        features = F.relu(self.from_code(q.permute(0, 3, 1, 2)))
        _, height, width = self.shape
        out: Tensor = self.decoder(features)[..., :height, :width]
        return out.reshape(-1, self.n_inputs)

    def mean(self, indices: Tensor) -> Tensor:
        """Expected pixels ``E[x | indices]``, ``(B, D)``: what a picture of the indices shows."""
        out = self.decode(indices)
        return torch.sigmoid(out) if self.likelihood == "bernoulli" else out

    def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """``loss = reconstruction + codebook + beta * commitment``, sums over pixels and vectors.

        ``codebook`` is zero where moving averages take its place. ``perplexity``, a diagnostic, is
        that of the whole batch's codes, the same number for each example; a batch cannot show more
        codes than it has vectors.
        """
        h = self.features(x)
        indices = nearest_code(h.detach(), self.codes.detach())
        q = self.codes[indices]
        distance = bernoulli_nll if self.likelihood == "bernoulli" else squared_error
        reconstruction = distance(self.decode_vectors(straight_through(h, q)), x)
        commitment = (h - q.detach()).square().sum(dim=(1, 2, 3))
        codebook = (h.detach() - q).square().sum(dim=(1, 2, 3))
        if self.codebook == "moving average":
            codebook = torch.zeros_like(codebook)
        if self.training:
            self._batch = h.detach().reshape(-1, self.n_latents), indices.flatten()
        counts = torch.bincount(indices.flatten(), minlength=self.n_codes)
        return {
            "loss": reconstruction + codebook + self.beta * commitment,
            "reconstruction": reconstruction,
            "codebook": codebook,
            "commitment": commitment,
            "perplexity": perplexity(counts.to(x)).expand(len(x)),
        }

    @torch.no_grad()
    def start_codebook(self, x: Tensor, generator: torch.Generator | None = None) -> None:
        """Put the codes where :func:`kmeans` finds them among the encoder outputs of ``x``."""
        points = self.features(x).reshape(-1, self.n_latents)
        self.codes.copy_(kmeans(points, self.n_codes, generator=generator))

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the averages and codes, revive codes hardly used, report a collapse.

        Implements :eq:`eq-vq_vae-moving-average`, with the averages of :meth:`usage`. Called by
        ``fit`` after each update.
        """
        if self._batch is None:
            return
        h, indices = self._batch[0].to(self.codes), self._batch[1]
        sums, counts = _statistics(h, indices, self.n_codes)
        self.weight.lerp_(torch.ones_like(self.weight), 1 - self.decay)
        self.counts.lerp_(counts, 1 - self.decay)
        if self.codebook == "moving average":
            self.sums.lerp_(sums, 1 - self.decay)
            self.codes.copy_(centroids(self.sums, self.counts, self.codes))
        self._n_steps += 1
        if self.revive and self._n_steps % 10 == 0:
            self._revive(h)
        if not self._warned and self._n_steps % _CHECK_EVERY == 0:
            self._warn_if_collapsed(len(h))

    def usage(self) -> Tensor:
        r"""Mean number of vectors a batch that chose each code lately, shape ``(K,)``.

        Implements :eq:`eq-vq_vae-bias-correction`: the moving average divided by the sum
        :math:`1 - \gamma^t` of its weights.
        """
        return self.counts / self.weight.clamp(min=1e-12)

    def _revive(self, h: Tensor) -> None:
        fair = self.counts.sum() / self.n_codes
        dead = self.counts < self.revive * fair
        fresh = h[torch.randint(len(h), (self.n_codes,), device=h.device)]
        self.codes.copy_(torch.where(dead[:, None], fresh, self.codes))
        self.counts.copy_(torch.where(dead, fair, self.counts))  # time to show its worth
        if self.codebook == "moving average":
            self.sums.copy_(torch.where(dead[:, None], fair * fresh, self.sums))

    def _warn_if_collapsed(self, n_vectors: int) -> None:
        window = min(self._n_steps, 1 / (1 - self.decay))
        used = perplexity(self.counts).item()
        if used < self.n_codes / 8 and n_vectors * window >= 10 * self.n_codes:
            self._warned = True
            warnings.warn(
                f"VQVAE: the codebook has collapsed, perplexity {used:.1f} of n_codes = "
                f"{self.n_codes} over about the last {window:.0f} batches; start_codebook(x), "
                'codebook="moving average" and revive > 0 help',
                RuntimeWarning,
                stacklevel=3,
            )


class CodePrior(nn.Module):
    r"""Autoregressive prior over a grid of indices: a PixelCNN.

    Implements :eq:`eq-vq_vae-chain-rule`: the indices are taken row by row, each with a categorical
    distribution that depends on those before it. The convolutions' kernels are masked so that
    logits at one place see no index there or later.

    Args:
        n_codes: Number :math:`K` of values an index may have, at least 2.
        grid: ``(H', W')``.
        channels: Channels of the hidden layers.
        n_layers: Masked convolutions of kernel 3 after the first.
        kernel_size: Kernel of the first masked convolution, odd. From ``2 max(H', W') - 1`` on, it
            alone sees every earlier index.

    Raises:
        ValueError: If an argument is out of range; the message names it.

    Source:
        van den Oord, Kalchbrenner and Kavukcuoglu (2016).

    Example:
        >>> prior = CodePrior(n_codes=64, grid=(4, 4))
        >>> prior.log_prob(torch.zeros(3, 4, 4, dtype=torch.long)).shape
        torch.Size([3])
    """

    def __init__(
        self,
        *,
        n_codes: int,
        grid: Sequence[int],
        channels: int = 32,
        n_layers: int = 2,
        kernel_size: int = 7,
    ) -> None:
        super().__init__()
        check_sizes(n_codes=n_codes, channels=channels, n_layers=n_layers, kernel_size=kernel_size)
        if n_codes < 2:
            raise ValueError(f"n_codes must be at least 2, got {n_codes}")
        grid = as_tuple("grid", grid, "two positive integers (H', W')", least=2, most=2)
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        self.n_codes, self.grid, self.channels = n_codes, grid, channels
        self.n_layers, self.kernel_size = n_layers, kernel_size
        self.embedding = nn.Embedding(n_codes, channels)
        self.place = nn.Parameter(torch.zeros(channels, *self.grid))  # what is usual where
        self.first = _MaskedConv(channels, kernel_size, see_own=False)
        self.layers = nn.ModuleList(_MaskedConv(channels, 3, see_own=True) for _ in range(n_layers))
        self.last = nn.Conv2d(channels, n_codes, 1)

    def logits(self, indices: Tensor) -> Tensor:
        """Map indices ``(B, H', W')`` to logits ``(B, H', W', K)`` of each, given those before."""
        indices = _checked(indices, self.grid, self.n_codes)
        a = self.first(self.embedding(indices).permute(0, 3, 1, 2)) + self.place
        for layer in self.layers:
            a = a + layer(F.relu(a))
        out: Tensor = self.last(F.relu(a))
        return out.permute(0, 2, 3, 1)

    def log_prob(self, indices: Tensor) -> Tensor:
        """Log-probability of each grid ``(B, H', W')``, in nats, ``(B,)``."""
        log_p = self.logits(indices).log_softmax(dim=-1)
        return log_p.gather(-1, indices[..., None]).sum(dim=(1, 2, 3))

    def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """``loss = rate``, nats a grid. ``x``: the indices, flat, ``(B, H'·W')``, of any type.

        Floating-point numbers are taken if they are whole, as ``fit`` hands over nothing else.
        """
        check_width("x", x, math.prod(self.grid))
        indices = x.long()
        if not torch.equal(indices.to(x), x):
            raise ValueError("x must hold indices, got numbers that are not whole")
        rate = -self.log_prob(indices.reshape(-1, *self.grid))
        return {"loss": rate, "rate": rate}

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw ``n`` grids index by index, ``(n, H', W')``; a pass of the network for each place.

        Raises a ``ValueError`` if ``n`` is no positive integer.
        """
        check_sizes(n=n)
        indices = torch.zeros(n, *self.grid, dtype=torch.long, device=self.place.device)
        for i in range(self.grid[0]):
            for j in range(self.grid[1]):
                p = self.logits(indices)[:, i, j].softmax(dim=-1)
                indices[:, i, j] = torch.multinomial(p, 1, generator=generator)[:, 0]
        return indices


class _MaskedConv(nn.Conv2d):
    """A convolution that sees the rows above, and its own row up to its place, or to before it."""

    mask: Tensor

    def __init__(self, channels: int, kernel_size: int, *, see_own: bool) -> None:
        reach = kernel_size // 2
        super().__init__(channels, channels, (reach + 1, kernel_size))  # no row below
        mask = torch.ones(reach + 1, kernel_size)
        mask[reach, reach + int(see_own) :] = 0
        self.register_buffer("mask", mask, persistent=False)
        self.reach = reach

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x, (self.reach, self.reach, self.reach, 0))
        return F.conv2d(padded, self.weight * self.mask, self.bias)


def _statistics(h: Tensor, indices: Tensor, n_codes: int) -> tuple[Tensor, Tensor]:
    """Sum ``(K, L)`` and number ``(K,)`` of the vectors in each cell."""
    sums = torch.zeros(n_codes, h.shape[-1]).to(h).index_add_(0, indices, h)
    return sums, torch.bincount(indices, minlength=n_codes).to(h)


def _checked(indices: Tensor, grid: tuple[int, ...], n_codes: int) -> Tensor:
    if indices.is_floating_point():
        raise TypeError(f"indices must be whole numbers, got {indices.dtype}")
    if indices.ndim != 3 or tuple(indices.shape[1:]) != grid:
        raise ValueError(
            f"indices must have shape (B, {grid[0]}, {grid[1]}), got {tuple(indices.shape)}"
        )
    if len(indices) and (indices.amin() < 0 or indices.amax() >= n_codes):
        raise ValueError(
            f"indices must lie in 0 to {n_codes - 1}, "
            f"got {indices.amin().item()} to {indices.amax().item()}"
        )
    return indices
