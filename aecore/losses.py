r"""Negative log-likelihoods: one function an equation. Derivations: ``book/undercomplete.md``.

Each returns one number an example: the sum over the dimensions of that example, never their mean.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["bernoulli_nll", "gaussian_nll", "squared_error"]


def squared_error(x_hat: Tensor, x: Tensor) -> Tensor:
    r"""Squared Euclidean distance between a reconstruction and its original.

    Implements :eq:`eq-undercomplete-squared-error`:

    .. math:: \|x - \hat x\|^2 = \sum_i (x_i - \hat x_i)^2 .

    Args:
        x_hat: Reconstructions, shape ``(B, D)``.
        x: Originals, shape ``(B, D)``.

    Returns:
        The error of each example, shape ``(B,)``, in the data's units squared.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> squared_error(torch.zeros(2, 3), torch.ones(2, 3))
        tensor([3., 3.])
    """
    x_hat, x = _at_least_float32(x_hat, "x_hat", x)
    return (x - x_hat).square().sum(dim=-1)


def bernoulli_nll(logits: Tensor, x: Tensor) -> Tensor:
    r"""Negative log-likelihood of pixels under independent Bernoulli distributions.

    Implements :eq:`eq-undercomplete-bernoulli-nll`: with logits :math:`\ell` and
    :math:`\operatorname{softplus}(\ell) = \log(1 + e^{\ell})`,

    .. math:: -\log p(x) = \sum_i \operatorname{softplus}(\ell_i) - x_i \ell_i .

    Taking logits instead of probabilities keeps the value finite and its gradient
    :math:`\sigma(\ell) - x` exact however sure the model is. For :math:`0 < x_i < 1` this is the
    cross-entropy, which is no likelihood: only binary pixels have one.

    Args:
        logits: Log-odds of each pixel being one, shape ``(B, D)``.
        x: Pixels in [0, 1], shape ``(B, D)``. Their values are not checked here;
            :func:`aecore.training.fit` checks them once.

    Returns:
        Nats of each example, shape ``(B,)``.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> bernoulli_nll(torch.zeros(2, 3), torch.ones(2, 3))
        tensor([2.0794, 2.0794])
    """
    logits, x = _at_least_float32(logits, "logits", x)
    return F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(dim=-1)


def gaussian_nll(mean: Tensor, x: Tensor, log_var: Tensor | float = 0.0) -> Tensor:
    r"""Negative log-density under a Gaussian with diagonal covariance, constants included.

    Implements :eq:`eq-undercomplete-gaussian-nll`:

    .. math:: -\log p(x) = \frac12 \sum_i \Big( \log 2\pi + \log \sigma_i^2
        + \frac{(x_i - \mu_i)^2}{\sigma_i^2} \Big) .

    Args:
        mean: Means :math:`\mu`, shape ``(B, D)``.
        x: Data, shape ``(B, D)``.
        log_var: Log-variances :math:`\log\sigma^2`: a number, or a tensor that broadcasts to
            ``(B, D)``. Neither a variance nor a standard deviation.

    Returns:
        Nats of each example, shape ``(B,)``; negative where the density exceeds one.

    Raises:
        ValueError: If the shapes differ, or ``log_var`` broadcasts beyond them.

    Example:
        >>> gaussian_nll(torch.zeros(1, 2), torch.zeros(1, 2))
        tensor([1.8379])
    """
    mean, x = _at_least_float32(mean, "mean", x)
    log_var = torch.as_tensor(log_var, dtype=x.dtype, device=x.device)
    if log_var.ndim and torch.broadcast_shapes(log_var.shape, x.shape) != x.shape:
        raise ValueError(
            f"log_var must broadcast to the shape of x, {tuple(x.shape)}, "
            f"got {tuple(log_var.shape)}"
        )
    error = (x - mean).square()
    return 0.5 * (math.log(2 * math.pi) + log_var + error * torch.exp(-log_var)).sum(dim=-1)


def _at_least_float32(parameter: Tensor, name: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """Both in single precision or better: half loses the digits of a sum over many pixels."""
    if parameter.shape != x.shape or x.ndim == 0:
        raise ValueError(
            f"{name} and x must have the same shape (B, D), "
            f"got {tuple(parameter.shape)} and {tuple(x.shape)}"
        )
    wide = torch.promote_types(torch.promote_types(parameter.dtype, x.dtype), torch.float32)
    return parameter.to(wide), x.to(wide)
