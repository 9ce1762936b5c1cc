r"""Variational autoencoder with a weight on its KL. Derivation: ``book/beta_vae.md``."""

import math
from collections.abc import Sequence

from torch import Tensor

from aecore.models.vae import VAE

__all__ = ["BetaVAE"]


class BetaVAE(VAE):
    r"""A :class:`aecore.models.vae.VAE` that is trained with a price :math:`\beta` on its rate.

    Implements :eq:`eq-beta_vae-lagrangian` up to its constant: the mean over examples of

    .. math:: \mathbb E_{q(z \mid x)} [-\log p(x \mid z)]
        + \beta\, \mathrm{KL}\big(q(z \mid x) \,\|\, p(z)\big) .

    Only training knows :math:`\beta`: ``nll``, ``prior`` and so :func:`aecore.evaluation.elbo` are
    those of the VAE, and the evidence lower bound is the one with :math:`\beta = 1`.

    Args:
        n_inputs: Width :math:`D` of the data.
        n_latents: Width :math:`L` of the latent vector.
        beta: Weight :math:`\beta` of the KL, at least 0, against a reconstruction term and a KL
            that are *sums* over pixels and latents. It may be set anew while training, by
            ``on_epoch`` for example; a file of the model keeps the value it has when saved.
        hidden: Widths of the encoder's hidden layers; the decoder has the same in reverse.
        likelihood: ``"bernoulli"``: ``decode`` gives logits; ``"gaussian"``: it gives the mean.
        log_var: Log-variance of Gaussian pixels, as for the VAE.

    Raises:
        ValueError: If ``beta`` is negative or no finite number, when made or when set, or for the
            reasons of the VAE.

    Source:
        Higgins et al. (2017).

    Example:
        >>> model = BetaVAE(n_inputs=784, n_latents=10, beta=4.0)
        >>> sorted(model.loss(torch.zeros(5, 784)))
        ['kl', 'loss', 'reconstruction']
    """

    def __init__(
        self,
        *,
        n_inputs: int,
        n_latents: int,
        beta: float,
        hidden: Sequence[int] = (400,),
        likelihood: str = "bernoulli",
        log_var: float | str = 0.0,
    ) -> None:
        super().__init__(
            n_inputs=n_inputs,
            n_latents=n_latents,
            hidden=hidden,
            likelihood=likelihood,
            log_var=log_var,
        )
        self.beta = beta

    @property
    def beta(self) -> float:
        """Weight of the KL in ``loss``."""
        return self._beta

    @beta.setter
    def beta(self, value: float) -> None:
        if not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise ValueError(f"beta must be a finite number, at least 0, got {value!r}")
        self._beta = value

    def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """``loss = reconstruction + beta * kl`` from one sample, in nats; both terms unweighted."""
        terms = super().loss(x, y)
        return terms | {"loss": terms["reconstruction"] + self.beta * terms["kl"]}
