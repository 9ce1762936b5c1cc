r"""Importance-weighted autoencoder. Derivation: ``book/iwae.md``."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from aecore.losses import gaussian_nll
from aecore.models.vae import VAE
from aecore.nn import check_choice, check_sizes, reparametrise

__all__ = ["IWAE"]


class IWAE(VAE):
    r"""A :class:`~aecore.models.vae.VAE` trained by a bound from several samples of its posterior.

    Implements :eq:`eq-iwae-loss`, minus the importance-weighted bound: with the weights
    :math:`w_s = p(x \mid z_s)\, p(z_s) / q(z_s \mid x)`,

    .. math:: -\log \frac1S \sum_{s=1}^S w_s , \qquad z_s \sim q(z \mid x) .

    Memory and time of the decoder grow with :math:`S`. One sample gives the ELBO, its KL estimated
    by that sample.

    Args:
        n_inputs: Width :math:`D` of the data.
        n_latents: Width :math:`L` of the latent vector.
        hidden: Widths of the encoder's hidden layers, as for :class:`~aecore.models.vae.VAE`.
        likelihood: ``"bernoulli"`` or ``"gaussian"`` pixels.
        log_var: Log-variance of Gaussian pixels: a number, or ``"learned"``.
        n_samples: Samples :math:`S` of the posterior an example; may be changed while training.
        estimator: The encoder's gradient: ``"pathwise"``, that of the loss as it stands, or
            ``"doubly reparametrised"``, which has the same mean. The decoder's is the same.

    Raises:
        ValueError: If an argument of the VAE is out of range, ``n_samples`` is no positive integer,
            the estimator is neither of the two, or ``log_var`` is ``"optimal"``: that closed form
            belongs to the ELBO.

    Source:
        Burda et al. (2016).

    Example:
        >>> model = IWAE(n_inputs=784, n_latents=20, n_samples=5)
        >>> sorted(model.loss(torch.zeros(3, 784)))
        ['ess', 'gain', 'kl', 'loss', 'reconstruction']
    """

    def __init__(
        self,
        *,
        n_inputs: int,
        n_latents: int,
        hidden: Sequence[int] = (400,),
        likelihood: str = "bernoulli",
        log_var: float | str = 0.0,
        n_samples: int = 5,
        estimator: str = "pathwise",
    ) -> None:
        check_sizes(n_samples=n_samples)
        check_choice("estimator", estimator, ("pathwise", "doubly reparametrised"))
        if log_var == "optimal":
            raise ValueError("log_var must be a finite number or 'learned', got 'optimal'")
        super().__init__(
            n_inputs=n_inputs,
            n_latents=n_latents,
            hidden=hidden,
            likelihood=likelihood,
            log_var=log_var,
        )
        self.n_samples, self.estimator = n_samples, estimator

    def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        r"""``loss = reconstruction + kl - gain``: minus the importance-weighted bound, in nats.

        Implements :eq:`eq-iwae-loss`, :eq:`eq-iwae-gradient` and
        :eq:`eq-iwae-doubly-reparametrised`, the last for the encoder if the estimator says so. Only
        ``loss`` carries a gradient; the other terms describe it: ``reconstruction`` and ``kl`` are
        means over the samples, together minus the mean log-weight; ``gain`` is what the log of the
        mean adds to the mean of the logs, never negative; ``ess`` is the effective number of
        samples, between 1 and :math:`S`.
        """
        mu, log_var = (t.expand(self.n_samples, *t.shape) for t in self.encode(x))  # (S, B, L)
        z = reparametrise(mu, log_var)
        if doubly := self.estimator == "doubly reparametrised":
            mu, log_var = mu.detach(), log_var.detach()  # the score term is rewritten below
        out = self.decode(z)
        nll = self._nll(out, x.expand_as(out), self.decoder_log_var)  # (S, B)
        kl = gaussian_nll(torch.zeros_like(z), z) - gaussian_nll(mu, z, log_var)
        log_w = -nll - kl
        weight = log_w.detach().softmax(dim=0)
        if doubly and z.requires_grad:
            # one factor comes from the logsumexp, this one makes it the square
            z.register_hook(lambda slope: weight.unsqueeze(-1) * slope)
        loss = math.log(self.n_samples) - log_w.logsumexp(dim=0)
        return {
            "loss": loss,
            "reconstruction": nll.detach().mean(dim=0),
            "kl": kl.detach().mean(dim=0),
            "gain": -loss.detach() - log_w.detach().mean(dim=0),
            "ess": 1 / weight.square().sum(dim=0),
        }
