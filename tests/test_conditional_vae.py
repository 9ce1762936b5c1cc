"""Identities of aecore.models.conditional_vae; derivations in book/conditional_vae.md."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Independent, MultivariateNormal, Normal
from torch.distributions import kl_divergence as torch_kl

from aecore import load_model, save
from aecore.evaluation import class_log_likelihood, elbo, log_likelihood
from aecore.models.conditional_vae import ConditionalVAE
from aecore.training import fit

D, L, C, F = 4, 2, 3, 5
CLASSES = {"n_inputs": D, "n_latents": L, "n_classes": C}
FEATURES = {"n_inputs": D, "n_latents": L, "n_features": F}
CHOICES = [
    CLASSES,
    CLASSES | {"likelihood": "gaussian", "log_var": -1.0},
    CLASSES | {"learned_prior": True},
    FEATURES,
    FEATURES | {"learned_prior": True, "hidden": (6, 5)},
]
PIXEL_VAR = 0.5
SCALE = 10.0  # of a one-hot vector, by default


def make(choice: dict[str, Any]) -> ConditionalVAE:
    """A model whose learned prior, if it has one, is not the one it starts at."""
    model = ConditionalVAE(**({"hidden": (6,)} | choice))
    if model.learned_prior:
        torch.nn.init.normal_(model.prior_map.weight)
        torch.nn.init.normal_(model.prior_map.bias)
    return model


def some_y(model: ConditionalVAE, n: int) -> Tensor:
    return torch.randn(n, F) if model.n_classes is None else torch.arange(n) % C


@pytest.fixture
def exact() -> tuple[ConditionalVAE, list[MultivariateNormal], Tensor, Tensor]:
    """A linear model with a prior mean a class, its exact posterior, and p(x | y) of each class."""
    model = ConditionalVAE(
        **CLASSES,
        hidden=(),
        likelihood="gaussian",
        log_var=math.log(PIXEL_VAR),
        learned_prior=True,
    )
    weight = torch.linalg.qr(torch.randn(D, L)).Q * torch.tensor([2.0, 0.7])
    centres, offsets = torch.randn(C, L), torch.randn(C, D)  # m_y and b_y
    var = 1 / (1 + weight.square().sum(dim=0) / PIXEL_VAR)
    slope = var[:, None] * weight.T / PIXEL_VAR
    shift = centres - (offsets + centres @ weight.T) @ slope.T
    encoder, decoder = model.encoder.layers[0], model.decoder.layers[0]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        decoder.weight.copy_(torch.cat([weight, offsets.T / SCALE], dim=1))
        encoder.weight[:L].copy_(torch.cat([slope, shift.T / SCALE], dim=1))
        encoder.bias[L:].copy_(var.log())
        model.prior_map.weight[:L].copy_(centres.T / SCALE)
    covariance = weight @ weight.T + PIXEL_VAR * torch.eye(D)
    means = offsets + centres @ weight.T
    evidence = [MultivariateNormal(mean, covariance) for mean in means]
    y = torch.arange(6) % C
    x = torch.stack([evidence[label].sample() for label in y])
    return model, evidence, x, y


def log_evidence(evidence: list[MultivariateNormal], x: Tensor, y: Tensor) -> Tensor:
    return torch.stack([evidence[label].log_prob(row) for row, label in zip(x, y, strict=True)])


# the bound


@pytest.mark.parametrize("choice", CHOICES)
def test_loss_is_minus_the_elbo_of_its_sample_by_torch_distributions(
    choice: dict[str, Any],
) -> None:
    """eq-conditional_vae-elbo: q, p(x | z, y) and p(z | y) are all given y."""
    model = make(choice)
    x = torch.bernoulli(torch.full((7, D), 0.5))
    y = some_y(model, 7)
    mu, log_var = model.encode(x, y)
    q = Independent(Normal(mu, log_var.exp().sqrt()), 1)
    torch.manual_seed(3)
    out = model.decode(q.rsample(), y)
    pixels = Bernoulli(logits=out) if model.likelihood == "bernoulli" else Normal(out, math.e**-0.5)

    torch.manual_seed(3)
    terms = model.loss(x, y)

    assert set(terms) == {"loss", "reconstruction", "kl"}
    torch.testing.assert_close(
        terms["reconstruction"], -Independent(pixels, 1).log_prob(x), check_stride=False
    )
    torch.testing.assert_close(terms["kl"], torch_kl(q, model.prior(y)))
    torch.testing.assert_close(terms["loss"], terms["reconstruction"] + terms["kl"])


@pytest.mark.parametrize("choice", CHOICES)
def test_every_part_is_given_y(choice: dict[str, Any]) -> None:
    """eq-conditional_vae-elbo: another y changes posterior, pixels and, if learnt, the prior."""
    model = make(choice)
    x, z, y = torch.rand(3, D), torch.randn(3, L), some_y(model, 3)
    other = y.roll(1, dims=0)

    for part, before in zip(model.encode(x, other), model.encode(x, y), strict=True):
        assert ((part - before).abs().sum(dim=1) > 1e-3).all()
    assert ((model.decode(z, other) - model.decode(z, y)).abs().sum(dim=1) > 1e-3).all()
    moved = (model.prior(other).mean - model.prior(y).mean).abs().sum(dim=1)
    assert ((moved > 1e-3) == model.learned_prior).all()


def test_elbo_at_the_exact_posterior_is_the_log_evidence_of_the_class(
    exact: tuple[ConditionalVAE, list[MultivariateNormal], Tensor, Tensor],
) -> None:
    """eq-conditional_vae-elbo, eq-conditional_vae-linear: within the sampling error."""
    model, evidence, x, y = exact
    n = 4000

    bounds = elbo(model, x.repeat(n, 1), y=y.repeat(n)).reshape(n, len(x))

    error = bounds.std(dim=0) / math.sqrt(n)
    assert ((bounds.mean(dim=0) - log_evidence(evidence, x, y)).abs() < 5 * error).all()


@pytest.mark.parametrize("n_samples", [1, 3])
def test_log_likelihood_at_the_exact_posterior_is_exact(
    exact: tuple[ConditionalVAE, list[MultivariateNormal], Tensor, Tensor], n_samples: int
) -> None:
    """eq-conditional_vae-linear: with every weight equal, no sample matters."""
    model, evidence, x, y = exact

    bound = log_likelihood(model, x, y=y, n_samples=n_samples, batch_size=4)

    torch.testing.assert_close(bound, log_evidence(evidence, x, y))


def test_log_likelihood_takes_features(
    exact: tuple[ConditionalVAE, list[MultivariateNormal], Tensor, Tensor],
) -> None:
    """eq-conditional_vae-elbo: one-hot features say what labels say."""
    model, evidence, x, y = exact
    features = ConditionalVAE(
        **(CLASSES | {"n_classes": None, "n_features": C}),
        hidden=(),
        likelihood="gaussian",
        log_var=math.log(PIXEL_VAR),
        learned_prior=True,
    )
    features.load_state_dict(model.state_dict())
    one_hot = SCALE * torch.eye(C)[y]

    bound = log_likelihood(features, x, y=one_hot, n_samples=3, batch_size=4)

    torch.testing.assert_close(bound, log_evidence(evidence, x, y))
    torch.manual_seed(1)
    by_labels = elbo(model, x, y=y, n_samples=2)
    torch.manual_seed(1)
    torch.testing.assert_close(elbo(features, x, y=one_hot, n_samples=2), by_labels)


def test_class_bounds_hold_every_class_in_its_column(
    exact: tuple[ConditionalVAE, list[MultivariateNormal], Tensor, Tensor],
) -> None:
    """eq-conditional_vae-class-bounds."""
    model, evidence, x, _ = exact

    table = class_log_likelihood(model, x, n_samples=2)

    expected = torch.stack([density.log_prob(x) for density in evidence], dim=1)
    torch.testing.assert_close(table, expected)
    assert not table.requires_grad
    assert class_log_likelihood(model, x[:0], n_samples=2).shape == (0, C)


def test_class_bounds_lie_between_the_elbo_and_the_evidence(
    exact: tuple[ConditionalVAE, list[MultivariateNormal], Tensor, Tensor],
) -> None:
    """eq-conditional_vae-class-bounds: where the posterior is off, weights average to p(x | c)."""
    model, evidence, x, _ = exact
    with torch.no_grad():  # off centre, and wide enough for weights without heavy tails
        model.encoder.layers[0].bias[:L] += 0.3
        model.encoder.layers[0].bias[L:] += 0.5
    n, x = 4000, x[:2]
    log_p = torch.stack([density.log_prob(x) for density in evidence], dim=1)  # (2, C)

    single, triple = (
        class_log_likelihood(model, x.repeat(n, 1), n_samples=s).reshape(n, 2, C) for s in (1, 3)
    )

    weights = (triple - log_p).exp()
    assert ((weights.mean(dim=0) - 1).abs() < 5 * weights.std(dim=0) / math.sqrt(n)).all()
    for lower, upper in ((single, triple), (triple, log_p.expand_as(triple))):
        lead = upper - lower
        assert (lead.mean(dim=0) > 5 * lead.std(dim=0) / math.sqrt(n)).all()


def test_a_learned_prior_is_a_change_of_variables(
    exact: tuple[ConditionalVAE, list[MultivariateNormal], Tensor, Tensor],
) -> None:
    """eq-conditional_vae-absorb: m_y moved into the decoder's bias leaves p(x | y) alone."""
    model, evidence, x, y = exact
    fixed = ConditionalVAE(**CLASSES, hidden=(), likelihood="gaussian", log_var=math.log(PIXEL_VAR))
    fixed.load_state_dict(model.state_dict(), strict=False)
    centres = model.prior_map.weight[:L].detach()  # (L, C), of scaled one-hot vectors
    with torch.no_grad():
        decoder = fixed.decoder.layers[0].weight
        decoder[:, L:] += decoder[:, :L] @ centres
        fixed.encoder.layers[0].weight[:L, D:] -= centres

    torch.testing.assert_close(
        log_likelihood(fixed, x, y=y, n_samples=2), log_evidence(evidence, x, y)
    )
    torch.manual_seed(2)
    terms = fixed.loss(x, y)
    torch.manual_seed(2)
    for name, term in model.loss(x, y).items():
        torch.testing.assert_close(terms[name], term)


@pytest.mark.parametrize("choice", CHOICES)
def test_gradients_reach_every_parameter(choice: dict[str, Any]) -> None:
    """eq-conditional_vae-elbo: those of a learned prior too."""
    model = make(choice)

    model.loss(torch.rand(50, D), some_y(model, 50))["loss"].sum().backward()

    assert all(p.grad.abs().sum() > 0 for p in model.parameters())


def test_prior_is_standard_or_starts_there() -> None:
    """eq-conditional_vae-elbo."""
    for choice in (CLASSES, CLASSES | {"learned_prior": True}, FEATURES):
        model = ConditionalVAE(**choice).float()
        prior = model.prior(some_y(model, 5))
        assert (prior.batch_shape, prior.event_shape) == ((5,), (L,))
        assert prior.mean.dtype == torch.float32
        torch.testing.assert_close(prior.mean, torch.zeros(5, L, dtype=torch.float32))
        torch.testing.assert_close(prior.variance, torch.ones(5, L, dtype=torch.float32))


def test_terms_are_sums_not_means() -> None:
    """eq-conditional_vae-elbo: twice the pixels and twice the latents give twice the terms."""
    models = [ConditionalVAE(n_inputs=k * D, n_latents=k * L, n_classes=C) for k in (1, 2)]
    for model in models:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
            model.encoder.layers[-1].bias.fill_(0.5)

    single, double = (m.loss(torch.ones(3, m.n_inputs), torch.arange(3)) for m in models)

    torch.testing.assert_close(single["reconstruction"], torch.full((3,), D * math.log(2)))
    for name, term in double.items():
        torch.testing.assert_close(term, 2 * single[name])


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_mean_is_the_distributions_mean(likelihood: str) -> None:
    """eq-conditional_vae-elbo."""
    model = ConditionalVAE(**CLASSES, likelihood=likelihood)
    z, y = torch.randn(3, L), torch.arange(3)
    out = model.decode(z, y)

    expected = Bernoulli(logits=out).mean if likelihood == "bernoulli" else out

    torch.testing.assert_close(model.mean(z, y), expected)


def test_fit_hands_the_labels_on_and_the_decoder_learns_to_use_them() -> None:
    """eq-conditional_vae-elbo: where x is y's one-hot vector, the decoder needs no code."""
    y = torch.arange(C).repeat(100)
    x = torch.eye(C)[y]
    model = ConditionalVAE(n_inputs=C, n_latents=1, n_classes=C, hidden=(8,))

    history = fit(model, x, y=y, epochs=20, batch_size=50, lr=0.05, device="cpu", valid=(x, y))

    assert history.valid["loss"][-1] < 0.05  # log 3 without the labels
    torch.testing.assert_close(
        model.mean(torch.randn(C, 1), torch.arange(C)).round().detach(), torch.eye(C)
    )


@pytest.mark.parametrize("choice", CHOICES)
def test_saving_keeps_the_condition_and_the_prior(choice: dict[str, Any], tmp_path: Path) -> None:
    """eq-conditional_vae-elbo."""
    model = make(choice)
    x, y = torch.rand(3, D), some_y(model, 3)

    save(model, tmp_path / "m")
    again = load_model(tmp_path / "m")

    losses = []
    for m in (model, again):
        torch.manual_seed(1)
        losses.append(m.loss(x, y)["loss"])
    assert torch.equal(*losses)


# what y may be


def test_condition_is_a_scaled_one_hot_vector_or_the_features_themselves() -> None:
    """eq-conditional_vae-elbo."""
    by_class, by_features = ConditionalVAE(**CLASSES).float(), ConditionalVAE(**FEATURES).float()
    features = torch.randn(3, F)

    for dtype in (torch.int64, torch.int32, torch.uint8):
        given = by_class.condition(torch.tensor([2, 0, 1], dtype=dtype))
        assert torch.equal(given, SCALE * torch.eye(C, dtype=torch.float32)[[2, 0, 1]])
    plain = ConditionalVAE(**CLASSES, label_scale=1.0)
    assert torch.equal(plain.condition(torch.arange(C)), torch.eye(C))
    assert torch.equal(by_features.condition(features), features.float())
    assert by_class.condition(torch.zeros(0, dtype=torch.int64)).shape == (0, C)


@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        (None, TypeError, r"y must be a tensor, integer labels from 0 to 2 of shape \(B,\); got N"),
        ([0, 1, 2], TypeError, "y must be a tensor, integer labels .*; got list"),
        (torch.zeros(3), TypeError, r"y must hold integer labels .*; got torch\.float"),
        (torch.tensor([True, False, True]), TypeError, r"integer labels .*; got torch\.bool"),
        (torch.tensor([0, 1, 3]), ValueError, r"labels from 0 to 2 .* got labels from 0 to 3"),
        (torch.tensor([0, -1, 2]), ValueError, r"labels from 0 to 2 .* got labels from -1 to 2"),
        (torch.eye(3).long(), ValueError, r"of shape \(B,\), got shape \(3, 3\)"),
        (torch.tensor(1), ValueError, r"of shape \(B,\), got shape \(\)"),
        (torch.tensor([0, 1]), ValueError, r"one row an example, got shapes \(3, 4\) and \(2,\)"),
    ],
)
def test_bad_labels_are_named(y: Any, error: type[Exception], message: str) -> None:
    """eq-conditional_vae-elbo."""
    model = ConditionalVAE(**CLASSES)
    with pytest.raises(error, match=message):
        model.loss(torch.rand(3, D), y)


@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        (None, TypeError, r"y must be a tensor, features of shape \(B, 5\); got None"),
        (torch.zeros(3, F).long(), TypeError, r"floating-point features .*; got torch\.int64"),
        (torch.zeros(3, 4), ValueError, r"features of shape \(B, 5\), got shape \(3, 4\)"),
        (torch.zeros(F), ValueError, r"features of shape \(B, 5\), got shape \(5,\)"),
        (torch.zeros(2, F), ValueError, r"one row an example, got shapes \(3, 4\) and \(2,\)"),
    ],
)
def test_bad_features_are_named(y: Any, error: type[Exception], message: str) -> None:
    """eq-conditional_vae-elbo."""
    model = ConditionalVAE(**FEATURES)
    with pytest.raises(error, match=message):
        model.loss(torch.rand(3, D), y)


def test_a_missing_y_is_refused_everywhere() -> None:
    """eq-conditional_vae-elbo: no default hides it."""
    model, x, z = ConditionalVAE(**CLASSES), torch.rand(3, D), torch.zeros(3, L)
    for call in (
        lambda: model.decode(z, None),
        lambda: model.nll(x, z, None),
        lambda: model.prior(None),
        lambda: fit(model, x, epochs=1, device="cpu"),
    ):
        with pytest.raises(TypeError, match="y must be a tensor, integer labels"):
            call()
    for measure in (elbo, log_likelihood):
        with pytest.raises(TypeError, match="missing 1 required positional argument: 'y'"):
            measure(model, x)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_classes": None}, "exactly one of n_classes and n_features .*, got None and None"),
        ({"n_features": 2}, "exactly one of n_classes and n_features .*, got 3 and 2"),
        ({"n_classes": 0}, "n_classes must be a positive integer, got 0"),
        ({"n_classes": None, "n_features": 0}, "n_features must be a positive integer, got 0"),
        ({"n_latents": 0}, "n_latents must be a positive integer, got 0"),
        ({"label_scale": 0.0}, r"label_scale must be a positive number, got 0\.0"),
        ({"label_scale": math.nan}, "label_scale must be a positive number, got nan"),
        ({"likelihood": "poisson"}, "likelihood must be one of 'bernoulli', 'gaussian'; got 'poi"),
        ({"log_var": -1.0}, r"log_var is for Gaussian pixels; Bernoulli ones got -1\.0"),
        (
            {"likelihood": "gaussian", "log_var": "learned"},
            "log_var must be a finite number, got 'learned'",
        ),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    """eq-conditional_vae-elbo."""
    with pytest.raises(ValueError, match=message):
        ConditionalVAE(**(CLASSES | arguments))
