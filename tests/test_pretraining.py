"""Identities of aecore.models.pretraining; derivations in book/pretraining.md."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.autograd.functional import hessian

import aecore
from aecore.losses import bernoulli_nll, squared_error
from aecore.models.pretraining import Classifier, StackedAutoencoder, cross_entropy
from aecore.training import fit

QUIET = {"device": "cpu", "progress": False}
SQUASH = {"relu": torch.relu, "sigmoid": torch.sigmoid}


def stack(activation: str = "relu", level: float = 0.2) -> StackedAutoencoder:
    """Two layers with random biases too, so that none can be left out unseen."""
    model = StackedAutoencoder(n_inputs=9, hidden=(6, 4), activation=activation, level=level)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def weights(module: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in module.parameters()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(left, right) for left, right in zip(a, b, strict=True))


# cross_entropy


def test_cross_entropy_is_minus_the_log_of_the_softmax() -> None:
    """eq-pretraining-cross-entropy."""
    logits, y = 3 * torch.randn(7, 5), torch.tensor([0, 4, 2, 2, 1, 3, 0])
    odds = logits.exp()
    expected = -torch.stack([(odds[n, k] / odds[n].sum()).log() for n, k in enumerate(y)])
    torch.testing.assert_close(cross_entropy(logits, y), expected)
    categorical = torch.distributions.Categorical(logits=logits)
    torch.testing.assert_close(cross_entropy(logits, y), -categorical.log_prob(y))


def test_gradient_of_the_cross_entropy_is_predicted_minus_observed() -> None:
    """eq-pretraining-cross-entropy, eq-pretraining-gradient."""
    h, weight = torch.randn(7, 4), torch.randn(5, 4, requires_grad=True)
    y = torch.tensor([0, 4, 2, 2, 1, 3, 0])
    logits = h @ weight.T
    logits.retain_grad()
    cross_entropy(logits, y).sum().backward()
    residual = logits.detach().softmax(dim=1) - torch.eye(5)[y]
    torch.testing.assert_close(logits.grad, residual)
    torch.testing.assert_close(weight.grad, residual.T @ h)


def test_curvature_of_the_cross_entropy_is_a_variance() -> None:
    """eq-pretraining-cross-entropy, eq-pretraining-convex."""
    logits, v = 2 * torch.randn(5), torch.randn(5)
    p = logits.softmax(dim=0)
    found = hessian(lambda a: cross_entropy(a[None], torch.tensor([3])).sum(), logits)
    torch.testing.assert_close(found, p.diag() - torch.outer(p, p))
    variance = (p * (v - p @ v).square()).sum()
    torch.testing.assert_close(v @ found @ v, variance)


def test_cross_entropy_survives_logits_whose_softmax_rounds_to_zero() -> None:
    """eq-pretraining-cross-entropy."""
    logits = torch.tensor([[0.0, 5000.0]])
    torch.testing.assert_close(cross_entropy(logits, torch.tensor([0])), torch.tensor([5000.0]))


@pytest.mark.parametrize(
    ("shape", "y", "message"),
    [
        ((3, 5), [0, 1], r"shapes \(B, K\) and \(B,\), got \(3, 5\) and \(2,\)"),
        ((3,), [0, 1, 2], r"got \(3,\) and \(3,\)"),
        ((3, 5), [0, 5, 1], r"y must lie in 0 … 4, got 0 … 5"),
        ((3, 5), [0, -1, 1], r"y must lie in 0 … 4, got -1 … 1"),
    ],
)
def test_labels_that_do_not_fit_are_named(
    shape: tuple[int, ...], y: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        cross_entropy(torch.zeros(shape), torch.tensor(y))


# StackedAutoencoder


@pytest.mark.parametrize("activation", SQUASH)
def test_the_stack_composes_the_layers_of_the_book(activation: str) -> None:
    """eq-pretraining-stack."""
    model, s = stack(activation, level=0.0), SQUASH[activation]
    (w1, b1), (w2, b2) = ((layer.weight, layer.bias) for layer in model.encoders)
    down = [layer.decoder.layers[0] for layer in model.layers]
    x = torch.rand(7, 9)

    h = s(s(x @ w1.T + b1) @ w2.T + b2)
    logits = s(h @ down[1].weight.T + down[1].bias) @ down[0].weight.T + down[0].bias

    torch.testing.assert_close(model.encode(x), h)
    torch.testing.assert_close(model.decode(h), logits)
    torch.testing.assert_close(model.loss(x)["loss"], bernoulli_nll(logits, x))


def test_pretraining_trains_each_layer_on_the_clean_code_of_those_below() -> None:
    """eq-pretraining-stack."""
    x, how = torch.rand(40, 9), {"epochs": 2, "batch_size": 8, "lr": 1e-2, **QUIET}
    model = stack()
    by_hand = stack()
    by_hand.load_state_dict(model.state_dict())
    first, second = by_hand.layers
    fit(first, x, **how)
    with torch.no_grad():
        code = first.encode(x)
    histories = [fit(second, code, **how)]

    found = model.pretrain(x, **how)

    assert same(weights(model), weights(by_hand))
    assert found[1].train == histories[0].train
    assert len(found) == 2


def test_a_layer_is_left_alone_while_those_above_are_trained() -> None:
    """eq-pretraining-stack."""
    x, how = torch.rand(40, 9), {"epochs": 2, "batch_size": 8, "lr": 1e-2, **QUIET}
    model = stack()
    alone = stack()
    alone.load_state_dict(model.state_dict())
    fit(alone.layers[0], x, **how)
    model.pretrain(x, **how)
    assert same(weights(model.layers[0]), weights(alone.layers[0]))
    assert not same(weights(model.layers[1]), weights(alone.layers[1]))


def test_the_stacks_loss_sees_masked_and_scores_clean_pixels() -> None:
    """eq-pretraining-stack."""
    model, x = stack(level=1.0), torch.rand(5, 9)
    blind = model.decode(model.encode(torch.zeros(5, 9)))
    torch.testing.assert_close(model.loss(x)["loss"], bernoulli_nll(blind, x))


@pytest.mark.parametrize(("activation", "upper"), [("relu", "gaussian"), ("sigmoid", "bernoulli")])
def test_codes_are_restored_under_a_likelihood_they_can_have(activation: str, upper: str) -> None:
    model = stack(activation)
    assert [layer.likelihood for layer in model.layers] == ["bernoulli", upper]
    x = torch.rand(5, 9)
    distance = squared_error if upper == "gaussian" else bernoulli_nll
    code = model.layers[0].encode(x).detach()
    top = model.layers[1]
    top.level = 0.0
    torch.testing.assert_close(top.loss(code)["loss"], distance(top.decode(top.encode(code)), code))


def test_gaussian_pixels_are_scored_by_the_squared_error() -> None:
    model = StackedAutoencoder(n_inputs=9, hidden=(4,), likelihood="gaussian", level=0.0)
    x = torch.randn(5, 9)
    expected = squared_error(model.decode(model.encode(x)), x)
    torch.testing.assert_close(model.loss(x)["reconstruction"], expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden": ()}, "hidden must name at least one layer's width, got none"),
        ({"hidden": (6, 0)}, r"hidden must be a tuple of positive integers.*, got \(6, 0\)"),
        ({"n_inputs": 0}, "n_inputs must be a positive integer, got 0"),
        ({"activation": "tanh"}, "activation must be one of 'relu', 'sigmoid'; got 'tanh'"),
        ({"level": 1.5}, "1.5"),
    ],
)
def test_bad_arguments_of_the_stack_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StackedAutoencoder(**({"n_inputs": 9, "hidden": (6, 4)} | arguments))


# Classifier


@pytest.mark.parametrize("activation", SQUASH)
def test_classifier_is_its_layers_and_a_linear_read_out(activation: str) -> None:
    """eq-pretraining-classifier, eq-pretraining-cross-entropy."""
    model, s = Classifier(n_inputs=9, hidden=(6, 4), activation=activation), SQUASH[activation]
    first, second = model.layers
    x, y = torch.rand(7, 9), torch.arange(7)

    h = s(s(x @ first.weight.T + first.bias) @ second.weight.T + second.bias)
    logits = h @ model.readout.weight.T + model.readout.bias
    terms = model.loss(x, y)

    torch.testing.assert_close(model.encode(x), h)
    torch.testing.assert_close(model(x), logits)
    torch.testing.assert_close(terms["loss"], logits.logsumexp(dim=1) - logits[range(7), y])
    assert torch.equal(terms["error"], (logits.argmax(dim=1) != y).double())
    assert 0 < terms["error"].mean() <= 1


def test_a_classifier_without_layers_is_logistic_regression() -> None:
    """eq-pretraining-classifier."""
    model, x = Classifier(n_inputs=9, hidden=()), torch.rand(7, 9)
    torch.testing.assert_close(model(x), model.readout(x))
    uniform = torch.zeros(7, dtype=torch.int64)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    nats = torch.full((7,), math.log(10))
    torch.testing.assert_close(model.loss(x, uniform)["loss"], nats)


@pytest.mark.parametrize("activation", SQUASH)
def test_a_started_classifier_has_the_stacks_code(activation: str) -> None:
    """eq-pretraining-classifier, eq-pretraining-stack."""
    source, x = stack(activation), torch.rand(7, 9)
    model = Classifier(n_inputs=9, hidden=(6, 4), activation=activation)
    assert model.start_from(source.encoders) is model
    torch.testing.assert_close(model.encode(x), source.encode(x))


def test_training_leaves_what_the_classifier_was_started_from() -> None:
    source = stack()
    before = weights(source)
    model = Classifier(n_inputs=9, hidden=(6, 4)).start_from(source.encoders)
    fit(model, torch.rand(8, 9), y=torch.arange(8), epochs=2, lr=1e-2, **QUIET)
    assert same(weights(source), before)
    assert not torch.equal(model.layers[0].weight, source.encoders[0].weight)


def test_fewer_layers_than_there_are_start_the_lowest() -> None:
    source = stack()
    model = Classifier(n_inputs=9, hidden=(6, 4))
    second = weights(model.layers[1])
    model.start_from(source.encoders[:1])
    assert torch.equal(model.layers[0].weight, source.encoders[0].weight)
    assert same(weights(model.layers[1]), second)


@pytest.mark.parametrize("frozen", [True, False])
def test_freezing_leaves_only_the_read_out_to_train(frozen: bool) -> None:
    model = Classifier(n_inputs=9, hidden=(6, 4)).freeze().freeze(frozen)
    layers, readout = weights(model.layers), weights(model.readout)
    fit(model, torch.rand(8, 9), y=torch.arange(8), epochs=2, lr=1e-2, **QUIET)
    assert same(weights(model.layers), layers) == frozen
    assert not same(weights(model.readout), readout)


def test_fit_learns_separable_classes() -> None:
    """eq-pretraining-classifier."""
    y = torch.arange(90) % 3
    x = torch.eye(3)[y] + 0.1 * torch.randn(90, 3)
    model = Classifier(n_inputs=3, hidden=(8,), n_classes=3)
    history = fit(model, x, y=y, epochs=60, batch_size=30, lr=2e-2, **QUIET)
    assert history.train["error"][-1] == 0
    assert history.train["cross_entropy"][-1] < 0.1 < history.train["cross_entropy"][0]


def test_bad_sources_are_named() -> None:
    model = Classifier(n_inputs=9, hidden=(6,))
    with pytest.raises(ValueError, match="layers must be at most 1, got 2"):
        model.start_from(stack().encoders)
    with pytest.raises(
        ValueError, match=r"layers\[0\] must have a weight of \(6, 9\), got \(6, 8\)"
    ):
        model.start_from([nn.Linear(8, 6)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_inputs": 0}, "n_inputs must be a positive integer, got 0"),
        ({"n_classes": 0}, "n_classes must be a positive integer, got 0"),
        ({"hidden": (6, 0)}, r"hidden must be a tuple of positive integers.*, got \(6, 0\)"),
        ({"activation": "tanh"}, "activation must be one of 'relu', 'sigmoid'; got 'tanh'"),
    ],
)
def test_bad_arguments_of_the_classifier_are_named(
    arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Classifier(**({"n_inputs": 9, "hidden": (6,)} | arguments))


def test_bad_data_are_named() -> None:
    model = Classifier(n_inputs=9, hidden=(6,))
    with pytest.raises(ValueError, match=r"x must have shape \(\.\.\., 9\), got \(5, 8\)"):
        model.encode(torch.zeros(5, 8))
    with pytest.raises(ValueError, match="y must hold the labels of x, got None"):
        model.loss(torch.zeros(5, 9))
    with pytest.raises(TypeError, match=r"y must hold .* got torch\.float64; use y\.long\(\)"):
        model.loss(torch.zeros(5, 9), torch.zeros(5))


@pytest.mark.parametrize(
    "model",
    [
        StackedAutoencoder(n_inputs=9, hidden=(6, 4), activation="sigmoid", level=0.1),
        Classifier(n_inputs=9, hidden=(6, 4), n_classes=3, activation="sigmoid"),
    ],
    ids=["stack", "classifier"],
)
def test_models_come_back_from_a_file(model: nn.Module, tmp_path: Path) -> None:
    x = torch.rand(5, 9)
    aecore.save(model.double(), tmp_path / "model.safetensors")
    back = aecore.load_model(tmp_path / "model.safetensors")
    torch.testing.assert_close(back.encode(x), model.encode(x))
    assert back.activation == "sigmoid"
