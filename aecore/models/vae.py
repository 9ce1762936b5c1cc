r"""Variational autoencoder. Derivation: ``book/vae.md``."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from aecore.divergences import gaussian_kl
from aecore.losses import bernoulli_nll, gaussian_nll
from aecore.nn import MLP, as_tuple, check_choice, check_sizes, check_width, reparametrise

__all__ = ["VAE", "optimal_log_var"]


def optimal_log_var(mean: Tensor, x: Tensor) -> Tensor:
    r"""Log of the one noise variance under which a batch is most likely.

    Implements :eq:`eq-vae-optimal-variance`: the squared error averaged over examples and pixels,

    .. math:: \sigma_\star^2 = \frac{1}{BD} \sum_{n=1}^{B} \|x_n - \mu_n\|^2 .

    Args:
        mean: Means :math:`\mu_n`, shape ``(B, D)``.
        x: Data, shape ``(B, D)``.

    Returns:
        :math:`\log \sigma_\star^2`, a scalar.

    Source:
        Rybkin et al. (2021).
    """
    return (x - mean).square().mean().log()


class VAE(nn.Module):
    r"""Gaussian posterior, standard Gaussian prior, Bernoulli or Gaussian pixels.

    Implements :eq:`eq-vae-elbo` with its sign turned, so that it can be minimised:

    .. math:: -\mathrm{ELBO}(x) = \mathbb E_{q(z \mid x)} [-\log p(x \mid z)]
        + \mathrm{KL}\big(q(z \mid x) \,\|\, p(z)\big) .

    Args:
        n_inputs: Width :math:`D` of the data.
        n_latents: Width :math:`L` of the latent vector.
        hidden: Widths of the encoder's hidden layers, from the input inwards; the decoder has the
            same in reverse. None of them: the linear VAE.
        likelihood: ``"bernoulli"``: ``decode`` gives logits; ``"gaussian"``: it gives the mean.
        log_var: Log-variance :math:`\log \sigma^2` of Gaussian pixels, one for all: a number,
            ``"learned"``, a parameter like any other, or ``"optimal"``, the closed form
            :func:`optimal_log_var` of each training batch. Its moving average, which starts at 0,
            is kept in ``decoder_log_var`` and used everywhere but in the training loss.

    Raises:
        ValueError: If a size is not positive, the likelihood is neither of the two, or ``log_var``
            is no finite number, ``"learned"`` or ``"optimal"``, or is given for Bernoulli pixels.

    Source:
        Kingma and Welling (2014); Rezende et al. (2014).

    Example:
        >>> model = VAE(n_inputs=784, n_latents=20)
        >>> sorted(model.loss(torch.zeros(5, 784)))
        ['kl', 'loss', 'reconstruction']
    """

    decoder_log_var: Tensor

    def __init__(
        self,
        *,
        n_inputs: int,
        n_latents: int,
        hidden: Sequence[int] = (400,),
        likelihood: str = "bernoulli",
        log_var: float | str = 0.0,
    ) -> None:
        super().__init__()
        check_sizes(n_inputs=n_inputs, n_latents=n_latents)
        check_choice("likelihood", likelihood, ("bernoulli", "gaussian"))
        named = log_var in ("learned", "optimal")
        if not named and not (isinstance(log_var, int | float) and math.isfinite(log_var)):
            raise ValueError(
                f"log_var must be a finite number, 'learned' or 'optimal', got {log_var!r}"
            )
        if likelihood == "bernoulli" and log_var != 0.0:
            raise ValueError(f"log_var is for Gaussian pixels; Bernoulli ones got {log_var!r}")
        self.n_inputs, self.n_latents, self.hidden = n_inputs, n_latents, as_tuple("hidden", hidden)
        self.likelihood, self.log_var = likelihood, log_var
        self.encoder = MLP((n_inputs, *self.hidden, 2 * n_latents))
        self.decoder = MLP((n_latents, *reversed(self.hidden), n_inputs))
        start = torch.tensor(0.0 if named else float(log_var))
        if log_var == "learned":
            self.decoder_log_var = nn.Parameter(start)
        else:
            self.register_buffer("decoder_log_var", start)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map data ``(B, D)`` to the posterior's means and log-variances, each ``(B, L)``."""
        check_width("x", x, self.n_inputs)
        mu, log_var = self.encoder(x).chunk(2, dim=-1)
        return mu, log_var

    def decode(self, z: Tensor) -> Tensor:
        """Map latents ``(B, L)`` to logits (Bernoulli) or means (Gaussian), ``(B, D)``."""
        check_width("z", z, self.n_latents)
        out: Tensor = self.decoder(z)
        return out

    def mean(self, z: Tensor) -> Tensor:
        """Expected pixels ``E[x | z]``, shape ``(B, D)``: what a picture of ``z`` shows."""
        out = self.decode(z)
        return torch.sigmoid(out) if self.likelihood == "bernoulli" else out

    def prior(self, y: Tensor | None = None) -> Independent:
        """The standard Gaussian over latents, event shape ``(L,)``."""
        zeros = torch.zeros(self.n_latents).to(self.decoder_log_var)
        return Independent(Normal(zeros, torch.ones_like(zeros)), 1)

    def nll(self, x: Tensor, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Negative log-likelihood of ``x`` given ``z``, in nats, constants included, ``(B,)``.

        Gaussian pixels have the variance in ``decoder_log_var``, never one fitted to ``x``: that
        would be no likelihood.
        """
        return self._nll(self.decode(z), x, self.decoder_log_var)

    def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """``loss = reconstruction + kl``: the negative ELBO from one sample, in nats."""
        mu, log_var = self.encode(x)
        out = self.decode(reparametrise(mu, log_var))
        pixel_log_var = self.decoder_log_var
        if self.log_var == "optimal" and self.training:
            # detached: at the optimum its own gradient is zero
            pixel_log_var = self._batch_log_var = optimal_log_var(out.detach(), x)
        reconstruction = self._nll(out, x, pixel_log_var)
        kl = gaussian_kl(mu, log_var)
        return {"loss": reconstruction + kl, "reconstruction": reconstruction, "kl": kl}

    def after_step(self) -> None:
        """Follow the batches' optimal log-variance with a moving average of rate 0.1."""
        if self.log_var == "optimal":
            self.decoder_log_var.lerp_(self._batch_log_var.to(self.decoder_log_var), 0.1)

    def _nll(self, out: Tensor, x: Tensor, pixel_log_var: Tensor) -> Tensor:
        if self.likelihood == "bernoulli":
            return bernoulli_nll(out, x)
        return gaussian_nll(out, x, pixel_log_var)
