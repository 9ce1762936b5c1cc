r"""Adversarial autoencoders, and their training. Derivation: ``book/adversarial.md``."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from aecore.divergences import mmd
from aecore.losses import bernoulli_nll, squared_error
from aecore.nn import (
    MLP,
    as_tuple,
    check_choice,
    check_class_numbers,
    check_positive,
    check_sizes,
    check_width,
)
from aecore.synthetic import _INNER, _OUTER, _angle, _arc_length
from aecore.training import (
    History,
    Terms,
    _check_data,
    _check_terms,
    _move,
    _own_randomness,
    _stop_if_not_finite,
    choose_device,
)

__all__ = [
    "AdversarialAutoencoder",
    "SemiSupervisedAutoencoder",
    "discriminator_loss",
    "fit_adversarial",
    "generator_loss",
    "sample_prior",
]

TARGETS = ("gaussian", "mixture", "swiss roll")


def sample_prior(
    target: str, n: int, n_latents: int, generator: torch.Generator | None = None
) -> Tensor:
    r"""Draw from one of the densities that codes are matched to.

    Implements :eq:`eq-adversarial-mixture` and :eq:`eq-adversarial-roll`. ``"gaussian"`` is
    :math:`\mathcal N(0, I)` in any width; the other two live in the plane. ``"mixture"`` is ten
    Gaussians like petals, each with the standard deviation 0.5 along and 0.15 across its ray,
    centred at radius 2. ``"swiss roll"`` is the roll of :func:`aecore.synthetic.swiss_roll` seen
    from above, uniform in arc length, with outer radius 2.5 and Gaussian noise of 0.08.

    Args:
        target: The density's name.
        n: Number of draws.
        n_latents: Width :math:`L` of the code; 2 for all but the Gaussian.
        generator: Source of the randomness, on the CPU; torch's global one by default.

    Returns:
        Draws, shape ``(n, L)``, on the CPU.

    Raises:
        ValueError: If the name is unknown, a size is not positive, or the width does not fit.

    Source:
        Makhzani et al. (2015), section 2 and appendix; the sizes are ours.

    Example:
        >>> sample_prior("mixture", 5, 2).shape
        torch.Size([5, 2])
    """
    check_choice("target", target, TARGETS)
    check_sizes(n=n, n_latents=n_latents)
    if target != "gaussian" and n_latents != 2:
        raise ValueError(f"n_latents must be 2 for the target {target!r}, got {n_latents}")
    noise = torch.randn(n, n_latents, generator=generator)
    if target == "gaussian":
        return noise
    if target == "mixture":
        angle = torch.randint(10, (n,), generator=generator) * (2 * math.pi / 10)
        radial, across = 2 + 0.5 * noise[:, 0], 0.15 * noise[:, 1]
        ray = torch.stack([angle.cos(), angle.sin()], dim=1)  # (n, 2)
        return radial[:, None] * ray + across[:, None] * ray.flip(1) * torch.tensor([-1.0, 1.0])
    start, end = _arc_length(torch.tensor([_INNER, _OUTER]))
    t = _angle(start + (end - start) * torch.rand(n, generator=generator))
    spiral = torch.stack([t * t.cos(), t * t.sin()], dim=1)
    return 2.5 / _OUTER * spiral + 0.08 * noise


def discriminator_loss(prior_logits: Tensor, code_logits: Tensor) -> Tensor:
    r"""What a discriminator pays for a draw from the prior and for a code.

    Implements :eq:`eq-adversarial-discriminator-loss`, with :math:`D = \sigma(d)` and in
    terms of the logits :math:`d`, where nothing overflows:

    .. math:: -\log D(z) - \log (1 - D(h)) = \operatorname{softplus}(-d(z))
        + \operatorname{softplus}(d(h)) .

    Args:
        prior_logits: :math:`d(z)` of draws from the prior, shape ``(B,)``.
        code_logits: :math:`d(h)` of codes, shape ``(B,)``.

    Returns:
        Nats of each pair, shape ``(B,)``; :math:`2 \log 2` for a discriminator that sees nothing.

    Raises:
        ValueError: If the shapes differ.

    Source:
        Goodfellow et al. (2014), equation 1.

    Example:
        >>> discriminator_loss(torch.zeros(1), torch.zeros(1))
        tensor([1.3863])
    """
    if prior_logits.shape != code_logits.shape:
        raise ValueError(
            "prior_logits and code_logits must have the same shape, "
            f"got {tuple(prior_logits.shape)} and {tuple(code_logits.shape)}"
        )
    return F.softplus(-prior_logits) + F.softplus(code_logits)


def generator_loss(code_logits: Tensor, saturating: bool = False) -> Tensor:
    r"""What the encoder pays for a code that the discriminator tells from the prior.

    Implements :eq:`eq-adversarial-generator-losses`:

    .. math:: -\log D(h) = \operatorname{softplus}(-d(h)), \qquad
        \log (1 - D(h)) = -\operatorname{softplus}(d(h)) .

    Args:
        code_logits: :math:`d(h)` of codes, shape ``(B,)``.
        saturating: Whether to take the second, the minimax game's own, whose gradient vanishes
            where the discriminator is sure of itself.

    Returns:
        Nats of each code, shape ``(B,)``.

    Source:
        Goodfellow et al. (2014), section 3.

    Example:
        >>> generator_loss(torch.zeros(1))
        tensor([0.6931])
    """
    return -F.softplus(code_logits) if saturating else F.softplus(-code_logits)


class AdversarialAutoencoder(nn.Module):
    r"""Autoencoder whose codes, taken together, are distributed like a prior.

    Implements :eq:`eq-adversarial-objective`: reconstruction plus ``lam`` times a term that
    compares the *aggregated* posterior with the prior, by a discriminator or by the maximum mean
    discrepancy. Trained by :func:`fit_adversarial`.

    Args:
        n_inputs: Width :math:`D` of the data.
        n_latents: Width :math:`L` of the code.
        hidden: Widths of the encoder's hidden layers; the decoder has the same in reverse.
        target: The prior: ``"gaussian"``, or, for two latents, ``"mixture"`` or ``"swiss roll"``;
            see :func:`sample_prior`.
        likelihood: ``"bernoulli"``: ``decode`` gives logits; ``"gaussian"``: it gives the mean.
        match: ``"adversarial"`` or ``"mmd"``.
        lam: Weight :math:`\lambda` of the matching term, not negative.
        critic: Widths of the discriminator's hidden layers.
        saturating: Whether the encoder's loss is the minimax game's own.

    Raises:
        ValueError: If a size is not positive, ``lam`` is negative, a word is none of those above,
            or the target needs another width.

    Source:
        Makhzani et al. (2015); Tolstikhin et al. (2018) for the maximum mean discrepancy.

    Example:
        >>> model = AdversarialAutoencoder(n_inputs=784, n_latents=2)
        >>> sorted(model.loss(torch.zeros(5, 784)))
        ['loss', 'matching', 'reconstruction']
    """

    def __init__(
        self,
        *,
        n_inputs: int,
        n_latents: int,
        hidden: Sequence[int] = (400,),
        target: str = "gaussian",
        likelihood: str = "bernoulli",
        match: str = "adversarial",
        lam: float = 10.0,
        critic: Sequence[int] = (200, 200),
        saturating: bool = False,
    ) -> None:
        super().__init__()
        check_sizes(n_inputs=n_inputs, n_latents=n_latents)
        check_choice("likelihood", likelihood, ("bernoulli", "gaussian"))
        check_choice("match", match, ("adversarial", "mmd"))
        sample_prior(target, 1, n_latents, torch.Generator())  # refuses what it cannot draw
        _check_weight(lam)
        self.n_inputs, self.n_latents, self.hidden = n_inputs, n_latents, as_tuple("hidden", hidden)
        self.target, self.likelihood, self.match = target, likelihood, match
        self.lam, self.critic, self.saturating = lam, as_tuple("critic", critic), saturating
        self.encoder = MLP((n_inputs, *self.hidden, n_latents))
        self.decoder = MLP((n_latents, *reversed(self.hidden), n_inputs))
        if match == "adversarial":
            self.discriminator = MLP((n_latents, *self.critic, 1))

    def encode(self, x: Tensor) -> Tensor:
        """Map data ``(B, D)`` to codes ``(B, L)``."""
        check_width("x", x, self.n_inputs)
        h: Tensor = self.encoder(x)
        return h

    def decode(self, z: Tensor) -> Tensor:
        """Map codes ``(B, L)`` to logits (Bernoulli) or means (Gaussian), ``(B, D)``."""
        check_width("z", z, self.n_latents)
        out: Tensor = self.decoder(z)
        return out

    def mean(self, z: Tensor) -> Tensor:
        """Expected pixels, shape ``(B, D)``: what a picture of ``z`` shows."""
        out = self.decode(z)
        return torch.sigmoid(out) if self.likelihood == "bernoulli" else out

    def sample_prior(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """``n`` draws of the target, ``(n, L)``, on the model's device; see the function."""
        z = sample_prior(self.target, n, self.n_latents, generator)
        return z.to(next(self.parameters()))

    def discriminate(self, z: Tensor) -> Tensor:
        """Logits ``(B,)``, positive where the discriminator takes ``z`` for a draw of the prior."""
        check_width("z", z, self.n_latents)
        logits: Tensor = self.discriminator(z)
        return logits.squeeze(-1)

    def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """``loss = reconstruction + lam * matching``: what encoder and decoder minimise.

        ``reconstruction`` is in nats (Bernoulli) or squared units (Gaussian). ``matching`` is
        :func:`generator_loss` of each code; or the unbiased squared maximum mean discrepancy
        between the batch's codes and as many draws from the prior, one number for the whole batch,
        and 0 for a batch of one, which has none.
        """
        distance = bernoulli_nll if self.likelihood == "bernoulli" else squared_error
        h = self.encode(x)
        reconstruction = distance(self.decode(h), x)
        if self.match == "adversarial":
            matching = generator_loss(self.discriminate(h), self.saturating)
        elif len(h) > 1:
            matching = mmd(h, self.sample_prior(len(h))).expand(len(h))
        else:
            matching = torch.zeros_like(reconstruction)
        loss = reconstruction + self.lam * matching
        return {"loss": loss, "reconstruction": reconstruction, "matching": matching}

    def discriminator_loss(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """What the discriminator minimises, shape ``(B,)``; the encoder gets no gradient from it.

        ``z`` are draws from the prior, ``(B, L)``, by default fresh ones.
        """
        with torch.no_grad():
            h = self.encode(x)
        z = self.sample_prior(len(h)) if z is None else z
        return discriminator_loss(self.discriminate(z), self.discriminate(h))


class SemiSupervisedAutoencoder(nn.Module):
    r"""Adversarial autoencoder with a code for the class and one for the style.

    Implements :eq:`eq-adversarial-semi-supervised`. The encoder gives class probabilities and a
    style; one discriminator compares the probabilities with one-hot draws of a uniform class,
    another the style with a standard Gaussian; a cross-entropy speaks where there is a label.

    Args:
        n_inputs: Width :math:`D` of the data.
        n_latents: Width :math:`L` of the style.
        n_classes: Number of classes :math:`K`, at least 2.
        hidden: Widths of the encoder's hidden layers; the decoder has the same in reverse.
        likelihood: ``"bernoulli"`` or ``"gaussian"``, as for :class:`AdversarialAutoencoder`.
        lam: Weight of the two matching terms, not negative.
        supervision: Weight of a labelled example's cross-entropy, not negative.
        critic: Widths of the hidden layers of each discriminator.

    Raises:
        ValueError: If a size is not positive, a weight is negative, or the likelihood is unknown.

    Source:
        Makhzani et al. (2015), section 5.

    Example:
        >>> model = SemiSupervisedAutoencoder(n_inputs=784, n_latents=8, n_classes=10)
        >>> [part.shape[1] for part in model.encode(torch.zeros(5, 784))]
        [10, 8]
    """

    def __init__(
        self,
        *,
        n_inputs: int,
        n_latents: int,
        n_classes: int,
        hidden: Sequence[int] = (400,),
        likelihood: str = "bernoulli",
        lam: float = 10.0,
        supervision: float = 100.0,
        critic: Sequence[int] = (200, 200),
    ) -> None:
        super().__init__()
        check_sizes(n_inputs=n_inputs, n_latents=n_latents, n_classes=n_classes)
        if n_classes < 2:
            raise ValueError(f"n_classes must be at least 2, got {n_classes}")
        check_choice("likelihood", likelihood, ("bernoulli", "gaussian"))
        _check_weight(lam)
        _check_weight(supervision, "supervision")
        self.n_inputs, self.n_latents, self.n_classes = n_inputs, n_latents, n_classes
        self.hidden, self.likelihood, self.lam = as_tuple("hidden", hidden), likelihood, lam
        self.supervision, self.critic = supervision, as_tuple("critic", critic)
        n_codes = n_classes + n_latents
        self.encoder = MLP((n_inputs, *self.hidden, n_codes))
        self.decoder = MLP((n_codes, *reversed(self.hidden), n_inputs))
        self.discriminator = nn.ModuleDict(
            {
                "category": MLP((n_classes, *self.critic, 1)),
                "style": MLP((n_latents, *self.critic, 1)),
            }
        )

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map data ``(B, D)`` to logits of the class ``(B, K)`` and the style ``(B, L)``."""
        check_width("x", x, self.n_inputs)
        logits, style = self.encoder(x).split([self.n_classes, self.n_latents], dim=-1)
        return logits, style

    def decode(self, style: Tensor, category: Tensor) -> Tensor:
        """Map a style ``(B, L)`` and class probabilities ``(B, K)`` to ``(B, D)``."""
        check_width("style", style, self.n_latents)
        check_width("category", category, self.n_classes)
        out: Tensor = self.decoder(torch.cat([category, style], dim=-1))
        return out

    def mean(self, style: Tensor, category: Tensor) -> Tensor:
        """Expected pixels, shape ``(B, D)``."""
        out = self.decode(style, category)
        return torch.sigmoid(out) if self.likelihood == "bernoulli" else out

    def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """``loss = reconstruction + lam * (category + style) + supervision * labelled``.

        ``category`` and ``style`` are what each discriminator makes the encoder pay; ``labelled``
        is the cross-entropy in nats, 0 where the label is -1, that is, not known.
        """
        distance = bernoulli_nll if self.likelihood == "bernoulli" else squared_error
        logits, style = self.encode(x)
        reconstruction = distance(self.decode(style, logits.softmax(dim=-1)), x)
        terms = {
            name: generator_loss(self.discriminator[name](part).squeeze(-1))
            for name, part in (("category", logits.softmax(dim=-1)), ("style", style))
        }
        if y is None:
            labelled = torch.zeros_like(reconstruction)
        else:
            labelled = F.cross_entropy(logits, y, ignore_index=-1, reduction="none")
        loss = reconstruction + self.lam * (terms["category"] + terms["style"])
        loss = loss + self.supervision * labelled
        return {"loss": loss, "reconstruction": reconstruction, **terms, "labelled": labelled}

    def discriminator_loss(self, x: Tensor) -> Tensor:
        """What the two discriminators minimise together, shape ``(B,)``."""
        with torch.no_grad():
            logits, style = self.encode(x)
        classes = torch.randint(self.n_classes, (len(x),)).to(x.device)
        drawn = F.one_hot(classes, self.n_classes).to(style)
        z = torch.randn(len(x), self.n_latents).to(style)
        total = torch.zeros_like(style[:, 0])
        for name, prior, code in (
            ("category", drawn, logits.softmax(dim=-1)),
            ("style", z, style),
        ):
            judge = self.discriminator[name]
            total = total + discriminator_loss(judge(prior).squeeze(-1), judge(code).squeeze(-1))
        return total


def fit_adversarial(
    model: AdversarialAutoencoder | SemiSupervisedAutoencoder,
    x: Tensor,
    *,
    y: Tensor | None = None,
    epochs: int,
    batch_size: int = 128,
    lr: float = 1e-3,
    critic_lr: float | None = None,
    betas: tuple[float, float] = (0.5, 0.999),
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: bool = True,
    on_epoch: Callable[[int, nn.Module, Terms], object] | None = None,
) -> History:
    r"""Train an adversarial autoencoder in place, with an optimiser for each player.

    Implements :eq:`eq-adversarial-steps`. For each batch the discriminator, where there is one,
    takes a step on its own loss, and then encoder and decoder take one on theirs, in whose
    backward pass the discriminator's weights get no gradient. Both learning rates are constant for
    the first half of the steps and fall linearly to zero over the second. The same arguments give
    the same weights on the same machine, and the caller's random state is left as it was.

    Args:
        model: The model; left on the device trained on.
        x: Training data, shape ``(N, D)``.
        y: Labels, shape ``(N,)``, -1 where not known; only the semi-supervised model uses them.
        epochs: Passes over the data.
        batch_size: Examples an update; the last batch of an epoch may be smaller.
        lr: Learning rate of encoder and decoder.
        critic_lr: That of the discriminator; by default the same.
        betas: Decay rates of both Adams. The usual momentum of 0.9 averages over gradients of
            opponents that are no longer there.
        seed: Seed of the order of the examples and of all noise.
        device: ``"auto"`` or a device's name; see :func:`aecore.training.choose_device`.
        progress: Whether to show a progress bar, on a terminal only.
        on_epoch: Called as ``on_epoch(epoch, model, terms)`` after each epoch, counted from 1; a
            true return value stops training.

    Returns:
        The history of the run, with the terms of ``loss`` and ``"discriminator"``.

    Raises:
        ValueError: As :func:`aecore.training.fit`, or if a label is out of range.
        FloatingPointError: If a term stops being finite; the message names epoch, step and term.

    Source:
        Makhzani et al. (2015), section 2.
    """
    check_sizes(epochs=epochs, batch_size=batch_size)
    critic_lr = lr if critic_lr is None else critic_lr
    check_positive(lr=lr, critic_lr=critic_lr)
    _check_data(model, x=x, y=y)
    if y is not None and isinstance(model, SemiSupervisedAutoencoder):
        _check_labels(y, model.n_classes)
    place = choose_device(device)
    model.to(place)
    x, y = _move(model, x, y)
    n_steps = epochs * math.ceil(len(x) / batch_size)
    own, critic = _players(model)
    optimisers = [Adam(own, lr=lr, betas=betas, fused=True)]
    if critic:
        optimisers.append(Adam(critic, lr=critic_lr, betas=betas, fused=True))
    schedules = [LambdaLR(o, lambda step: min(1.0, 2 - 2 * step / n_steps)) for o in optimisers]
    order, history = torch.Generator().manual_seed(seed), History()
    bar = tqdm(total=n_steps, unit="step", disable=None if progress else True)
    with _own_randomness(place, seed), bar:
        for epoch in range(1, epochs + 1):
            began = time.perf_counter()
            log: list[Tensor] = []
            names: list[str] = []
            for rows in torch.randperm(len(x), generator=order).to(place).split(batch_size):
                terms = _step(model, x[rows], None if y is None else y[rows], optimisers)
                for schedule in schedules:
                    schedule.step()
                if not names:
                    _check_terms(terms, len(rows))
                    names = list(terms)
                log.append(torch.stack([terms[name].sum() for name in names]))
                bar.update()
            sums = torch.stack(log).cpu().double()
            _stop_if_not_finite(sums, names, epoch)
            means = dict(zip(names, (sums.sum(dim=0) / len(x)).tolist(), strict=True))
            for name, value in means.items():
                history.train.setdefault(name, []).append(value)
            history.lr.append(optimisers[0].param_groups[0]["lr"])
            history.seconds.append(time.perf_counter() - began)
            with _own_randomness(place, seed):
                if on_epoch is not None and on_epoch(epoch, model, means):
                    break
    return history


def _players(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The parameters of encoder and decoder, and those of the discriminator."""
    judge = getattr(model, "discriminator", None)
    critic = [] if judge is None else list(judge.parameters())
    theirs = {id(p) for p in critic}
    return [p for p in model.parameters() if id(p) not in theirs], critic


def _step(model: Any, x: Tensor, y: Tensor | None, optimisers: Sequence[Any]) -> dict[str, Tensor]:
    """One step of each player on its own loss; the terms of both, detached."""
    terms: dict[str, Tensor] = {}
    own, critic = _players(model)
    if critic:
        terms["discriminator"] = model.discriminator_loss(x)
        optimisers[1].zero_grad(set_to_none=True)
        terms["discriminator"].mean().backward()
        optimisers[1].step()
    terms |= model.loss(x, y)
    optimisers[0].zero_grad(set_to_none=True)
    terms["loss"].mean().backward(inputs=own)
    optimisers[0].step()
    return {name: term.detach() for name, term in terms.items()}


def _check_weight(value: float, name: str = "lam") -> None:
    if not value >= 0:
        raise ValueError(f"{name} must not be negative, got {value}")


def _check_labels(y: Tensor, n_classes: int) -> None:
    check_class_numbers(y)
    low, high = y.aminmax()
    if low < -1 or high >= n_classes:
        raise ValueError(
            f"y must lie in 0, ..., {n_classes - 1}, or be -1 where not known, got {low} to {high}"
        )
