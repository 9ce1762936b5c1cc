"""Identities of aecore.models.sparse; derivations in book/sparse.md."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import aecore
from aecore.divergences import bernoulli_kl
from aecore.losses import bernoulli_nll, squared_error
from aecore.models.sparse import (
    SparseAutoencoder,
    TopKAutoencoder,
    revive,
    soft_threshold,
    sparsity_penalty,
    top_k,
)
from aecore.training import fit

DISTANCES = {"bernoulli": bernoulli_nll, "gaussian": squared_error}
Model = SparseAutoencoder | TopKAutoencoder


def stirred(model: Model) -> Model:
    """The model in float64, with random biases and columns of many lengths."""
    for layer in (model.encoder, model.decoder):
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
    return model.double()


def sparse(penalty: str = "l1", *, likelihood: str = "gaussian", **how: float) -> SparseAutoencoder:
    how = {"lam": 0.3, "rho": 0.1} | how
    sizes = {"n_inputs": 9, "n_latents": 5}
    return stirred(SparseAutoencoder(**sizes, penalty=penalty, likelihood=likelihood, **how))


def topk(k: int = 2, likelihood: str = "gaussian") -> TopKAutoencoder:
    return stirred(TopKAutoencoder(n_inputs=9, n_latents=5, k=k, likelihood=likelihood))


# the objective


@pytest.mark.parametrize("likelihood", DISTANCES)
def test_l1_loss_written_out(likelihood: str) -> None:
    """eq-sparse-objective."""
    model, x = sparse(likelihood=likelihood), torch.rand(7, 9)
    (w, b), (d, c) = ((layer.weight, layer.bias) for layer in (model.encoder, model.decoder))
    h = F.relu(x @ w.T + b)

    terms = model.loss(x)

    torch.testing.assert_close(model.encode(x), h)
    torch.testing.assert_close(terms["reconstruction"], DISTANCES[likelihood](h @ d.T + c, x))
    torch.testing.assert_close(terms["penalty"], h.sum(dim=1))
    torch.testing.assert_close(terms["loss"], terms["reconstruction"] + 0.3 * h.sum(dim=1))
    assert (h == 0).any()
    assert (h > 0).any()


@pytest.mark.parametrize("likelihood", DISTANCES)
def test_kl_loss_written_out(likelihood: str) -> None:
    """eq-sparse-objective, eq-sparse-bernoulli-kl."""
    model, x = sparse("kl", likelihood=likelihood), torch.rand(7, 9)
    (w, b), (d, c) = ((layer.weight, layer.bias) for layer in (model.encoder, model.decoder))
    h = torch.sigmoid(x @ w.T + b)
    kl = bernoulli_kl(0.1, h.mean(dim=0)).sum()

    terms = model.loss(x)

    torch.testing.assert_close(model.encode(x), h)
    torch.testing.assert_close(terms["reconstruction"], DISTANCES[likelihood](h @ d.T + c, x))
    torch.testing.assert_close(terms["penalty"], kl.expand(7))
    torch.testing.assert_close(terms["loss"], terms["reconstruction"] + 0.3 * kl)


def test_l1_penalty_belongs_to_the_example_and_kl_to_the_batch() -> None:
    """eq-sparse-objective."""
    x = torch.rand(6, 9)
    for penalty, own in (("l1", True), ("kl", False)):
        model = sparse(penalty)
        alone = torch.cat([model.loss(row[None])["penalty"] for row in x])
        assert torch.allclose(model.loss(x)["penalty"], alone) is own


def test_more_penalty_makes_a_sparser_code() -> None:
    """eq-sparse-objective."""
    x = torch.rand(128, 9)
    active = []
    for lam in (0.0, 0.5):
        torch.manual_seed(1)
        model = SparseAutoencoder(n_inputs=9, n_latents=12, lam=lam, likelihood="gaussian")
        fit(model.double(), x, epochs=40, batch_size=16, lr=1e-2, device="cpu", progress=False)
        active.append((model.encode(x) > 0).double().mean().item())
    assert active[1] < 0.6 * active[0]


# soft threshold


@pytest.mark.parametrize("threshold", [0.0, 0.3, 1.7])
def test_soft_threshold_minimises_its_objective(threshold: float) -> None:
    """eq-sparse-soft-threshold."""
    a = 2 * torch.randn(50)
    grid = torch.linspace(-8, 8, 16001)
    costs = (a[:, None] - grid).square() + 2 * threshold * grid.abs()

    h = soft_threshold(a, threshold)

    # the grid's step is 1e-3, and its best point lies within a step of the true one
    torch.testing.assert_close(h, grid[costs.argmin(dim=1)], atol=1e-3, rtol=0.0)
    own = (a - h).square() + 2 * threshold * h.abs()
    assert (own <= costs.min(dim=1).values + 1e-12).all()


def test_soft_threshold_is_torchs() -> None:
    """eq-sparse-soft-threshold."""
    a = 2 * torch.randn(50)
    torch.testing.assert_close(soft_threshold(a, 0.7), F.softshrink(a, 0.7))


@given(seed=st.integers(0, 2**31 - 1), threshold=st.floats(0, 3))
@settings(max_examples=30, deadline=None)
def test_soft_threshold_is_odd_and_never_expands(seed: int, threshold: float) -> None:
    """eq-sparse-soft-threshold."""
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, 20, generator=generator, dtype=torch.float64)

    torch.testing.assert_close(soft_threshold(-a, threshold), -soft_threshold(a, threshold))
    moved = (soft_threshold(a, threshold) - soft_threshold(b, threshold)).abs()
    assert (moved <= (a - b).abs() + 1e-12).all()


def test_soft_threshold_refuses_a_negative_threshold() -> None:
    with pytest.raises(ValueError, match="threshold must not be negative, got -0.1"):
        soft_threshold(torch.zeros(2), -0.1)


# the Bernoulli KL


@pytest.mark.parametrize("rho", [0.005, 0.05, 0.5, 0.9])
def test_sparsity_penalty_is_the_kl_of_the_mean_activity(rho: float) -> None:
    """eq-sparse-bernoulli-kl, eq-sparse-kl-gradient."""
    a = 3 * torch.randn(11, 4)
    expected = bernoulli_kl(rho, a.sigmoid().mean(dim=0))
    torch.testing.assert_close(sparsity_penalty(a, rho), expected)


@pytest.mark.parametrize("rho", [0.005, 0.05, 0.5])
def test_gradient_with_respect_to_the_pre_activation(rho: float) -> None:
    """eq-sparse-kl-gradient."""
    a = (3 * torch.randn(11, 4)).requires_grad_()
    sparsity_penalty(a, rho).sum().backward()

    h = a.detach().sigmoid()
    rho_hat = h.mean(dim=0)
    slope = -rho / rho_hat + (1 - rho) / (1 - rho_hat)
    torch.testing.assert_close(a.grad, slope * h * (1 - h) / 11)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_value_and_gradient_stay_finite_where_the_sigmoid_rounds(sign: float) -> None:
    """eq-sparse-kl-gradient: a silent unit is pushed by -rho, a saturated one by 1 - rho."""
    a = torch.full((8, 1), sign * 200.0, dtype=torch.float32, requires_grad=True)
    kl = sparsity_penalty(a, 0.05)
    kl.sum().backward()

    naive = bernoulli_kl(0.05, a.detach().sigmoid().mean(dim=0))
    assert naive.isinf().all()
    weight, constant = (0.05, math.log(0.95)) if sign < 0 else (0.95, math.log(0.05))
    expected = weight * (math.log(weight) + 200) + (1 - weight) * constant
    # float32: seven digits
    torch.testing.assert_close(kl.item(), expected, rtol=1e-6, atol=0.0)
    torch.testing.assert_close(a.grad.sum().item(), sign * weight, rtol=1e-5, atol=0.0)


def test_penalty_stays_finite_for_saturated_units_in_the_model() -> None:
    for momentum in (0.0, 0.9):
        model = SparseAutoencoder(
            n_inputs=9, n_latents=5, penalty="kl", lam=1.0, rho=0.05, momentum=momentum
        ).float()
        with torch.no_grad():
            model.encoder.bias.copy_(torch.tensor([-300.0, -90.0, 0.0, 20.0, 300.0]))
        for _ in range(3):
            model.zero_grad()
            terms = model.loss(torch.rand(7, 9, dtype=torch.float32))
            terms["loss"].mean().backward()
            model.after_step()
            assert all(term.isfinite().all() for term in terms.values())
            assert all(p.grad.isfinite().all() for p in model.parameters())


# the running average


def test_running_average_is_the_plain_mean_first_and_exponential_after() -> None:
    """The book's running average of rho_hat, and the KL of it."""
    model, momentum = sparse("kl", momentum=0.75), 0.75
    batches = torch.rand(9, 7, 9)
    rates = [model.encode(x).mean(dim=0) for x in batches]
    average = torch.zeros(5)
    for step, (x, rate) in enumerate(zip(batches, rates, strict=True)):
        new = max(1 / (step + 1), 1 - momentum)
        average = (1 - new) * average + new * rate
        penalty = model.loss(x)["penalty"]
        torch.testing.assert_close(penalty, bernoulli_kl(0.1, average).sum().expand(7))
        model.after_step()
        if step < 4:
            torch.testing.assert_close(average, torch.stack(rates[: step + 1]).mean(dim=0))
    torch.testing.assert_close(model.log_rates[0].exp(), average)
    torch.testing.assert_close(model.log_rates[1].exp(), 1 - average)


def test_running_averages_gradient_keeps_the_batchs_length() -> None:
    """eq-sparse-kl-gradient: the average's slope times the batch's mean activity's gradient."""
    model = sparse("kl", momentum=0.9)
    for x in torch.rand(4, 7, 9):
        model.loss(x)
        model.after_step()
    x = torch.rand(6, 9)
    model.zero_grad()
    model.loss(x)["penalty"][0].backward()
    model.after_step()

    r = model.log_rates[0].exp()
    h = model.encode(x).detach()
    by_a = (-0.1 / r + 0.9 / (1 - r)) * h * (1 - h) / 6
    torch.testing.assert_close(model.encoder.bias.grad, by_a.sum(dim=0).detach())


def test_running_average_moves_in_after_step_only_and_stands_still_in_evaluation() -> None:
    model = sparse("kl", momentum=0.9)
    x, other = torch.rand(2, 7, 9)
    model.loss(x)
    model.after_step()
    trained = model.loss(other)["penalty"]
    torch.testing.assert_close(model.loss(other)["penalty"], trained)  # nothing moved

    model.eval()
    expected = bernoulli_kl(0.1, model.encode(x).mean(dim=0)).sum()
    torch.testing.assert_close(model.loss(other)["penalty"], expected.expand(7))
    assert model.n_updates == 1


# scales


@pytest.mark.parametrize("likelihood", DISTANCES)
@pytest.mark.parametrize("kind", [sparse, topk])
def test_after_step_makes_unit_columns_and_changes_no_output(kind: object, likelihood: str) -> None:
    """eq-sparse-rescaling."""
    model, x = kind(likelihood=likelihood), torch.rand(7, 9)
    before, code = model.decode(model.encode(x)), model.encode(x)
    norms = model.decoder.weight.norm(dim=0).detach()

    model.after_step()

    torch.testing.assert_close(model.decoder.weight.norm(dim=0), torch.ones(5))
    torch.testing.assert_close(model.decode(model.encode(x)), before)
    torch.testing.assert_close(model.encode(x), code * norms)
    assert (norms - 1).abs().min() > 0.1


def test_without_it_the_penalty_can_be_shrunk_for_nothing() -> None:
    """eq-sparse-rescaling: reconstruction the same, penalty divided by the factor."""
    model, x = sparse(), torch.rand(7, 9)
    before = model.loss(x)
    with torch.no_grad():
        model.encoder.weight /= 100
        model.encoder.bias /= 100
        model.decoder.weight *= 100
    after = model.loss(x)
    torch.testing.assert_close(after["reconstruction"], before["reconstruction"])
    torch.testing.assert_close(after["penalty"], before["penalty"] / 100)


def test_fit_keeps_the_columns_at_norm_one() -> None:
    """eq-sparse-rescaling."""
    for model in (sparse(), topk()):
        x = torch.rand(32, 9)
        fit(model, x, epochs=2, batch_size=8, lr=1e-2, device="cpu", progress=False)
        torch.testing.assert_close(model.decoder.weight.norm(dim=0), torch.ones(5))


def test_sigmoid_codes_are_not_rescaled() -> None:
    model = sparse("kl")
    before = model.decoder.weight.clone()
    model.after_step()
    torch.testing.assert_close(model.decoder.weight, before)


# TopK


@pytest.mark.parametrize("k", [1, 3, 6])
def test_top_k_keeps_the_k_longest_contributions(k: int) -> None:
    """eq-sparse-top-k."""
    h, scale = torch.randn(20, 6), 3 * torch.rand(6)
    kept = top_k(h, k, scale)
    for row, thin in zip(h, kept, strict=True):
        order = sorted(range(6), key=lambda j: -abs(row[j].item()) * scale[j].item())
        expected = torch.zeros(6)
        expected[order[:k]] = row[order[:k]]
        torch.testing.assert_close(thin, expected)


def test_gradient_flows_through_the_kept_alone() -> None:
    """eq-sparse-top-k."""
    h, weight = torch.randn(8, 6, requires_grad=True), torch.randn(8, 6)
    scale = torch.rand(6, requires_grad=True)
    kept = top_k(h, 2, scale)
    (kept * weight).sum().backward()
    torch.testing.assert_close(h.grad, weight * (kept != 0))
    assert ((h.grad != 0).sum(dim=1) == 2).all()
    assert scale.grad is None


def test_choice_does_not_drift_with_the_decoders_norms() -> None:
    """eq-sparse-top-k, eq-sparse-rescaling: units in other measures are the same model.

    A known fault in public code: TopK by raw activations prefers units with short columns.
    """
    model, x = topk(), torch.rand(50, 9)
    before = model.decode(model.encode(x))
    factor = torch.tensor([0.01, 100.0, 1.0, 7.0, 0.2])
    by_activation = top_k(F.relu(model.encoder(x)), 2) > 0
    with torch.no_grad():
        model.encoder.weight *= factor[:, None]
        model.encoder.bias *= factor
        model.decoder.weight /= factor
    torch.testing.assert_close(model.decode(model.encode(x)), before)
    assert ((top_k(F.relu(model.encoder(x)), 2) > 0) != by_activation).any()


@pytest.mark.parametrize("likelihood", DISTANCES)
def test_topk_loss_written_out(likelihood: str) -> None:
    """eq-sparse-top-k."""
    model, x = topk(k=3, likelihood=likelihood), torch.rand(7, 9)
    h = F.relu(x @ model.encoder.weight.T + model.encoder.bias)
    h = top_k(h, 3, model.decoder.weight.norm(dim=0))
    out = h @ model.decoder.weight.T + model.decoder.bias
    terms = model.loss(x)
    torch.testing.assert_close(model.encode(x), h)
    torch.testing.assert_close(terms["reconstruction"], DISTANCES[likelihood](out, x))
    torch.testing.assert_close(terms["loss"], terms["reconstruction"])
    assert ((h > 0).sum(dim=1) <= 3).all()


def test_k_as_wide_as_the_code_is_a_plain_relu_autoencoder() -> None:
    """eq-sparse-top-k."""
    model, x = topk(k=5), torch.rand(7, 9)
    torch.testing.assert_close(model.encode(x), F.relu(model.encoder(x)))


@given(n_examples=st.integers(1, 6), seed=st.integers(0, 2**31 - 1))
@settings(max_examples=30, deadline=None)
def test_code_of_an_example_does_not_depend_on_its_batch(n_examples: int, seed: int) -> None:
    torch.manual_seed(seed)
    x = torch.rand(n_examples, 9, dtype=torch.float64)
    for model in (topk(), sparse(), sparse("kl")):
        alone = torch.cat([model.encode(row[None]) for row in x])
        torch.testing.assert_close(model.encode(x), alone)


def test_both_start_with_unit_columns_and_their_transpose() -> None:
    sizes = {"n_inputs": 9, "n_latents": 5}
    for model in (SparseAutoencoder(**sizes, lam=0.1), TopKAutoencoder(**sizes, k=2)):
        columns = model.decoder.weight
        torch.testing.assert_close(columns.norm(dim=0), torch.ones(5, dtype=columns.dtype))
        torch.testing.assert_close(model.encoder.weight, columns.T)


# dead units


def with_dead_units(model: Model) -> Model:
    with torch.no_grad():
        model.encoder.bias[[1, 3]] = -1e3
    return model


@pytest.mark.parametrize("likelihood", DISTANCES)
def test_revived_units_fire_and_halve_the_residual_of_an_example(likelihood: str) -> None:
    """eq-sparse-revive."""
    model, x = with_dead_units(sparse(likelihood=likelihood)), torch.rand(30, 9)
    out = model.decode(model.encode(x))
    residual = (x - (out.sigmoid() if likelihood == "bernoulli" else out)).detach()

    units = revive(model, x)

    assert units.tolist() == [1, 3]
    h = model.encode(x).detach()
    for unit in units:
        column = model.decoder.weight[:, unit].detach()
        aim = (residual @ column / residual.norm(dim=1)).argmax()
        torch.testing.assert_close(column, residual[aim] / residual[aim].norm())
        torch.testing.assert_close(h[aim, unit], residual[aim].norm() / 2)
        left = residual[aim] - h[aim, unit] * column
        torch.testing.assert_close(left.square().sum(), residual[aim].square().sum() / 4)


def test_revive_leaves_the_living_alone() -> None:
    """eq-sparse-revive."""
    model, x = with_dead_units(sparse()), torch.rand(30, 9)
    living, before = [0, 2, 4], model.encode(x)
    columns = model.decoder.weight[:, living].clone()
    revive(model, x)
    torch.testing.assert_close(model.encode(x)[:, living], before[:, living])
    torch.testing.assert_close(model.decoder.weight[:, living], columns)
    assert revive(model, x).tolist() == []


def test_revive_draws_badly_reconstructed_examples_more_often() -> None:
    """eq-sparse-revive: in proportion to the squared residual."""
    model = TopKAutoencoder(n_inputs=2, n_latents=400, k=1, likelihood="gaussian").double()
    with torch.no_grad():
        model.encoder.bias.fill_(-1e3)
        model.decoder.bias.zero_()
    x = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    revive(model, x, torch.Generator().manual_seed(0))
    second = (model.decoder.weight[1] == 1).double().mean()
    # a share of 9/10 of 400 draws
    assert (second - 0.9).abs() < 5 * math.sqrt(0.9 * 0.1 / 400)


def test_revive_is_reproducible_and_for_relu_codes_only() -> None:
    x, states = torch.rand(30, 9), []
    for _ in range(2):
        torch.manual_seed(3)
        model = with_dead_units(topk())
        revive(model, x, torch.Generator().manual_seed(1))
        states.append(model.decoder.weight)
    torch.testing.assert_close(states[0], states[1])
    with pytest.raises(ValueError, match='model has a sigmoid code, penalty="kl"'):
        revive(sparse("kl"), x)


# the contract


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_trained_model_is_saved_and_read_whole(tmp_path: object, momentum: float) -> None:
    model = sparse("kl", momentum=momentum)
    fit(model, torch.rand(32, 9), epochs=2, batch_size=8, device="cpu", progress=False)
    aecore.save(model, tmp_path / "model.safetensors")
    read = aecore.load_model(tmp_path / "model.safetensors").eval()
    x = torch.rand(7, 9)
    assert (read.lam, read.rho, read.momentum, read.penalty) == (0.3, 0.1, momentum, "kl")
    torch.testing.assert_close(read.loss(x), model.eval().loss(x))


def test_shapes() -> None:
    x: Tensor = torch.rand(4, 9)
    for model in (sparse(), sparse("kl"), sparse("kl", momentum=0.9), topk()):
        assert model.encode(x).shape == (4, 5)
        assert model.decode(model.encode(x)).shape == (4, 9)
        assert {term.shape for term in model.loss(x, torch.arange(4)).values()} == {(4,)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_latents": 0}, "n_latents must be a positive integer, got 0"),
        ({"penalty": "l2"}, "penalty must be one of 'l1', 'kl'; got 'l2'"),
        ({"likelihood": "poisson"}, "likelihood must be one of 'bernoulli', 'gaussian'"),
        ({"lam": -0.1}, "lam must be finite and not negative, got -0.1; 0 is no penalty"),
        ({"lam": math.nan}, "lam must be finite and not negative, got nan"),
        ({"rho": 0.0}, "rho must lie strictly between 0 and 1, got 0.0"),
        ({"rho": 1.0}, "rho must lie strictly between 0 and 1, got 1.0"),
        ({"momentum": 1.0, "penalty": "kl"}, r"momentum must lie in \[0, 1\), got 1.0; 0 estim"),
        ({"momentum": -0.5, "penalty": "kl"}, r"momentum must lie in \[0, 1\), got -0.5"),
        ({"momentum": 0.9}, 'momentum is for penalty="kl"; with "l1" leave it 0, got 0.9'),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SparseAutoencoder(**({"n_inputs": 9, "n_latents": 5, "lam": 0.1} | arguments))


def test_k_beyond_the_code_is_refused_with_both_numbers() -> None:
    with pytest.raises(ValueError, match="k must be at most n_latents, got k = 6 and n_latents ="):
        TopKAutoencoder(n_inputs=9, n_latents=5, k=6)
    with pytest.raises(ValueError, match="got k = 7 and n_latents = 6"):
        top_k(torch.zeros(2, 6), 7)
    with pytest.raises(ValueError, match="k must be a positive integer, got 0"):
        TopKAutoencoder(n_inputs=9, n_latents=5, k=0)


def test_penalty_refuses_a_rho_outside_the_open_interval() -> None:
    with pytest.raises(ValueError, match="rho must lie strictly between 0 and 1, got 1.5"):
        sparsity_penalty(torch.zeros(2, 3), 1.5)


@pytest.mark.parametrize("model", [sparse(), sparse("kl"), topk()])
def test_wrong_widths_are_named(model: Model) -> None:
    with pytest.raises(ValueError, match=r"x must have shape \(\.\.\., 9\), got \(5, 8\)"):
        model.encode(torch.zeros(5, 8))
    with pytest.raises(ValueError, match=r"x must have shape \(\.\.\., 9\), got \(5, 8\)"):
        model.loss(torch.zeros(5, 8))
    with pytest.raises(ValueError, match=r"h must have shape \(\.\.\., 5\), got \(5, 3\)"):
        model.decode(torch.zeros(5, 3))
