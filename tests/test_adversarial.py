"""Identities of aecore.models.adversarial; derivations in book/adversarial.md."""

import copy
import math

import pytest
import scipy.integrate
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aecore.divergences import mmd
from aecore.losses import bernoulli_nll, squared_error
from aecore.models.adversarial import (
    AdversarialAutoencoder,
    SemiSupervisedAutoencoder,
    _players,
    _step,
    discriminator_loss,
    fit_adversarial,
    generator_loss,
    sample_prior,
)

SIZES = {"n_inputs": 4, "n_latents": 2, "hidden": (5,), "critic": (6,)}
EVERY = [
    {},
    {"likelihood": "gaussian", "saturating": True, "target": "mixture"},
    {"match": "mmd", "target": "swiss roll"},
]


def semi_supervised(**arguments: object) -> SemiSupervisedAutoencoder:
    return SemiSupervisedAutoencoder(**SIZES | {"n_classes": 3} | arguments)


def parts(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """The weights of encoder and decoder, and of the discriminator, as they are now."""
    return tuple([p.detach().clone() for p in group] for group in _players(model))


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# The two losses


def test_losses_are_the_logarithms_of_probabilities() -> None:
    """eq-adversarial-discriminator-loss, eq-adversarial-generator-losses."""
    prior, code = 3 * torch.randn(2, 7)

    paid = discriminator_loss(prior, code)

    torch.testing.assert_close(paid, -prior.sigmoid().log() - (1 - code.sigmoid()).log())
    torch.testing.assert_close(generator_loss(code), -code.sigmoid().log())
    torch.testing.assert_close(generator_loss(code, True), (1 - code.sigmoid()).log())


def test_losses_are_finite_where_probabilities_are_not() -> None:
    """eq-adversarial-discriminator-loss, eq-adversarial-generator-losses."""
    sure = torch.tensor([1000.0])

    torch.testing.assert_close(discriminator_loss(-sure, sure), 2 * sure)
    torch.testing.assert_close(generator_loss(-sure), sure)
    torch.testing.assert_close(generator_loss(sure, saturating=True), -sure)


def test_slopes_of_the_generator_losses() -> None:
    """eq-adversarial-slopes: minus (1 - D), and minus D."""
    code = torch.linspace(-6, 6, 9, requires_grad=True)
    d = code.detach().sigmoid()

    for saturating, expected in ((False, d - 1), (True, -d)):
        (slope,) = torch.autograd.grad(generator_loss(code, saturating).sum(), code)
        torch.testing.assert_close(slope, expected)


def test_best_discriminator_is_the_log_ratio_and_its_loss_the_divergence() -> None:
    """eq-adversarial-optimal-discriminator, eq-adversarial-jensen-shannon."""
    p, q = torch.rand(2, 6).softmax(dim=1)
    best = (p / q).log().requires_grad_()

    def paid(at: Tensor) -> Tensor:  # the expectation, over two independent draws
        pairs = discriminator_loss(at[:, None].expand(6, 6), at[None].expand(6, 6))
        return p @ pairs @ q

    value = paid(best)
    (slope,) = torch.autograd.grad(value, best)

    torch.testing.assert_close(slope, torch.zeros(6))  # the loss is convex: the minimum
    assert all(paid(best + 0.1 * torch.randn(6)) > value for _ in range(20))
    middle = (p + q) / 2
    divergence = 0.5 * (p * (p / middle).log() + q * (q / middle).log()).sum()
    torch.testing.assert_close(value.detach(), 2 * math.log(2) - 2 * divergence)


def test_losses_of_different_shapes_are_refused() -> None:
    """eq-adversarial-discriminator-loss."""
    with pytest.raises(ValueError, match=r"must have the same shape, got \(3,\) and \(3, 1\)"):
        discriminator_loss(torch.zeros(3), torch.zeros(3, 1))


# The priors


def within(sample: Tensor, expected: Tensor | float) -> bool:
    """Whether each column's mean is within five standard errors."""
    error = sample.std(dim=0) / math.sqrt(len(sample))
    return bool(((sample.mean(dim=0) - expected).abs() < 5 * error).all())


def test_gaussian_prior_has_its_moments() -> None:
    """eq-adversarial-objective: the target may be Gaussian, in any width."""
    z = sample_prior("gaussian", 50_000, 3)

    assert within(z, 0.0)
    assert within(z.square(), 1.0)
    assert within(z[:, :2] * z[:, 1:], 0.0)


def test_mixture_has_ten_equal_petals() -> None:
    """eq-adversarial-mixture."""
    z = sample_prior("mixture", 50_000, 2)
    angle = torch.atan2(z[:, 1], z[:, 0])
    petal = (angle / (2 * math.pi / 10)).round().remainder(10)
    turned = angle - petal * 2 * math.pi / 10
    along, across = z.norm(dim=1) * turned.cos(), z.norm(dim=1) * turned.sin()

    for k in range(10):
        assert within((petal == k).double(), 0.1)
    assert within(along, 2.0)
    # a draw in 10,000 lies nearer to the neighbour's ray than to its own
    torch.testing.assert_close(along.std().item(), 0.5, rtol=0.02, atol=0.0)
    torch.testing.assert_close(across.std().item(), 0.15, rtol=0.03, atol=0.0)


def test_roll_is_uniform_in_arc_length() -> None:
    """eq-adversarial-roll: the moments of the curve by quadrature; noise adds 2 · 0.08²."""
    ends, scale = (1.5 * math.pi, 4.5 * math.pi), 2.5 / (4.5 * math.pi)

    def mean(f: object) -> float:
        speed = [scipy.integrate.quad(lambda t: math.hypot(1, t), *ends)[0]]
        return scipy.integrate.quad(lambda t: f(t) * math.hypot(1, t), *ends)[0] / speed[0]

    z = sample_prior("swiss roll", 100_000, 2)

    centre = [mean(lambda t: t * math.cos(t)), mean(lambda t: t * math.sin(t))]
    assert within(z, scale * torch.tensor(centre))
    square = scale**2 * mean(lambda t: t**2) + 2 * 0.08**2
    assert within(z.square().sum(dim=1), square)

    t = torch.linspace(*ends, 2000)
    curve = scale * torch.stack([t * t.cos(), t * t.sin()], dim=1)
    off = torch.cdist(z[:2000], curve).min(dim=1).values  # half-normal, but for the two ends
    torch.testing.assert_close(off.mean().item(), 0.08 * math.sqrt(2 / math.pi), rtol=0.1, atol=0.0)


@pytest.mark.parametrize("target", ["gaussian", "mixture", "swiss roll"])
def test_generator_decides_the_draws(target: str) -> None:
    """eq-adversarial-mixture, eq-adversarial-roll."""
    draws = [sample_prior(target, 5, 2, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]

    assert torch.equal(*draws[:2])
    assert not torch.equal(*draws[1:])


# The models


@pytest.mark.parametrize("choice", EVERY)
def test_loss_by_hand(choice: dict[str, object]) -> None:
    """eq-adversarial-objective."""
    model = AdversarialAutoencoder(**SIZES, **choice, lam=3.0)
    x = torch.rand(7, 4)
    torch.manual_seed(1)
    terms = model.loss(x)

    h = model.encode(x)
    torch.manual_seed(1)
    if model.match == "mmd":
        matching = mmd(h, sample_prior(model.target, 7, 2)).expand(7)
    elif model.saturating:
        matching = (1 - model.discriminator(h).squeeze(1).sigmoid()).log()
    else:
        matching = -model.discriminator(h).squeeze(1).sigmoid().log()
    distance = bernoulli_nll if model.likelihood == "bernoulli" else squared_error
    torch.testing.assert_close(terms["loss"], distance(model.decode(h), x) + 3.0 * matching)


def test_batch_of_one_has_no_discrepancy_and_still_trains() -> None:
    """eq-adversarial-objective."""
    model = AdversarialAutoencoder(**SIZES, match="mmd")

    assert model.loss(torch.rand(1, 4))["matching"].tolist() == [0.0]
    history = fit_adversarial(model, torch.rand(9, 4), epochs=1, batch_size=4, device="cpu")
    assert len(history) == 1


def test_mean_is_in_units_of_pixels() -> None:
    """eq-adversarial-objective."""
    for likelihood, f in (("bernoulli", torch.sigmoid), ("gaussian", nn.Identity())):
        model = AdversarialAutoencoder(**SIZES, likelihood=likelihood)
        z = model.sample_prior(3)
        torch.testing.assert_close(model.mean(z), f(model.decode(z)))
    both = semi_supervised()
    style, category = torch.randn(3, 2), torch.rand(3, 3)
    torch.testing.assert_close(both.mean(style, category), both.decode(style, category).sigmoid())


@pytest.mark.parametrize("model", [AdversarialAutoencoder(**SIZES), semi_supervised()])
def test_discriminators_loss_leaves_the_encoders_gradients_none(model: nn.Module) -> None:
    """eq-adversarial-steps: and gives the discriminator all of its own."""
    model = copy.deepcopy(model).double()
    own, critic = _players(model)

    model.discriminator_loss(torch.rand(7, 4)).mean().backward()

    assert all(p.grad is None for p in own)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in critic)
    assert len(own) + len(critic) == len(list(model.parameters()))


@pytest.mark.parametrize("model", [AdversarialAutoencoder(**SIZES), semi_supervised()])
def test_generator_step_leaves_the_discriminators_weights_alone(model: nn.Module) -> None:
    """eq-adversarial-steps: each player moves by the gradient of its own loss, in its turn."""
    model, x = copy.deepcopy(model).double(), torch.rand(7, 4)
    reference = copy.deepcopy(model)
    groups = _players(model)
    own, critic = (torch.optim.SGD(group, lr=0.1) for group in groups)
    torch.manual_seed(1)
    _step(model, x, None, [own, critic])

    torch.manual_seed(1)
    mine, theirs = _players(reference)
    for loss, group, moved in (
        (reference.discriminator_loss, theirs, groups[1]),
        (lambda x: reference.loss(x)["loss"], mine, groups[0]),
    ):
        grads = torch.autograd.grad(loss(x).mean(), group)
        for p, grad in zip(moved, grads, strict=True):  # nothing of the other's loss in it
            torch.testing.assert_close(p.grad, grad)
        with torch.no_grad():
            for p, grad in zip(group, grads, strict=True):
                p -= 0.1 * grad
    for found, expected in zip((*groups[0], *groups[1]), (*mine, *theirs), strict=True):
        torch.testing.assert_close(found, expected)


def test_each_player_stays_where_its_rate_is_nothing() -> None:
    """eq-adversarial-steps."""
    x = torch.rand(7, 4)
    for still in (0, 1):
        model = AdversarialAutoencoder(**SIZES)
        rates = [0.1, 0.1]
        rates[still] = 0.0
        pairs = zip(_players(model), rates, strict=True)
        before = parts(model)
        _step(model, x, None, [torch.optim.SGD(group, lr=rate) for group, rate in pairs])
        after = parts(model)
        assert same(before[still], after[still])
        assert not same(before[1 - still], after[1 - still])


def test_semi_supervised_loss_by_hand() -> None:
    """eq-adversarial-semi-supervised."""
    model = semi_supervised(lam=2.0, supervision=5.0)
    x, y = torch.rand(6, 4), torch.tensor([0, 2, -1, 1, -1, -1])
    terms = model.loss(x, y)

    logits, style = model.encode(x)
    probabilities = logits.softmax(dim=1)
    category = -model.discriminator["category"](probabilities).squeeze(1).sigmoid().log()
    look = -model.discriminator["style"](style).squeeze(1).sigmoid().log()
    known = y >= 0
    labelled = torch.zeros(6)
    labelled[known] = -probabilities[known, y[known]].log()
    reconstruction = bernoulli_nll(model.decode(style, probabilities), x)
    expected = reconstruction + 2.0 * (category + look) + 5.0 * labelled
    torch.testing.assert_close(terms["loss"], expected)
    torch.testing.assert_close(terms["labelled"], labelled)
    assert (model.loss(x)["labelled"] == 0).all()


def test_semi_supervised_discriminators_see_one_hot_classes_and_gaussians() -> None:
    """eq-adversarial-semi-supervised: their loss is the sum of the two, by hand."""
    model, x = semi_supervised(), torch.rand(5, 4)
    torch.manual_seed(1)
    found = model.discriminator_loss(x)

    torch.manual_seed(1)
    one_hot = F.one_hot(torch.randint(3, (5,)), 3).double()
    z = torch.randn(5, 2)
    logits, style = model.encode(x)
    judges = model.discriminator
    expected = discriminator_loss(
        judges["category"](one_hot).squeeze(1), judges["category"](logits.softmax(1)).squeeze(1)
    ) + discriminator_loss(judges["style"](z).squeeze(1), judges["style"](style).squeeze(1))
    torch.testing.assert_close(found, expected)


# Training


@pytest.mark.parametrize("match", ["adversarial", "mmd"])
def test_training_brings_the_codes_to_the_prior(match: str) -> None:
    """eq-adversarial-steps, eq-adversarial-objective."""
    x = 1 + torch.randn(1000, 4) * torch.tensor([2.0, 1.0, 0.3, 0.1])
    wide = SIZES | {"hidden": (16,), "critic": (32,)}
    lam = {"adversarial": 1.0, "mmd": 50.0}[match]
    model = AdversarialAutoencoder(**wide, likelihood="gaussian", match=match, lam=lam)
    z = sample_prior("gaussian", 1000, 2)
    with torch.no_grad():
        before = mmd(model.encode(x), z).item()
    rates = {"lr": 2e-3, "critic_lr": 1e-2}
    history = fit_adversarial(model, x, epochs=20, batch_size=50, **rates, device="cpu")
    with torch.no_grad():
        after = mmd(model.encode(x), z).item()

    assert after < 0.2 * before
    names = {"loss", "reconstruction", "matching"}
    assert set(history.train) == names | ({"discriminator"} if match == "adversarial" else set())
    assert history.train["reconstruction"][-1] < history.train["reconstruction"][0]


def test_training_is_seeded_and_leaves_the_callers_random_state() -> None:
    """eq-adversarial-steps."""
    x = torch.rand(30, 4)
    start = AdversarialAutoencoder(**SIZES)
    found = []
    for seed in (3, 3, 4):
        model = copy.deepcopy(start)
        torch.manual_seed(seed + len(found))
        state = torch.get_rng_state()
        fit_adversarial(model, x, epochs=2, batch_size=8, seed=seed, device="cpu")
        assert torch.equal(torch.get_rng_state(), state)
        found.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[1], found[2])


def test_rates_fall_linearly_over_the_second_half_and_a_true_answer_stops() -> None:
    """eq-adversarial-steps."""
    seen = []

    def stop(epoch: int, model: nn.Module, terms: dict[str, float]) -> bool:
        seen.append(terms)
        return epoch == 3

    arguments = {"epochs": 4, "batch_size": 8, "lr": 0.1, "device": "cpu"}
    history = fit_adversarial(AdversarialAutoencoder(**SIZES), torch.rand(16, 4), **arguments)
    torch.testing.assert_close(history.lr, [0.1, 0.1, 0.05, 0.0])
    history = fit_adversarial(
        AdversarialAutoencoder(**SIZES), torch.rand(16, 4), **arguments, on_epoch=stop
    )
    assert len(history) == 3
    assert [terms["loss"] for terms in seen] == history.train["loss"]


def test_a_term_that_is_not_finite_is_named() -> None:
    """eq-adversarial-steps."""
    model = AdversarialAutoencoder(**SIZES)
    with torch.no_grad():
        model.discriminator.layers[-1].bias.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="epoch 1, step 1: discriminator = nan, matching"):
        fit_adversarial(model, torch.rand(8, 4), epochs=1, device="cpu")


# Errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": "cauchy"}, "target must be one of 'gaussian', 'mixture', 'swiss roll'; got 'c"),
        ({"target": "mixture", "n_latents": 3}, "n_latents must be 2 for the target 'mixture', g"),
        ({"match": "wasserstein"}, "match must be one of 'adversarial', 'mmd'; got 'wass"),
        ({"likelihood": "poisson"}, "likelihood must be one of"),
        ({"lam": math.nan}, "lam must not be negative, got nan"),
        ({"critic": (0,)}, r"critic must be a tuple of positive integers.*, got \(0,\)"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    """eq-adversarial-objective."""
    with pytest.raises(ValueError, match=message):
        AdversarialAutoencoder(**SIZES | arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_classes": 1}, "n_classes must be at least 2, got 1"),
        ({"n_classes": 0}, "n_classes must be a positive integer, got 0"),
        ({"supervision": -1.0}, "supervision must not be negative, got -1.0"),
        ({"lam": -1.0}, "lam must not be negative, got -1.0"),
    ],
)
def test_bad_arguments_of_the_semi_supervised_model_are_named(
    arguments: dict[str, object], message: str
) -> None:
    """eq-adversarial-semi-supervised."""
    with pytest.raises(ValueError, match=message):
        semi_supervised(**arguments)


def test_bad_shapes_are_named() -> None:
    """eq-adversarial-objective, eq-adversarial-semi-supervised."""
    model, both = AdversarialAutoencoder(**SIZES), semi_supervised()
    with pytest.raises(ValueError, match=r"z must have shape \(\.\.\., 2\), got \(7, 3\)"):
        model.discriminator_loss(torch.rand(7, 4), torch.randn(7, 3))
    with pytest.raises(ValueError, match=r"x must have shape \(\.\.\., 4\), got \(7, 3\)"):
        both.encode(torch.rand(7, 3))
    with pytest.raises(ValueError, match=r"style must have shape \(\.\.\., 2\), got \(7, 3\)"):
        both.decode(torch.rand(7, 3), torch.rand(7, 3))
    with pytest.raises(ValueError, match=r"category must have shape \(\.\.\., 3\), got \(7, 2\)"):
        both.decode(torch.rand(7, 2), torch.rand(7, 2))
    with pytest.raises(ValueError, match="n must be a positive integer, got 0"):
        model.sample_prior(0)


def test_bad_training_is_named() -> None:
    """eq-adversarial-steps."""
    model, x = AdversarialAutoencoder(**SIZES), torch.rand(8, 4)
    for arguments, message in (
        ({"lr": 0.0}, "lr must be a positive number, got 0.0"),
        ({"critic_lr": -1.0}, "critic_lr must be a positive number, got -1.0"),
        ({"epochs": 0}, "epochs must be a positive integer, got 0"),
        ({"x": 2 * x + 1}, r"x must lie in \[0, 1\] for a Bernoulli likelihood"),
        ({"x": x.log() / 0}, "x must be finite"),
    ):
        with pytest.raises(ValueError, match=message):
            fit_adversarial(**{"model": model, "x": x, "epochs": 1, "device": "cpu"} | arguments)
    with pytest.raises(ValueError, match=r"y must lie in 0, \.\.\., 2, or be -1 .* got 0 to 7"):
        fit_adversarial(semi_supervised(), x, y=torch.arange(8), epochs=1, device="cpu")
    with pytest.raises(TypeError, match=r"y must hold .* got torch\.float64; use y\.long\(\)"):
        fit_adversarial(semi_supervised(), x, y=torch.zeros(8), epochs=1, device="cpu")
