"""Identities of aecore.losses; derivations in book/undercomplete.md."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Bernoulli, Normal, kl_divergence

from aecore.losses import bernoulli_nll, gaussian_nll, squared_error

Loss = Callable[[Tensor, Tensor], Tensor]
LOSSES = [squared_error, bernoulli_nll, gaussian_nll]


def batch(n_examples: int = 7, n_inputs: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A decoder's output, any real numbers, and grey pixels."""
    generator = torch.Generator().manual_seed(seed)
    size = (n_examples, n_inputs)
    out = 3 * torch.randn(size, generator=generator, dtype=torch.float64)
    return out, torch.rand(size, generator=generator, dtype=torch.float64)


def entropy(x: Tensor) -> Tensor:
    return -(torch.xlogy(x, x) + torch.xlogy(1 - x, 1 - x))


def test_squared_error_is_the_squared_distance() -> None:
    """eq-undercomplete-squared-error."""
    x_hat, x = batch()
    expected = torch.linalg.vector_norm(x - x_hat, dim=1) ** 2
    torch.testing.assert_close(squared_error(x_hat, x), expected)


def test_gaussian_nll_is_minus_the_log_density() -> None:
    """eq-undercomplete-gaussian-nll."""
    mean, x = batch()
    for log_var in (torch.tensor(0.7), torch.randn(5), torch.randn(7, 1), torch.randn(7, 5)):
        expected = -Normal(mean, torch.exp(0.5 * log_var)).log_prob(x).sum(dim=1)
        torch.testing.assert_close(gaussian_nll(mean, x, log_var), expected)
    unit = -Normal(mean, 1.0).log_prob(x).sum(dim=1)
    torch.testing.assert_close(gaussian_nll(mean, x), unit)
    torch.testing.assert_close(gaussian_nll(mean, x, 0), unit)


def test_gaussian_density_integrates_to_one() -> None:
    """eq-undercomplete-gaussian-nll."""
    grid = torch.linspace(-12, 12, 4001)[:, None]
    density = torch.exp(-gaussian_nll(torch.full_like(grid, 0.4), grid, 0.5))
    integral = torch.trapezoid(density, grid[:, 0])
    torch.testing.assert_close(integral, torch.tensor(1.0))


def test_gaussian_nll_is_a_constant_and_the_scaled_squared_error() -> None:
    """eq-undercomplete-gaussian-constant, eq-undercomplete-squared-error."""
    mean, x = batch()
    variance = 0.3
    constant = 5 / 2 * math.log(2 * math.pi * variance)
    expected = constant + squared_error(mean, x) / (2 * variance)
    torch.testing.assert_close(gaussian_nll(mean, x, math.log(variance)), expected)


def test_best_noise_variance_is_the_mean_squared_error_a_pixel() -> None:
    """eq-undercomplete-noise-variance."""
    mean, x = batch()
    error = squared_error(mean, x).mean()
    best = torch.log(error / 5).requires_grad_()
    value = gaussian_nll(mean, x, best).mean()
    (slope,) = torch.autograd.grad(value, best)
    torch.testing.assert_close(slope, torch.tensor(0.0))
    torch.testing.assert_close(value, 5 / 2 * (1 + torch.log(2 * math.pi * error / 5)))
    for other in (best - 0.1, best + 0.1):
        assert gaussian_nll(mean, x, other).mean() > value


def test_gaussian_nll_may_be_negative() -> None:
    """eq-undercomplete-noise-variance."""
    x = torch.rand(2, 3)
    torch.testing.assert_close(
        gaussian_nll(x, x, -10.0), torch.full((2,), 1.5 * (math.log(2 * math.pi) - 10))
    )
    assert (gaussian_nll(x, x, -10.0) < 0).all()


def test_bernoulli_nll_is_minus_the_log_probability() -> None:
    """eq-undercomplete-bernoulli-nll."""
    logits, grey = batch()
    bits = torch.bernoulli(grey)
    assert 0 < bits.mean() < 1
    expected = -Bernoulli(logits=logits).log_prob(bits).sum(dim=1)
    torch.testing.assert_close(bernoulli_nll(logits, bits), expected)


def test_bernoulli_probabilities_of_all_images_sum_to_one() -> None:
    """eq-undercomplete-bernoulli-nll."""
    images = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 5)
    logits = 3 * torch.randn(5)
    total = torch.exp(-bernoulli_nll(logits.expand_as(images), images)).sum()
    torch.testing.assert_close(total, torch.tensor(1.0))


@pytest.mark.parametrize("binary", [True, False])
def test_bernoulli_gradient_is_predicted_minus_observed(binary: bool) -> None:
    """eq-undercomplete-bernoulli-gradient."""
    logits, x = batch()
    x = x.round() if binary else x
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(bernoulli_nll(logits, x).sum(), logits)
    torch.testing.assert_close(gradient, torch.sigmoid(logits) - x)


def test_gaussian_gradient_is_the_error_over_the_variance() -> None:
    """eq-undercomplete-gaussian-nll."""
    mean, x = batch()
    log_var = torch.randn(7, 5)
    mean.requires_grad_()
    (gradient,) = torch.autograd.grad(gaussian_nll(mean, x, log_var).sum(), mean)
    torch.testing.assert_close(gradient, (mean - x) / log_var.exp())


def test_squared_error_gradient_is_twice_the_error() -> None:
    """eq-undercomplete-squared-error."""
    x_hat, x = batch()
    x_hat.requires_grad_()
    (gradient,) = torch.autograd.grad(squared_error(x_hat, x).sum(), x_hat)
    torch.testing.assert_close(gradient, 2 * (x_hat - x))


def test_grey_cross_entropy_is_entropy_plus_divergence() -> None:
    """eq-undercomplete-entropy-floor."""
    logits, x = batch()
    kl = kl_divergence(Bernoulli(x), Bernoulli(logits=logits)).sum(dim=1)
    floor = entropy(x).sum(dim=1)
    torch.testing.assert_close(bernoulli_nll(logits, x), floor + kl)
    torch.testing.assert_close(bernoulli_nll(x.logit(), x), floor)


def test_grey_cross_entropy_is_no_density() -> None:
    """eq-undercomplete-grey-constant."""
    grid = torch.linspace(0, 1, 20001)[:, None]
    for rho in torch.tensor([0.03, 0.3, 0.8]):
        density = torch.exp(-bernoulli_nll(rho.logit().expand_as(grid), grid))
        integral = torch.trapezoid(density, grid[:, 0])
        expected = (2 * rho - 1) / rho.logit()
        # the trapezium rule errs by about curvature / (12 · 20,000²)
        torch.testing.assert_close(integral, expected, atol=1e-8, rtol=0)
        assert integral < 1


def test_best_constant_is_the_mean_of_the_data() -> None:
    """eq-undercomplete-constant."""
    _, x = batch()
    mean = x.mean(dim=0)
    minimum = {
        squared_error: (mean.clone(), x.var(dim=0, correction=0).sum()),
        bernoulli_nll: (mean.logit(), entropy(mean).sum()),
    }
    for loss, (constant, value) in minimum.items():
        constant.requires_grad_()
        found = loss(constant.expand_as(x), x).mean()
        (gradient,) = torch.autograd.grad(found, constant)
        torch.testing.assert_close(found, value)
        torch.testing.assert_close(gradient, torch.zeros(5))


@pytest.mark.parametrize("loss", LOSSES)
def test_pixels_are_summed_and_never_averaged(loss: Loss) -> None:
    """eq-undercomplete-squared-error, eq-undercomplete-bernoulli-nll."""
    out, x = batch()
    once, twice = loss(out, x), loss(out.repeat(1, 2), x.repeat(1, 2))
    assert once.shape == (7,)
    torch.testing.assert_close(twice, 2 * once)
    assert (once > 0).all()  # or twice as much would say nothing


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("lead", [(), (7,), (2, 7)])
def test_only_the_last_dimension_is_summed(loss: Loss, lead: tuple[int, ...]) -> None:
    out, x = torch.randn(*lead, 5), torch.rand(*lead, 5)
    assert loss(out, x).shape == lead


@given(n_examples=st.integers(1, 6), n_inputs=st.integers(1, 40), seed=st.integers(0, 2**31 - 1))
@settings(max_examples=50, deadline=None)
@pytest.mark.parametrize("loss", LOSSES)
def test_an_example_has_its_loss_whoever_is_in_its_batch(
    loss: Loss, n_examples: int, n_inputs: int, seed: int
) -> None:
    out, x = batch(n_examples, n_inputs, seed)
    together = loss(out, x)
    alone = torch.cat([loss(out[i : i + 1], x[i : i + 1]) for i in range(n_examples)])
    torch.testing.assert_close(together, alone)


@given(n_inputs=st.integers(1, 40), seed=st.integers(0, 2**31 - 1))
@settings(max_examples=50, deadline=None)
@pytest.mark.parametrize("loss", LOSSES)
def test_the_order_of_the_pixels_does_not_matter(loss: Loss, n_inputs: int, seed: int) -> None:
    out, x = batch(3, n_inputs, seed)
    order = torch.randperm(n_inputs, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(loss(out[:, order], x[:, order]), loss(out, x))


@given(n_inputs=st.integers(1, 40), seed=st.integers(0, 2**31 - 1))
@settings(max_examples=50, deadline=None)
def test_losses_have_their_floors(n_inputs: int, seed: int) -> None:
    """eq-undercomplete-entropy-floor, eq-undercomplete-squared-error."""
    out, x = batch(3, n_inputs, seed)
    assert (squared_error(out, x) >= 0).all()
    torch.testing.assert_close(squared_error(x, x), torch.zeros(3, dtype=torch.float64))
    floor = entropy(x).sum(dim=1)
    assert (bernoulli_nll(out, x) >= floor * (1 - 1e-12)).all()
    assert (bernoulli_nll(out, x.round()) >= 0).all()
    at_mean = gaussian_nll(x, x)
    assert (gaussian_nll(out, x) >= at_mean).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_sure_logits_have_exact_values_and_gradients(dtype: torch.dtype) -> None:
    """eq-undercomplete-bernoulli-nll, eq-undercomplete-bernoulli-gradient."""
    logits = torch.tensor([[1e4, -1e4, 1e4, -1e4]], dtype=dtype, requires_grad=True)
    x = torch.tensor([[1.0, 0.0, 0.0, 1.0]], dtype=dtype)
    nll = bernoulli_nll(logits, x)
    expected = 2 * logits[0, 0].detach().to(nll)  # two of the four are wrong
    torch.testing.assert_close(nll, expected[None])
    nll.sum().backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[0.0, 0.0, 1.0, -1.0]], dtype=dtype))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_outputs_are_summed_in_single(loss: Loss, dtype: torch.dtype) -> None:
    """What autocast gives: the decoder's output in half precision, the data in float32."""
    out, x = torch.randn(4, 784).to(dtype), torch.rand(4, 784).float()
    found = loss(out, x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, loss(out.float(), x))


@pytest.mark.parametrize("loss", [bernoulli_nll, lambda mean, x: gaussian_nll(mean, x, -2.3)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_data_are_summed_in_single(loss: Loss, dtype: torch.dtype) -> None:
    out, x = torch.randn(4, 784).to(dtype), torch.rand(4, 784).to(dtype)
    found = loss(out, x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, loss(out.float(), x.float()))


@pytest.mark.parametrize(
    ("loss", "name"),
    [(squared_error, "x_hat"), (bernoulli_nll, "logits"), (gaussian_nll, "mean")],
)
@pytest.mark.parametrize(
    ("out", "x"), [((2, 3), (2, 4)), ((2, 1), (2, 3)), ((3,), (2, 3)), ((), ())]
)
def test_shapes_must_agree(loss: Loss, name: str, out: tuple[int, ...], x: tuple[int, ...]) -> None:
    got = rf"{name} and x must have the same shape \(B, D\), got "
    with pytest.raises(ValueError, match=got):
        loss(torch.zeros(out), torch.zeros(x))


def test_log_var_that_broadcasts_beyond_the_data_is_named() -> None:
    """eq-undercomplete-gaussian-nll."""
    mean, x = torch.rand(2, 3, 4)
    with pytest.raises(ValueError, match=r"log_var must broadcast to .* \(3, 4\), got \(5, 1, 1\)"):
        gaussian_nll(mean, x, torch.zeros(5, 1, 1))
