r"""Noise for denoising autoencoders. Derivation: ``book/denoising.md``."""

import torch
from torch import Tensor

__all__ = ["gaussian_noise", "masking_noise", "salt_and_pepper"]


def gaussian_noise(x: Tensor, std: float, generator: torch.Generator | None = None) -> Tensor:
    r"""Add independent Gaussian noise: :math:`\tilde x = x + s\,\epsilon`, not clipped to [0, 1].

    Args:
        x: Data, any shape.
        std: Standard deviation :math:`s \ge 0`, in the units of ``x``.
        generator: Source of the noise, on the device of ``x``; torch's global one by default.

    Returns:
        The corrupted data, the shape of ``x``; ``x`` itself is left as it is.

    Raises:
        ValueError: If ``std`` is negative or no number.

    Example:
        >>> gaussian_noise(torch.ones(2), 0.0)
        tensor([1., 1.])
    """
    if not std >= 0:
        raise ValueError(f"std must be at least 0, got {std}")
    return x + std * torch.empty_like(x).normal_(generator=generator)


def masking_noise(x: Tensor, p: float, generator: torch.Generator | None = None) -> Tensor:
    """Set each entry to zero with probability ``p``; what survives is not rescaled.

    Args:
        x: Data, any shape.
        p: Probability of losing an entry, in [0, 1].
        generator: As for :func:`gaussian_noise`.

    Returns:
        The corrupted data, the shape of ``x``.

    Raises:
        ValueError: If ``p`` lies outside [0, 1].

    Source:
        Vincent et al. (2010), section 3.3.

    Example:
        >>> masking_noise(torch.ones(3), 1.0)
        tensor([0., 0., 0.])
    """
    hit = _hits(x, p, generator)
    return x.masked_fill(hit, 0)


def salt_and_pepper(x: Tensor, p: float, generator: torch.Generator | None = None) -> Tensor:
    """Set each entry, with probability ``p``, to 0 or to 1, a fair coin deciding which.

    Args:
        x: Data in [0, 1], any shape.
        p: Probability of hitting an entry, in [0, 1]; half of the hits on a binary entry change
            nothing.
        generator: As for :func:`gaussian_noise`.

    Returns:
        The corrupted data, the shape of ``x``.

    Raises:
        ValueError: If ``p`` lies outside [0, 1].

    Source:
        Vincent et al. (2010), section 3.3.

    Example:
        >>> salt_and_pepper(torch.full((3,), 0.5), 0.0)
        tensor([0.5000, 0.5000, 0.5000])
    """
    hit = _hits(x, p, generator)
    salt = torch.empty_like(x).bernoulli_(0.5, generator=generator)
    return torch.where(hit, salt, x)


def _hits(x: Tensor, p: float, generator: torch.Generator | None) -> Tensor:
    if not 0 <= p <= 1:
        raise ValueError(f"p must lie in [0, 1], got {p}")
    return torch.empty_like(x).bernoulli_(p, generator=generator).bool()
