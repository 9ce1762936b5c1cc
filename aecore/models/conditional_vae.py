r"""Conditional variational autoencoder. Derivation: ``book/conditional_vae.md``."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from aecore.divergences import gaussian_kl_between
from aecore.losses import bernoulli_nll, gaussian_nll
from aecore.nn import MLP, as_tuple, check_choice, check_sizes, check_width, reparametrise

__all__ = ["ConditionalVAE"]


class ConditionalVAE(nn.Module):
    r"""A variational autoencoder of :math:`x` given :math:`y`: every density in it is given y.

    Implements :eq:`eq-conditional_vae-elbo` with its sign turned, so that it can be minimised:

    .. math:: -\mathrm{ELBO}(x \mid y) = \mathbb E_{q(z \mid x, y)} [-\log p(x \mid z, y)]
        + \mathrm{KL}\big(q(z \mid x, y) \,\|\, p(z \mid y)\big) .

    The condition is a class, or a vector of features; encoder and decoder get it beside their
    input, a class as a multiple of its one-hot vector. It is never modelled: no density of ``y`` is
    learnt.

    Args:
        n_inputs: Width :math:`D` of the data.
        n_latents: Width :math:`L` of the latent vector.
        n_classes: Number :math:`C` of classes: ``y`` holds one of 0 to C − 1 for each example.
        n_features: Instead of ``n_classes``: the width :math:`F` of a condition ``(B, F)``.
        hidden: Widths of the encoder's hidden layers; the decoder has the same in reverse.
        likelihood: ``"bernoulli"``: ``decode`` gives logits; ``"gaussian"``: it gives the mean.
        log_var: Log-variance of Gaussian pixels, one number for all.
        learned_prior: Whether the mean and log-variance of :math:`p(z \mid y)` are learnt, as an
            affine map of the condition that starts at zero; if not, they are zero for every ``y``.
        label_scale: What one-hot vectors are multiplied by. All inputs' weights start equally
            small, and a lone one among the latents is heard too late: the code has learnt the class
            by then. Features are taken as they come.

    Raises:
        ValueError: If a size is not positive, not exactly one of ``n_classes`` and ``n_features``
            is given, the likelihood is neither of the two, ``label_scale`` is not positive, or
            ``log_var`` is no finite number, or is given for Bernoulli pixels.

    Source:
        Sohn et al. (2015); Kingma et al. (2014) for the class as the condition.

    Example:
        >>> model = ConditionalVAE(n_inputs=784, n_latents=20, n_classes=10)
        >>> sorted(model.loss(torch.zeros(5, 784), torch.arange(5)))
        ['kl', 'loss', 'reconstruction']
    """

    def __init__(
        self,
        *,
        n_inputs: int,
        n_latents: int,
        n_classes: int | None = None,
        n_features: int | None = None,
        hidden: Sequence[int] = (400,),
        likelihood: str = "bernoulli",
        log_var: float = 0.0,
        learned_prior: bool = False,
        label_scale: float = 10.0,
    ) -> None:
        super().__init__()
        check_sizes(n_inputs=n_inputs, n_latents=n_latents)
        given = {"n_classes": n_classes, "n_features": n_features}
        widths = {name: width for name, width in given.items() if width is not None}
        if len(widths) != 1:
            raise ValueError(
                "exactly one of n_classes and n_features must be given, "
                f"got {n_classes!r} and {n_features!r}"
            )
        check_sizes(**widths)
        check_choice("likelihood", likelihood, ("bernoulli", "gaussian"))
        if not (isinstance(log_var, int | float) and math.isfinite(log_var)):
            raise ValueError(f"log_var must be a finite number, got {log_var!r}")
        if likelihood == "bernoulli" and log_var != 0.0:
            raise ValueError(f"log_var is for Gaussian pixels; Bernoulli ones got {log_var!r}")
        if not 0 < label_scale < math.inf:
            raise ValueError(f"label_scale must be a positive number, got {label_scale!r}")
        self.label_scale = label_scale
        self.n_inputs, self.n_latents, self.hidden = n_inputs, n_latents, as_tuple("hidden", hidden)
        self.n_classes, self.n_features = n_classes, n_features
        self.likelihood, self.log_var, self.learned_prior = likelihood, log_var, learned_prior
        (width,) = widths.values()
        self.encoder = MLP((n_inputs + width, *self.hidden, 2 * n_latents))
        self.decoder = MLP((n_latents + width, *reversed(self.hidden), n_inputs))
        if learned_prior:
            self.prior_map = nn.Linear(width, 2 * n_latents)
            nn.init.zeros_(self.prior_map.weight)
            nn.init.zeros_(self.prior_map.bias)

    def condition(self, y: Tensor | None) -> Tensor:
        """Map labels ``(B,)`` to scaled one-hot vectors ``(B, C)``; leave features ``(B, F)``.

        Args:
            y: The labels or features.

        Returns:
            What encoder and decoder are given, in the model's floating-point type.

        Raises:
            TypeError: If there is no ``y``, or its dtype is not integer for labels, floating-point
                for features.
            ValueError: If its shape does not fit, or a label is out of range.
        """
        classes = self.n_classes
        expected = (
            f"features of shape (B, {self.n_features})"
            if classes is None
            else f"integer labels from 0 to {classes - 1} of shape (B,)"
        )
        if not isinstance(y, Tensor):
            got = "None" if y is None else type(y).__name__
            raise TypeError(f"y must be a tensor, {expected}; got {got}")
        like = self.decoder.layers[0].get_parameter("weight")
        if classes is None:
            if not y.is_floating_point():
                raise TypeError(f"y must hold floating-point {expected}; got {y.dtype}")
            if y.ndim != 2 or y.shape[1] != self.n_features:
                raise ValueError(f"y must hold {expected}, got shape {tuple(y.shape)}")
            return y.to(like)
        if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
            raise TypeError(f"y must hold {expected}; got {y.dtype}")
        if y.ndim != 1:
            raise ValueError(f"y must hold {expected}, got shape {tuple(y.shape)}")
        if len(y) and not (y.min() >= 0 and y.max() < classes):
            low, high = y.min().item(), y.max().item()
            raise ValueError(f"y must hold {expected}, got labels from {low} to {high}")
        return self.label_scale * F.one_hot(y.long(), classes).to(like)

    def encode(self, x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        """Map data ``(B, D)`` and ``y`` to the posterior's means and log-variances, ``(B, L)``."""
        check_width("x", x, self.n_inputs)
        mu, log_var = self.encoder(self._beside("x", x, y)).chunk(2, dim=-1)
        return mu, log_var

    def decode(self, z: Tensor, y: Tensor | None) -> Tensor:
        """Map latents ``(B, L)`` and ``y`` to logits or means of pixels, ``(B, D)``."""
        check_width("z", z, self.n_latents)
        out: Tensor = self.decoder(self._beside("z", z, y))
        return out

    def mean(self, z: Tensor, y: Tensor | None) -> Tensor:
        """Expected pixels ``E[x | z, y]``, shape ``(B, D)``: what a picture of ``z`` shows."""
        out = self.decode(z, y)
        return torch.sigmoid(out) if self.likelihood == "bernoulli" else out

    def prior(self, y: Tensor | None) -> Independent:
        """One Gaussian over latents for each condition in ``y``: batch ``(B,)``, event ``(L,)``."""
        mu, log_var = self._prior_parameters(y)
        return Independent(Normal(mu, torch.exp(0.5 * log_var)), 1)

    def nll(self, x: Tensor, z: Tensor, y: Tensor | None) -> Tensor:
        """Negative log-likelihood of ``x`` given ``z`` and ``y``, in nats, ``(B,)``."""
        out = self.decode(z, y)
        if self.likelihood == "bernoulli":
            return bernoulli_nll(out, x)
        return gaussian_nll(out, x, self.log_var)

    def loss(self, x: Tensor, y: Tensor | None) -> dict[str, Tensor]:
        """``loss = reconstruction + kl``: the negative ELBO from one sample, in nats."""
        mu, log_var = self.encode(x, y)
        reconstruction = self.nll(x, reparametrise(mu, log_var), y)
        kl = gaussian_kl_between(mu, log_var, *self._prior_parameters(y))
        return {"loss": reconstruction + kl, "reconstruction": reconstruction, "kl": kl}

    def _beside(self, name: str, values: Tensor, y: Tensor | None) -> Tensor:
        """The condition as further columns of ``values``."""
        given = self.condition(y)
        if values.ndim != 2 or len(values) != len(given):
            raise ValueError(
                f"{name} and y must have one row an example, "
                f"got shapes {tuple(values.shape)} and {tuple(given.shape[:1])}"
            )
        return torch.cat([values, given], dim=1)

    def _prior_parameters(self, y: Tensor | None) -> tuple[Tensor, Tensor]:
        given = self.condition(y)
        if not self.learned_prior:
            zeros = given.new_zeros(len(given), self.n_latents)
            return zeros, zeros
        mu, log_var = self.prior_map(given).chunk(2, dim=-1)
        return mu, log_var
