"""Identities of aecore.models.iwae; derivations in book/iwae.md."""

import copy
import math

import pytest
import torch
from torch import Tensor
from torch.autograd import grad
from torch.distributions import Bernoulli, Independent, MultivariateNormal, Normal

from aecore.evaluation import log_weights
from aecore.models.iwae import IWAE
from aecore.models.vae import VAE
from aecore.training import fit

ESTIMATORS = ["pathwise", "doubly reparametrised"]
SIZES = {"n_inputs": 4, "n_latents": 2, "hidden": (5,)}


def binary(n: int) -> Tensor:
    return torch.bernoulli(torch.full((n, 4), 0.5))


def make(estimator: str = "pathwise", n_samples: int = 7, **kwargs: object) -> IWAE:
    return IWAE(**SIZES, n_samples=n_samples, estimator=estimator, **kwargs)


def gradients(model: IWAE, x: Tensor, seed: int) -> list[Tensor]:
    """Of the mean loss in all parameters, encoder first."""
    torch.manual_seed(seed)
    return list(grad(model.loss(x)["loss"].mean(), list(model.parameters())))


def by_hand(model: IWAE, x: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Noise, samples, and the log-weights by torch's own distributions, ``(S, B)``."""
    mu, log_var = model.encode(x)
    std = log_var.exp().sqrt()
    torch.manual_seed(seed)
    eps = torch.randn(model.n_samples, *mu.shape)
    z = mu + std * eps
    out = model.decode(z)
    pixels = Bernoulli(logits=out) if model.likelihood == "bernoulli" else Normal(out, math.e**-0.5)
    likelihood = Independent(pixels, 1).log_prob(x.expand_as(out))
    log_q = Independent(Normal(mu, std), 1).log_prob(z)
    return eps, z, likelihood, log_q - model.prior().log_prob(z)


def exact_linear(n_samples: int) -> tuple[IWAE, Tensor]:
    """A linear model whose encoder gives the exact posterior, and the covariance of its x."""
    weight = torch.linalg.qr(torch.randn(4, 2)).Q * torch.tensor([2.0, 0.7])
    model = IWAE(n_inputs=4, n_latents=2, hidden=(), likelihood="gaussian", n_samples=n_samples)
    var = 1 / (1 + weight.square().sum(dim=0))
    with torch.no_grad():
        model.decoder.layers[0].weight.copy_(weight)
        model.decoder.layers[0].bias.zero_()
        model.encoder.layers[0].weight.copy_(
            torch.cat([var[:, None] * weight.T, torch.zeros(2, 4)])
        )
        model.encoder.layers[0].bias.copy_(torch.cat([torch.zeros(2), var.log()]))
    return model, weight @ weight.T + torch.eye(4)


# the loss


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("choice", [{}, {"likelihood": "gaussian", "log_var": -1.0}])
@pytest.mark.parametrize("n_samples", [1, 2, 7])
def test_loss_and_terms_are_those_of_the_weights(
    estimator: str, choice: dict[str, object], n_samples: int
) -> None:
    """eq-iwae-loss: written out with torch's distributions and without logsumexp."""
    model = make(estimator, n_samples, **choice)
    x = binary(3)
    _, _, likelihood, kl = by_hand(model, x, 3)
    weight = (likelihood - kl).exp()
    torch.manual_seed(3)

    terms = model.loss(x)

    torch.testing.assert_close(terms["loss"], -weight.mean(dim=0).log())
    torch.testing.assert_close(terms["reconstruction"], -likelihood.mean(dim=0))
    torch.testing.assert_close(terms["kl"], kl.mean(dim=0))
    gain = weight.mean(dim=0).log() - weight.log().mean(dim=0)
    torch.testing.assert_close(terms["gain"], gain)
    ess = weight.sum(dim=0).square() / weight.square().sum(dim=0)
    torch.testing.assert_close(terms["ess"], ess)
    assert all(not term.requires_grad for name, term in terms.items() if name != "loss")


def test_loss_is_minus_the_bound_of_the_evaluations_log_weights() -> None:
    """eq-iwae-loss, eq-iwae-weight."""
    model, x = make(), binary(3)
    torch.manual_seed(2)
    log_w = log_weights(model, x, n_samples=7)
    torch.manual_seed(2)

    loss = model.loss(x)["loss"]

    torch.testing.assert_close(loss, math.log(7) - log_w.logsumexp(dim=0))


def test_one_sample_is_the_elbo_in_expectation() -> None:
    """eq-iwae-loss: its KL estimated, that of the VAE exact."""
    model, x = make(n_samples=1), binary(1).expand(20_000, -1)
    vae = VAE(**SIZES)
    vae.load_state_dict(model.state_dict())

    ours, theirs = model.loss(x), vae.loss(x)

    for name in ("loss", "reconstruction", "kl"):
        error = ((ours[name].var() + theirs[name].var()) / len(x)).sqrt()
        assert (ours[name].mean() - theirs[name].mean()).abs() < 5 * error
    torch.testing.assert_close(ours["gain"], torch.zeros(len(x)))
    torch.testing.assert_close(ours["ess"], torch.ones(len(x)))


@pytest.mark.parametrize("n_samples", [1, 3])
@pytest.mark.parametrize("n", [1, 5])
def test_loss_at_the_exact_posterior_is_exact(n_samples: int, n: int) -> None:
    """eq-iwae-loss: dividing by the batch size instead of the samples shows here."""
    model, covariance = exact_linear(n_samples)
    x = torch.randn(n, 4)

    terms = model.loss(x)

    expected = -MultivariateNormal(torch.zeros(4), covariance).log_prob(x)
    torch.testing.assert_close(terms["loss"], expected)
    torch.testing.assert_close(terms["ess"], torch.full((n,), float(n_samples)))


def test_the_bound_rises_with_samples() -> None:
    """eq-iwae-monotone."""
    model, x = make(n_samples=1), binary(1).expand(20_000, -1)
    means = []
    for n_samples in (1, 2, 4, 8):
        model.n_samples = n_samples
        means.append(-model.loss(x)["loss"].mean().item())
    assert means == sorted(means)
    assert means[-1] > means[0] + 0.05


def test_weights_below_the_smallest_float_are_summed_as_logarithms() -> None:
    """eq-iwae-loss."""
    model = IWAE(n_inputs=400, n_latents=2, hidden=(), likelihood="gaussian", log_var=-3.0)

    terms = model.loss(torch.full((2, 400), 5.0))

    assert terms["loss"].isfinite().all()
    assert (terms["loss"] > 5000).all()


# the gradients


def test_gradient_is_that_of_normalised_weights() -> None:
    """eq-iwae-gradient: weights held fixed, gradients of single samples added up."""
    model, x = make(), binary(3)
    _, _, likelihood, kl = by_hand(model, x, 4)
    log_w = likelihood - kl
    weight = log_w.detach().exp() / log_w.detach().exp().sum(dim=0)
    surrogate = -(weight * log_w).sum(dim=0).mean()
    expected = grad(surrogate, list(model.parameters()))

    for ours, theirs in zip(gradients(model, x, 4), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_doubly_reparametrised_gradient_is_the_formula() -> None:
    """eq-iwae-doubly-reparametrised: squared weights on the path through the sample alone."""
    model, x = make("doubly reparametrised"), binary(3)
    mu, log_var = model.encode(x)
    eps, z, *_ = by_hand(model, x, 4)
    leaf = z.detach().requires_grad_()
    log_p = model.prior().log_prob(leaf) - model._nll(
        model.decode(leaf), x.expand(7, -1, -1), model.decoder_log_var
    )
    log_w = log_p - Normal(mu.detach(), log_var.detach().exp().sqrt()).log_prob(leaf).sum(dim=-1)
    (slope,) = grad(log_w.sum(), leaf)
    weight = log_w.detach().softmax(dim=0)[..., None]
    path = mu + (0.5 * log_var).exp() * eps
    surrogate = -(weight.square() * slope * path).sum(dim=(0, 2)).mean()
    expected = grad(surrogate, list(model.encoder.parameters()))

    found = gradients(model, x, 4)

    for ours, theirs in zip(found[: len(expected)], expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_doubly_reparametrised_leaves_the_decoders_gradient_alone() -> None:
    """eq-iwae-doubly-reparametrised, eq-iwae-gradient."""
    model, x = make(), binary(3)
    other = copy.deepcopy(model)
    other.estimator = "doubly reparametrised"
    n = len(list(model.encoder.parameters()))

    plain, doubly = gradients(model, x, 4), gradients(other, x, 4)

    for one, two in zip(plain[n:], doubly[n:], strict=True):
        torch.testing.assert_close(one, two)
    assert not torch.allclose(plain[0], doubly[0])


@pytest.mark.parametrize("n_samples", [1, 2, 5])
def test_doubly_reparametrised_has_the_pathwise_mean_and_a_smaller_variance(n_samples: int) -> None:
    """eq-iwae-doubly-reparametrised, eq-iwae-gradient."""
    mu = torch.tensor([0.8, -0.3]).requires_grad_()
    log_var = torch.tensor([0.4, -0.2]).requires_grad_()
    n = 40_000

    class Fixed(IWAE):
        def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
            self.leaves = [t.expand(len(x), 2).clone() for t in (mu, log_var)]
            for leaf in self.leaves:
                leaf.retain_grad()
            return self.leaves[0], self.leaves[1]

    model = Fixed(**SIZES, n_samples=n_samples, likelihood="gaussian")
    x = torch.tensor([[1.0, -1.0, 0.5, 2.0]]).expand(n, -1)
    draws = {}
    for estimator in ESTIMATORS:
        model.estimator = estimator
        model.loss(x)["loss"].sum().backward()
        draws[estimator] = torch.cat([leaf.grad for leaf in model.leaves], dim=1)
    plain, doubly = draws.values()

    error = ((plain.var(dim=0) + doubly.var(dim=0)) / n).sqrt()
    assert ((plain.mean(dim=0) - doubly.mean(dim=0)).abs() < 5 * error).all()
    assert doubly.var(dim=0).sum() < plain.var(dim=0).sum()


def test_doubly_reparametrised_gradient_vanishes_at_the_exact_posterior() -> None:
    """eq-iwae-doubly-reparametrised: draw by draw, which the pathwise one does not."""
    model, _ = exact_linear(7)
    x = torch.randn(3, 4)
    sizes = {}
    for estimator in ESTIMATORS:
        model.estimator = estimator
        sizes[estimator] = sum(g.abs().max().item() for g in gradients(model, x, 1)[:2])
    assert sizes["pathwise"] > 0.01
    assert sizes["doubly reparametrised"] < 1e-12


# use


def test_scoring_without_gradients_works_for_both_estimators() -> None:
    """eq-iwae-loss: the estimators differ in the gradient alone."""
    model, x = make(), binary(3)
    values = []
    for estimator in ESTIMATORS:
        model.estimator = estimator
        torch.manual_seed(1)
        with torch.no_grad():
            values.append(model.loss(x)["loss"])
    assert torch.equal(*values)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_training_tightens_the_bound_on_the_evidence(estimator: str) -> None:
    """eq-iwae-loss: a linear model's bound comes near its data's entropy."""
    z = torch.randn(400, 1)
    x = z @ torch.tensor([[2.0, -1.0]]) + torch.randn(400, 2)
    model = IWAE(
        n_inputs=2, n_latents=1, hidden=(), likelihood="gaussian", estimator=estimator
    ).double()
    _ = fit(model, x, epochs=60, batch_size=50, lr=0.02, device="cpu", progress=False)
    covariance = torch.cov(x.T, correction=0)
    best = 0.5 * (2 * math.log(2 * math.pi * math.e) + covariance.logdet())
    with torch.no_grad():
        loss = model.loss(x.repeat(50, 1))["loss"].mean()
    assert abs(loss - best) < 0.05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_samples": 0}, "n_samples must be a positive integer, got 0"),
        ({"n_samples": 2.5}, "n_samples must be a positive integer, got 2.5"),
        ({"estimator": "score"}, "estimator must be one of 'pathwise', 'doubly reparametrised'"),
        (
            {"likelihood": "gaussian", "log_var": "optimal"},
            "log_var must be a finite number or 'learned', got 'optimal'",
        ),
        ({"likelihood": "cauchy"}, "likelihood must be one of"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IWAE(**(SIZES | change))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_weight_that_is_not_finite_stops_training_by_name(estimator: str) -> None:
    model = make(estimator)
    with torch.no_grad():
        model.encoder.layers[-1].bias[:2] = 1e200  # its square is beyond the largest float
    with pytest.raises(FloatingPointError, match=r"epoch 1, step 1: .*kl = inf"):
        fit(model, binary(8).double(), epochs=1, device="cpu", progress=False)
