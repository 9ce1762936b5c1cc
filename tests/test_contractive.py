"""Identities of aecore.models.contractive; derivations in book/contractive.md."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.functional import jacobian

from aecore.losses import bernoulli_nll, squared_error
from aecore.models.contractive import (
    ContractiveAutoencoder,
    contractive_penalty,
    hutchinson_penalty,
    jacobian_penalty,
)
from aecore.training import fit

LIKELIHOODS = {"bernoulli": bernoulli_nll, "gaussian": squared_error}
ENCODERS = {
    "one sigmoid layer": {},
    "wide": {"n_latents": 12},
    "linear": {"activation": "identity", "penalty": "exact"},
    "deep relu": {"hidden": (8, 6), "activation": "relu", "penalty": "exact"},
    "deep sigmoid": {"hidden": (8,), "penalty": "exact"},
}


def autoencoder(**arguments: object) -> ContractiveAutoencoder:
    """A small model with random biases, so that none can be left out unseen."""
    model = ContractiveAutoencoder(**({"n_inputs": 9, "n_latents": 4} | arguments)).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def frobenius(model: ContractiveAutoencoder, x: Tensor) -> Tensor:
    """The penalty by torch's older interface, one example at a time."""
    rows = [jacobian(model.encode, x_i).square().sum() for x_i in x]
    return torch.stack(rows)


def gradients(model: nn.Module, value: Tensor) -> list[Tensor]:
    """Of the encoder's parameters."""
    return list(torch.autograd.grad(value, list(model.encoder.parameters())))


@pytest.mark.parametrize(("n_inputs", "n_latents"), [(1, 1), (5, 3), (3, 5)])
def test_closed_form_is_squared_norm_of_autograd_jacobian(n_inputs: int, n_latents: int) -> None:
    """eq-contractive-penalty."""
    model = autoencoder(n_inputs=n_inputs, n_latents=n_latents)
    x = torch.randn(7, n_inputs)
    weight = model.encoder.layers[0].weight
    torch.testing.assert_close(contractive_penalty(model.encode(x), weight), frobenius(model, x))


def test_closed_form_has_the_gradient_of_the_exact_penalty() -> None:
    """eq-contractive-penalty, eq-contractive-jacobian."""
    model, x = autoencoder(), torch.randn(7, 9)
    closed = contractive_penalty(model.encode(x), model.encoder.layers[0].weight).sum()
    exact = jacobian_penalty(model.encode, x).sum()
    torch.testing.assert_close(gradients(model, closed), gradients(model, exact))


def test_penalty_depends_on_the_weight_through_two_paths() -> None:
    """eq-contractive-penalty."""
    model, x = autoencoder(), torch.randn(7, 9)
    weight = model.encoder.layers[0].weight
    whole, _ = gradients(model, contractive_penalty(model.encode(x), weight).sum())
    by_code, _ = gradients(model, contractive_penalty(model.encode(x), weight.detach()).sum())
    h = model.encode(x).detach()
    slopes = (h * (1 - h)).square().sum(dim=0)
    torch.testing.assert_close(whole - by_code, 2 * slopes[:, None] * weight)


@pytest.mark.parametrize("kind", ENCODERS)
def test_exact_penalty_is_squared_norm_of_autograd_jacobian(kind: str) -> None:
    """eq-contractive-jacobian."""
    model, x = autoencoder(**ENCODERS[kind]), torch.randn(7, 9)
    torch.testing.assert_close(jacobian_penalty(model.encode, x), frobenius(model, x))


def test_exact_penalty_of_a_linear_encoder_is_its_weights_norm_everywhere() -> None:
    """eq-contractive-jacobian."""
    model = autoencoder(activation="identity", penalty="exact")
    norm = model.encoder.layers[0].weight.square().sum()
    found = jacobian_penalty(model.encode, torch.randn(7, 9))
    torch.testing.assert_close(found, norm.expand(7))


def test_exact_penalty_is_differentiable() -> None:
    """eq-contractive-jacobian."""
    model, x = autoencoder(hidden=(5,), penalty="exact"), torch.randn(3, 9)
    weight = model.encoder.layers[0].weight
    (analytic, *_) = gradients(model, jacobian_penalty(model.encode, x).sum())
    change, step = torch.randn_like(weight), 1e-6
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight.add_(sign * step * change)
            values.append(jacobian_penalty(model.encode, x).sum())
            weight.sub_(sign * step * change)
    numeric = (values[0] - values[1]) / (2 * step)
    # central differences: their error is about 1e-16 / step, relative to the value
    torch.testing.assert_close((analytic * change).sum(), numeric, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("estimate", [jacobian_penalty, hutchinson_penalty])
def test_penalties_work_without_gradients_and_leave_none(estimate) -> None:
    model, x = autoencoder(), torch.randn(5, 9)
    torch.manual_seed(1)
    wanted = estimate(model.encode, x)
    with torch.no_grad():
        torch.manual_seed(1)
        found = estimate(model.encode, x)
    assert not found.requires_grad
    assert x.grad is None
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("kind", ENCODERS)
def test_hutchinson_averages_to_the_exact_penalty(kind: str) -> None:
    """eq-contractive-hutchinson."""
    model, x = autoencoder(**ENCODERS[kind]), torch.randn(20, 9)
    exact = jacobian_penalty(model.encode, x).mean()
    draws = hutchinson_penalty(model.encode, x.repeat(2000, 1)).detach()
    means = draws.reshape(2000, 20).mean(dim=1)
    error = means.std() / math.sqrt(2000)
    assert (means.mean() - exact).abs() < 5 * error
    assert error > 1e-3 * exact  # so that chance, not rounding, sets the tolerance


def test_hutchinson_over_all_sign_patterns_is_exact() -> None:
    """eq-contractive-hutchinson, eq-contractive-hutchinson-variance."""
    model, x = autoencoder(), torch.randn(9)
    j = jacobian(model.encode, x)
    gram = j @ j.T
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 4)
    values = (signs @ j).square().sum(dim=1)
    torch.testing.assert_close(values.mean(), j.square().sum())
    off_diagonal = gram.square().sum() - gram.diagonal().square().sum()
    torch.testing.assert_close(values.var(correction=0), 2 * off_diagonal)


@pytest.mark.parametrize("n_samples", [1, 3])
def test_hutchinsons_variance_is_that_of_the_book(n_samples: int) -> None:
    """eq-contractive-hutchinson-variance."""
    model, x = autoencoder(), torch.randn(9)
    j = jacobian(model.encode, x)
    gram = j @ j.T
    variance = 2 * (gram.square().sum() - gram.diagonal().square().sum()) / n_samples
    draws = hutchinson_penalty(model.encode, x.expand(40_000, 9), n_samples).detach()
    squares = (draws - j.square().sum()).square()
    assert (squares.mean() - variance).abs() < 5 * squares.std() / math.sqrt(len(draws))


def test_hutchinson_is_exact_where_the_gram_matrix_is_diagonal() -> None:
    """eq-contractive-hutchinson-variance."""
    x = torch.randn(6, 4)
    torch.testing.assert_close(hutchinson_penalty(torch.tanh, x), jacobian_penalty(torch.tanh, x))


def test_hutchinsons_gradient_averages_to_the_exact_gradient() -> None:
    """eq-contractive-hutchinson."""
    model, x = autoencoder(), torch.randn(1, 9)
    (exact, _) = gradients(model, jacobian_penalty(model.encode, x).sum())
    draws = torch.stack(
        [gradients(model, hutchinson_penalty(model.encode, x).sum())[0] for _ in range(2000)]
    )
    error = draws.std(dim=0) / math.sqrt(len(draws))
    assert ((draws.mean(dim=0) - exact).abs() < 5 * error).all()


def test_hutchinson_draws_signs_of_its_own_for_each_example_and_sample() -> None:
    """eq-contractive-hutchinson."""
    model, x = autoencoder(), torch.randn(1, 9).expand(50, 9)
    one = hutchinson_penalty(model.encode, x, 1, torch.Generator().manual_seed(3))
    again = hutchinson_penalty(model.encode, x, 1, torch.Generator().manual_seed(3))
    both = hutchinson_penalty(model.encode, x, 2, torch.Generator().manual_seed(3))
    assert len(one.unique()) > 4
    torch.testing.assert_close(one, again)
    assert not torch.allclose(one, both)


def test_hutchinson_leaves_the_global_generator_alone_when_given_another() -> None:
    model, x = autoencoder(), torch.randn(5, 9)
    before = torch.get_rng_state()
    hutchinson_penalty(model.encode, x, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("penalty", ["closed form", "exact", "hutchinson"])
def test_loss_is_reconstruction_plus_lam_times_penalty(
    likelihood: str, penalty: str, tied: bool
) -> None:
    """eq-contractive-objective."""
    model = autoencoder(likelihood=likelihood, penalty=penalty, tied=tied, lam=0.7)
    x = torch.rand(7, 9)
    torch.manual_seed(2)
    terms = model.loss(x)
    torch.manual_seed(2)
    wanted = frobenius(model, x)
    if penalty == "hutchinson":
        wanted = hutchinson_penalty(model.encode, x)
    reconstruction = LIKELIHOODS[likelihood](model.decode(model.encode(x)), x)
    torch.testing.assert_close(terms["penalty"], wanted)
    torch.testing.assert_close(terms["reconstruction"], reconstruction)
    torch.testing.assert_close(terms["loss"], reconstruction + 0.7 * wanted)
    assert set(terms) == {"loss", "reconstruction", "penalty"}


def test_layers_are_those_of_the_book() -> None:
    """eq-contractive-objective."""
    model, x = autoencoder(), torch.rand(7, 9)
    (layer,), (bias,) = model.encoder.layers, model.decoder.biases
    h = torch.sigmoid(x @ layer.weight.T + layer.bias)
    torch.testing.assert_close(model.encode(x), h)
    torch.testing.assert_close(model.decode(h), h @ layer.weight + bias)


@pytest.mark.parametrize(
    ("activation", "function"),
    [("identity", lambda h: h), ("relu", F.relu), ("sigmoid", torch.sigmoid)],
)
def test_activation_is_applied_to_the_code_alone(activation: str, function) -> None:
    model, x = autoencoder(activation=activation, hidden=(6,), penalty="exact"), torch.rand(7, 9)
    first, second = model.encoder.layers
    before = F.relu(x @ first.weight.T + first.bias) @ second.weight.T + second.bias
    torch.testing.assert_close(model.encode(x), function(before))
    assert (before < 0).any()


def test_training_lowers_the_penalty_more_for_a_larger_lam() -> None:
    """eq-contractive-objective."""
    x = torch.bernoulli(torch.rand(64, 1).expand(64, 9))
    found = []
    for lam in (0.0, 3.0, 30.0):
        torch.manual_seed(0)
        model = autoencoder(lam=lam)
        fit(model, x, epochs=40, batch_size=16, lr=2e-2, device="cpu", progress=False)
        found.append(model.loss(x)["penalty"].mean().item())
    assert found[0] > 2 * found[1] > 4 * found[2]


def test_rescaling_an_untied_linear_code_changes_the_penalty_only() -> None:
    """eq-contractive-scale."""
    linear = {"activation": "identity", "penalty": "exact", "tied": False}
    model, x, alpha = autoencoder(**linear), torch.rand(7, 9), 0.1
    before = model.loss(x)
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.mul_(alpha)
        model.decoder.layers[0].weight.div_(alpha)
    after = model.loss(x)
    torch.testing.assert_close(after["reconstruction"], before["reconstruction"])
    torch.testing.assert_close(after["penalty"], alpha**2 * before["penalty"])


def test_tied_weights_are_shared_and_get_both_gradients() -> None:
    model, x = autoencoder(lam=0.0), torch.rand(7, 9)
    weight = model.encoder.layers[0].weight
    (whole,) = torch.autograd.grad(model.loss(x)["loss"].sum(), weight)
    h = model.encode(x)
    error = model.decode(h).sigmoid() - x
    slope = h * (1 - h)
    from_encoder = ((error @ weight.T) * slope).T @ x
    torch.testing.assert_close(whole, from_encoder + h.T @ error)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_inputs": 0}, "n_inputs must be a positive integer, got 0"),
        ({"n_latents": -2}, "n_latents must be a positive integer, got -2"),
        ({"hidden": (6, 0), "penalty": "exact"}, "hidden must be a tuple of positive"),
        ({"lam": -0.1}, "lam must not be negative, got -0.1"),
        ({"lam": float("nan")}, "lam must not be negative, got nan"),
        ({"likelihood": "poisson"}, "likelihood must be one of 'bernoulli', 'gaussian'"),
        ({"activation": "tanh"}, "activation must be one of 'identity', 'relu', 'sigmoid'"),
        ({"penalty": "free"}, "penalty must be one of 'closed form', 'exact', 'hutchinson'"),
        ({"activation": "relu"}, "penalty must be 'exact' or 'hutchinson' where"),
        ({"activation": "identity"}, "got 'closed form' with .*'identity'"),
        ({"hidden": (6,)}, r"got 'closed form' with hidden=\(6,\)"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ContractiveAutoencoder(**({"n_inputs": 9, "n_latents": 4} | arguments))


def test_closed_form_refuses_what_no_sigmoid_gives() -> None:
    weight = torch.ones(3, 4)
    for bad in (-0.1, 1.5):
        h = torch.full((2, 3), 0.5)
        h[1, 2] = bad
        with pytest.raises(ValueError, match=r"h must lie in \[0, 1\].*use jacobian_penalty"):
            contractive_penalty(h, weight)
    edges = torch.tensor([[0.0, 1.0, 0.5]])
    torch.testing.assert_close(contractive_penalty(edges, weight), torch.tensor([0.25]))


@pytest.mark.parametrize(("h", "weight"), [((2, 3), (4, 3)), ((3,), (3, 4)), ((2, 3), (3,))])
def test_closed_form_names_shapes_that_do_not_fit(
    h: tuple[int, ...], weight: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"shapes \(B, L\) and \(L, D\), got"):
        contractive_penalty(torch.full(h, 0.5), torch.ones(weight))


@pytest.mark.parametrize("estimate", [jacobian_penalty, hutchinson_penalty])
def test_a_single_example_without_its_batch_is_refused(estimate) -> None:
    with pytest.raises(ValueError, match=r"x must have shape \(B, D\), got \(9,\)"):
        estimate(autoencoder().encode, torch.zeros(9))


@pytest.mark.parametrize("n_samples", [0, 1.5])
def test_number_of_samples_must_be_a_positive_integer(n_samples: object) -> None:
    with pytest.raises(ValueError, match="n_samples must be a positive integer"):
        hutchinson_penalty(autoencoder().encode, torch.zeros(2, 9), n_samples)


def test_wrong_widths_are_named() -> None:
    model = autoencoder()
    with pytest.raises(ValueError, match=r"x must have shape \(\.\.\., 9\), got \(5, 8\)"):
        model.encode(torch.zeros(5, 8))
    with pytest.raises(ValueError, match=r"h must have shape \(\.\.\., 4\), got \(5, 3\)"):
        model.decode(torch.zeros(5, 3))
