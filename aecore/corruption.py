r"""Noise for denoising autoencoders, and how much of it. Derivation: ``book/denoising.md``."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from aecore.nn import check_choice

__all__ = [
    "CORRUPTIONS",
    "corrupt",
    "expected_damage",
    "gaussian_noise",
    "masking_noise",
    "matching_level",
    "salt_and_pepper",
]


def gaussian_noise(x: Tensor, std: float, generator: torch.Generator | None = None) -> Tensor:
    r"""Add independent Gaussian noise, not clipped to [0, 1].

    Implements :eq:`eq-denoising-gaussian-noise`: :math:`\tilde x = x + s\,\epsilon` with
    :math:`\epsilon \sim \mathcal N(0, I)`.

    Args:
        x: Data, any shape.
        std: Standard deviation :math:`s \ge 0`, in the units of ``x``.
        generator: Source of the noise, on the device of ``x``; torch's global one by default.

    Returns:
        The corrupted data, the shape of ``x``; ``x`` itself is left as it is.

    Raises:
        ValueError: If ``std`` is negative, infinite or no number.

    Example:
        >>> gaussian_noise(torch.ones(2), 0.0)
        tensor([1., 1.])
    """
    _check_level("gaussian", std, "std")
    return x + std * torch.empty_like(x).normal_(generator=generator)


def masking_noise(x: Tensor, p: float, generator: torch.Generator | None = None) -> Tensor:
    r"""Set each entry to zero with probability ``p``; what survives is not rescaled.

    Implements :eq:`eq-denoising-masking`: :math:`\tilde x_i = (1 - m_i)\, x_i` with independent
    :math:`m_i \sim \mathrm{Bernoulli}(p)`.

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
    _check_level("masking", p, "p")
    return x.masked_fill(_coins(x, p, generator).bool(), 0)


def salt_and_pepper(x: Tensor, p: float, generator: torch.Generator | None = None) -> Tensor:
    r"""Set each entry, with probability ``p``, to 0 or to 1, a fair coin deciding which.

    Implements :eq:`eq-denoising-salt-and-pepper`: :math:`\tilde x_i = (1 - m_i)\, x_i + m_i b_i`
    with independent :math:`m_i \sim \mathrm{Bernoulli}(p)` and
    :math:`b_i \sim \mathrm{Bernoulli}(\frac12)`.

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
    _check_level("salt_and_pepper", p, "p")
    hit = _coins(x, p, generator).bool()
    return torch.where(hit, _coins(x, 0.5, generator), x)


CORRUPTIONS: dict[str, Callable[..., Tensor]] = {
    "gaussian": gaussian_noise,
    "masking": masking_noise,
    "salt_and_pepper": salt_and_pepper,
}


def corrupt(
    x: Tensor, corruption: str, level: float, generator: torch.Generator | None = None
) -> Tensor:
    """Corrupt data by the kind of noise that is named.

    Args:
        x: Data, any shape.
        corruption: ``"gaussian"``, ``"masking"`` or ``"salt_and_pepper"``.
        level: The standard deviation of the first, the probability of the others.
        generator: As for :func:`gaussian_noise`.

    Returns:
        The corrupted data, the shape of ``x``.

    Raises:
        ValueError: If the kind is unknown, or the level out of its range.

    Example:
        >>> corrupt(torch.ones(2), "masking", 0.0)
        tensor([1., 1.])
    """
    check_corruption(corruption, level)
    return CORRUPTIONS[corruption](x, level, generator)


def expected_damage(x: Tensor, corruption: str, level: float) -> Tensor:
    r"""Expected squared error :math:`\mathbb E \|\tilde x - x\|^2` that a corruption does.

    Implements :eq:`eq-denoising-damage`:

    .. math:: \text{Gaussian: } D s^2, \qquad \text{masking: } p \|x\|^2, \qquad
        \text{salt and pepper: } \tfrac p2 \big( \|x\|^2 + \|1 - x\|^2 \big) .

    Args:
        x: Data, shape ``(B, D)``.
        corruption: ``"gaussian"``, ``"masking"`` or ``"salt_and_pepper"``.
        level: The standard deviation of the first, the probability of the others.

    Returns:
        The damage to expect on each example, shape ``(B,)``, in the data's units squared.

    Raises:
        ValueError: If the kind is unknown, or the level out of its range.

    Example:
        >>> expected_damage(torch.ones(2, 4), "masking", 0.25)
        tensor([1., 1.])
    """
    check_corruption(corruption, level)
    if corruption == "gaussian":
        return torch.full_like(x, level**2).sum(dim=-1)
    if corruption == "masking":
        return level * x.square().sum(dim=-1)
    return level / 2 * (x.square() + (1 - x).square()).sum(dim=-1)


def matching_level(x: Tensor, corruption: str, damage: float) -> float:
    r"""The level at which a corruption does a given mean damage to these data.

    Implements :eq:`eq-denoising-matched`: the damage grows with :math:`s^2` or with :math:`p`, so
    that the level is a quotient, and for Gaussian noise its square root.

    Args:
        x: Data, shape ``(N, D)``.
        corruption: ``"gaussian"``, ``"masking"`` or ``"salt_and_pepper"``.
        damage: What the mean of :func:`expected_damage` over the data is to be, at least 0.

    Returns:
        The standard deviation of Gaussian noise, the probability of the other kinds.

    Raises:
        ValueError: If the kind is unknown, the damage negative, or so large that a probability
            would exceed 1.

    Example:
        >>> matching_level(torch.ones(2, 4), "gaussian", 1.0)
        0.5
    """
    if not 0 <= damage < math.inf:
        raise ValueError(f"damage must be at least 0 and finite, got {damage}")
    most = expected_damage(x, corruption, 1.0).mean().item()
    if corruption == "gaussian":
        return math.sqrt(damage / most)
    if damage > most:
        raise ValueError(f"damage must be at most {most}, what p = 1 does, got {damage}")
    return damage / most if damage else 0.0


def check_corruption(corruption: str, level: float) -> None:
    """Raise a ``ValueError`` when the kind is unknown, or the level out of its range."""
    check_choice("corruption", corruption, tuple(CORRUPTIONS))
    _check_level(corruption, level, "level")


def _check_level(corruption: str, level: float, name: str) -> None:
    if corruption == "gaussian":
        if not 0 <= level < math.inf:
            raise ValueError(f"{name} must be at least 0 and finite, got {level}")
    elif not 0 <= level <= 1:
        raise ValueError(f"{name} must lie in [0, 1], got {level}")


def _coins(x: Tensor, p: float, generator: torch.Generator | None) -> Tensor:
    """Independent zeros and ones like ``x``, one with probability ``p``."""
    return torch.empty_like(x).bernoulli_(p, generator=generator)
