"""Identities of aecore.models.linear and of PCA; derivations in book/linear.md."""

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd.functional import hessian

from aecore.evaluation import principal_angles
from aecore.models.linear import LinearAutoencoder

SPECTRUM = (4.0, 2.5, 1.5, 0.7, 0.4, 0.1)
ALL_SETS = [chosen for size in range(4) for chosen in combinations(range(6), size)]


def orthogonal(n: int) -> Tensor:
    return torch.linalg.qr(torch.randn(n, n)).Q


def designed(spectrum: tuple[float, ...], n: int = 60) -> tuple[Tensor, Tensor]:
    """Centred data whose covariance has these eigenvalues, and its eigenvectors as columns."""
    raw = torch.randn(n, len(spectrum))
    white = torch.linalg.qr(raw - raw.mean(dim=0)).Q * math.sqrt(n)
    axes = orthogonal(len(spectrum))
    return white * torch.tensor(spectrum).sqrt() @ axes.T, axes


def covariance(spectrum: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    axes = orthogonal(len(spectrum))
    return axes * torch.tensor(spectrum) @ axes.T, axes


def with_weights(w1: Tensor, w2: Tensor, lam: float = 0.0) -> LinearAutoencoder:
    """The model with the given weights and no biases."""
    model = LinearAutoencoder(n_inputs=w1.shape[1], n_latents=w1.shape[0], lam=lam)
    with torch.no_grad():
        model.encoder.weight.copy_(w1)
        model.decoder.weight.copy_(w2)
        model.encoder.bias.zero_()
        model.decoder.bias.zero_()
    return model


def mean_loss(model: LinearAutoencoder, x: Tensor) -> Tensor:
    return model.loss(x)["loss"].mean()


def to_optimum(model: LinearAutoencoder, x: Tensor) -> LinearAutoencoder:
    optimiser = torch.optim.LBFGS(
        model.parameters(),
        max_iter=2000,
        tolerance_grad=1e-11,
        tolerance_change=1e-16,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = mean_loss(model, x)
        loss.backward()
        return loss

    optimiser.step(closure)
    return model.requires_grad_(False)


def right_inverse(c: Tensor) -> Tensor:
    """A random b with c @ b = I."""
    b = torch.linalg.pinv(c)
    noise = torch.randn_like(b)
    return b + noise - b @ (c @ noise)


def close_after_iteration(actual: Tensor, expected: Tensor) -> None:
    """An iteration ends near its limit, its error the root of the loss's, hence 1e-5."""
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


# --- the model -----------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
def test_model_is_affine_map_to_code_and_back(tied: bool) -> None:
    """eq-linear-autoencoder."""
    model = LinearAutoencoder(n_inputs=5, n_latents=2, tied=tied)
    x = torch.randn(7, 5)
    w1, b1, b2 = model.encoder.weight, model.encoder.bias, model.decoder.bias
    w2 = w1.T if tied else model.decoder.weight

    h = torch.einsum("ld,nd->nl", w1, x) + b1
    torch.testing.assert_close(model.encode(x), h)
    torch.testing.assert_close(model.decode(h), torch.einsum("dl,nl->nd", w2, h) + b2)


@pytest.mark.parametrize("tied", [False, True])
def test_loss_is_error_plus_weighted_norms(tied: bool) -> None:
    """eq-linear-regularised, eq-linear-autoencoder."""
    model = LinearAutoencoder(n_inputs=5, n_latents=2, tied=tied, lam=0.3)
    x = torch.randn(7, 5)

    terms = model.loss(x)

    errors = [(x_i - model.decode(model.encode(x_i))).square().sum() for x_i in x]
    norms = sum(
        float(w.detach().square().sum()) for w in (model.encoder.weight, model.decoder_weight)
    )
    torch.testing.assert_close(terms["reconstruction"], torch.stack(errors))
    torch.testing.assert_close(terms["penalty"], torch.full((7,), norms))
    torch.testing.assert_close(terms["loss"], torch.stack(errors) + 0.3 * norms)


def test_tied_model_has_half_the_weights_and_both_uses_send_gradients() -> None:
    """eq-linear-tied, eq-linear-gradients."""
    untied = LinearAutoencoder(n_inputs=6, n_latents=3)
    tied = LinearAutoencoder(n_inputs=6, n_latents=3, tied=True)
    n_matrices = {m: sum(p.numel() for p in m.parameters() if p.ndim == 2) for m in (untied, tied)}
    assert n_matrices[tied] * 2 == n_matrices[untied] == 2 * 6 * 3

    x, _ = designed(SPECTRUM)
    w = torch.randn(3, 6)
    twin = with_weights(w, w.T)
    mean_loss(twin, x).backward()
    with torch.no_grad():
        tied.encoder.weight.copy_(w)
        tied.encoder.bias.zero_()
        tied.decoder.bias.zero_()
    mean_loss(tied, x).backward()
    torch.testing.assert_close(
        tied.encoder.weight.grad, twin.encoder.weight.grad + twin.decoder.weight.grad.T
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_inputs": 0, "n_latents": 2}, "n_inputs must be a positive integer, got 0"),
        ({"n_inputs": 4, "n_latents": -1}, "n_latents must be a positive integer, got -1"),
        ({"n_inputs": 4, "n_latents": 2, "lam": -0.1}, "lam must not be negative, got -0.1"),
        ({"n_inputs": 4, "n_latents": 2, "lam": math.nan}, "lam must not be negative, got nan"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, float], message: str) -> None:
    """eq-linear-regularised."""
    with pytest.raises(ValueError, match=message):
        LinearAutoencoder(**arguments)  # type: ignore[arg-type]


def test_wrong_widths_are_named() -> None:
    """eq-linear-autoencoder."""
    model = LinearAutoencoder(n_inputs=4, n_latents=2)
    with pytest.raises(ValueError, match=r"x must have shape \(\.\.\., 4\), got \(3, 5\)"):
        model.encode(torch.zeros(3, 5))
    with pytest.raises(ValueError, match=r"h must have shape \(\.\.\., 2\), got \(3, 4\)"):
        model.decode(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="x must have shape"):
        model.loss(torch.zeros(3, 2))


# --- least squares and the theorem of Eckart and Young -------------------------------------------


def test_biases_centre_and_best_encoder_projects() -> None:
    """eq-linear-trace, eq-linear-projection."""
    x, _ = designed(SPECTRUM)
    cov, mu = x.T @ x / len(x), torch.randn(6)
    model = LinearAutoencoder(n_inputs=6, n_latents=3)
    p = model.decoder_weight @ model.encoder.weight
    c = model.decode(model.encode(torch.zeros(6)))

    miss = torch.eye(6) - p
    trace = torch.trace(miss @ cov @ miss.T)
    torch.testing.assert_close(mean_loss(model, x + mu), trace + (miss @ mu - c).square().sum())

    v = torch.linalg.qr(model.decoder_weight).Q
    encoder_part = ((v @ v.T - p) @ x.T).square().sum() / len(x)
    torch.testing.assert_close(trace, torch.trace(cov) - torch.trace(v.T @ cov @ v) + encoder_part)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 7), st.integers(2, 7), st.integers(1, 6), st.integers(0, 2**31))
def test_truncation_beats_every_product(n: int, d: int, rank: int, seed: int) -> None:
    """eq-linear-eckart-young, eq-linear-weights."""
    rank = min(rank, min(n, d) - 1)
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(d, n, generator=g)
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    tail = s[rank:].square().sum()
    best = u[:, :rank] * s[:rank] @ vh[:rank]
    torch.testing.assert_close((x - best).square().sum(), tail)

    # a rival far away, one close by, and one whose encoder is the best for its decoder
    far = torch.randn(d, rank, generator=g) @ torch.randn(rank, n, generator=g)
    near_left = u[:, :rank] + 0.05 * torch.randn(d, rank, generator=g)
    near = near_left @ (s[:rank, None] * vh[:rank])
    frame = torch.linalg.qr(near_left).Q
    for rival in (far, near, frame @ (frame.T @ x)):
        assert (x - rival).square().sum() >= tail * (1 - 1e-12)

    full, eigenvalues = torch.linalg.svd(x).U, torch.zeros(d)
    eigenvalues[: len(s)] = s.square()
    w = (frame.T @ full).square().sum(dim=0)
    cut = eigenvalues[rank - 1]
    shortfall = eigenvalues[:rank].sum() - torch.trace(frame.T @ x @ x.T @ frame)
    by_weights = (eigenvalues[:rank] - cut) @ (1 - w[:rank]) + (cut - eigenvalues[rank:]) @ w[rank:]
    torch.testing.assert_close(shortfall, by_weights, rtol=1e-7, atol=1e-10)  # differences cancel


# --- the optima ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_training_finds_the_projector(seed: int) -> None:
    """eq-linear-optima, eq-linear-trace."""
    torch.manual_seed(seed)
    x, u = designed(SPECTRUM)
    mu = torch.randn(6)
    model = to_optimum(LinearAutoencoder(n_inputs=6, n_latents=3), x + mu)

    close_after_iteration(model.decoder_weight @ model.encoder.weight, u[:, :3] @ u[:, :3].T)
    close_after_iteration(model.decode(model.encode(mu)), mu)
    close_after_iteration(mean_loss(model, x + mu), torch.tensor(sum(SPECTRUM[3:])))


def test_encoder_is_free_on_the_null_space() -> None:
    """eq-linear-optima."""
    x, u = designed((4.0, 2.5, 1.5, 0.7, 0.0, 0.0))
    c, null = torch.randn(2, 2), torch.randn(2, 2) @ u[:, 4:].T
    model = with_weights(torch.linalg.inv(c) @ u[:, :2].T + null, u[:, :2] @ c)

    torch.testing.assert_close(mean_loss(model, x), torch.tensor(1.5 + 0.7))
    mean_loss(model, x).backward()
    for weight in (model.encoder.weight, model.decoder.weight):
        torch.testing.assert_close(weight.grad, torch.zeros_like(weight), rtol=0, atol=1e-11)
    product = (model.decoder_weight @ model.encoder.weight).detach()
    assert (product - u[:, :2] @ u[:, :2].T).norm() > 0.1


def test_invertible_matrix_changes_nothing() -> None:
    """eq-linear-gauge."""
    model = LinearAutoencoder(n_inputs=6, n_latents=3)
    twin = LinearAutoencoder(n_inputs=6, n_latents=3)
    a = torch.randn(3, 3)
    with torch.no_grad():
        twin.encoder.weight.copy_(a @ model.encoder.weight)
        twin.encoder.bias.copy_(a @ model.encoder.bias)
        twin.decoder.weight.copy_(model.decoder_weight @ torch.linalg.inv(a))
        twin.decoder.bias.copy_(model.decoder.bias)
    x = torch.randn(20, 6)

    torch.testing.assert_close(twin.decode(twin.encode(x)), model.decode(model.encode(x)))
    assert not torch.allclose(twin.encode(x), model.encode(x))
    angles = principal_angles(twin.decoder_weight, model.decoder_weight)
    torch.testing.assert_close(angles, torch.zeros(3), rtol=0, atol=1e-10)


def test_tied_optimum_has_orthonormal_columns() -> None:
    """eq-linear-tied."""
    x, u = designed(SPECTRUM)
    model = to_optimum(LinearAutoencoder(n_inputs=6, n_latents=3, tied=True), x + torch.randn(6))
    w = model.decoder_weight

    close_after_iteration(w.T @ w, torch.eye(3))
    close_after_iteration(w @ w.T, u[:, :3] @ u[:, :3].T)
    assert (w - u[:, :3] * (w * u[:, :3]).sum(dim=0).sign()).norm() > 0.1  # rotated


# --- the landscape -------------------------------------------------------------------------------


@pytest.mark.parametrize("chosen", ALL_SETS)
def test_critical_points(chosen: tuple[int, ...]) -> None:
    """eq-linear-critical, eq-linear-gradients."""
    x, u = designed(SPECTRUM)
    c = torch.randn(len(chosen), 3)
    model = with_weights(right_inverse(c) @ u[:, chosen].T, u[:, chosen] @ c)

    loss = mean_loss(model, x)
    loss.backward()

    left_out = sum(s for i, s in enumerate(SPECTRUM) if i not in chosen)
    torch.testing.assert_close(loss.detach(), torch.tensor(left_out))
    for weight in (model.encoder.weight, model.decoder.weight):
        torch.testing.assert_close(weight.grad, torch.zeros_like(weight), rtol=0, atol=1e-10)


def test_gradients_at_a_random_point() -> None:
    """eq-linear-gradients."""
    x, _ = designed(SPECTRUM)
    cov = x.T @ x / len(x)
    model = with_weights(torch.randn(3, 6), torch.randn(6, 3))
    mean_loss(model, x).backward()

    w1, w2 = model.encoder.weight.detach(), model.decoder.weight.detach()
    miss = torch.eye(6) - w2 @ w1
    torch.testing.assert_close(model.decoder.weight.grad, -2 * miss @ cov @ w1.T)
    torch.testing.assert_close(model.encoder.weight.grad, -2 * w2.T @ miss @ cov)


@pytest.mark.parametrize("chosen", [s for s in combinations(range(6), 3) if s != (0, 1, 2)])
def test_saddles_have_a_way_down(chosen: tuple[int, ...]) -> None:
    """eq-linear-descent."""
    x, u = designed(SPECTRUM)
    k = max(chosen)
    j = min(set(range(6)) - set(chosen))
    c, angle = torch.randn(3, 3), torch.tensor(0.3)
    v = u[:, chosen].clone()
    v[:, chosen.index(k)] = u[:, k] * angle.cos() + u[:, j] * angle.sin()

    start = sum(s for i, s in enumerate(SPECTRUM) if i not in chosen)
    model = with_weights(torch.linalg.inv(c) @ v.T, v @ c)
    expected = start - (SPECTRUM[j] - SPECTRUM[k]) * angle.sin() ** 2
    torch.testing.assert_close(mean_loss(model, x).detach(), expected)
    assert expected < start


@pytest.mark.parametrize("chosen", [(), (0,), (4,), (0, 1), (2, 5)])
def test_unused_units_have_a_way_down(chosen: tuple[int, ...]) -> None:
    """eq-linear-descent-unused."""
    x, u = designed(SPECTRUM)
    j = min(set(range(6)) - set(chosen))
    c = torch.randn(len(chosen), 3)
    b, t = right_inverse(c), 0.2
    q = torch.linalg.svd(c).Vh[-1]
    p = q - (b @ c).T @ q
    w1 = b @ u[:, chosen].T + t * torch.outer(q, u[:, j])
    w2 = u[:, chosen] @ c + t * torch.outer(u[:, j], p)

    start = sum(s for i, s in enumerate(SPECTRUM) if i not in chosen)
    expected = torch.tensor(start - (2 * t**2 - t**4) * SPECTRUM[j])
    torch.testing.assert_close(mean_loss(with_weights(w1, w2), x).detach(), expected)


@pytest.mark.parametrize("chosen", list(combinations(range(4), 2)))
def test_hessian_signature(chosen: tuple[int, ...]) -> None:
    """eq-linear-hessian."""
    cov, u = covariance((3.0, 2.0, 1.0, 0.5))
    c = torch.randn(2, 2)

    def loss(flat: Tensor) -> Tensor:
        miss = torch.eye(4) - flat[8:].reshape(4, 2) @ flat[:8].reshape(2, 4)
        return torch.trace(miss @ cov @ miss.T)

    w1, w2 = torch.linalg.inv(c) @ u[:, chosen].T, u[:, chosen] @ c
    values = torch.linalg.eigvalsh(hessian(loss, torch.cat([w1.flatten(), w2.flatten()])))
    tiny = 1e-10 * values.abs().max()
    n_negative = sum(i - m for m, i in enumerate(chosen))
    assert int((values < -tiny).sum()) == n_negative
    assert int((values.abs() <= tiny).sum()) == 2**2
    assert int((values > tiny).sum()) == 2 * 4 * 2 - 2**2 - n_negative


# --- the penalty ---------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 2**31))
def test_penalty_bounds_nuclear_norm(n_latents: int, d: int, seed: int) -> None:
    """eq-linear-nuclear."""
    g = torch.Generator().manual_seed(seed)
    w1, w2 = torch.randn(n_latents, d, generator=g), torch.randn(d, n_latents, generator=g)
    u, s, vh = torch.linalg.svd(w2 @ w1, full_matrices=False)
    penalty = with_weights(w1, w2).loss(torch.zeros(1, d))["penalty"][0].detach()
    assert penalty >= 2 * s.sum() * (1 - 1e-12)

    r = min(n_latents, d)
    q = torch.linalg.qr(torch.randn(n_latents, n_latents, generator=g)).Q[:, :r]
    root = s[:r].sqrt()
    balanced = with_weights(q * root @ vh[:r], u[:, :r] * root @ q.T)
    penalty = balanced.loss(torch.zeros(1, d))["penalty"][0].detach()
    torch.testing.assert_close(penalty, 2 * s[:r].sum())


@pytest.mark.parametrize("lam", [0.05, 0.3, 1.0])
def test_regularised_optimum(lam: float) -> None:
    """eq-linear-shrinkage, eq-linear-regularised."""
    x, u = designed(SPECTRUM)
    model = to_optimum(LinearAutoencoder(n_inputs=6, n_latents=3, lam=lam), x + torch.randn(6))
    w2 = model.decoder_weight

    close_after_iteration(model.encoder.weight, w2.T)
    left, s, _ = torch.linalg.svd(w2, full_matrices=False)
    leading = torch.tensor(SPECTRUM[:3])
    close_after_iteration(s, (1 - lam / leading).sqrt())
    close_after_iteration((left * u[:, :3]).sum(dim=0).abs(), torch.ones(3))
    best = sum(SPECTRUM) - ((leading - lam).square() / leading).sum()
    x0 = x - x.mean(dim=0)  # the biases absorb the mean: the minimum does not depend on it
    centred = with_weights(model.encoder.weight, w2, lam)
    close_after_iteration(mean_loss(centred, x0).detach(), best)
    match = ((w2 / w2.norm(dim=0)).T @ u).abs().amax(dim=1)
    assert match.min() < 0.95  # columns are no axes


def test_strong_penalty_switches_weak_directions_off() -> None:
    """eq-linear-shrinkage."""
    x, _ = designed(SPECTRUM)
    model = to_optimum(LinearAutoencoder(n_inputs=6, n_latents=3, lam=2.0), x)
    s = torch.linalg.svdvals(model.decoder_weight)
    close_after_iteration(s, torch.tensor([(1 - 2 / 4.0) ** 0.5, (1 - 2 / 2.5) ** 0.5, 0.0]))


# --- angles --------------------------------------------------------------------------------------


def test_principal_angles_of_known_rotations() -> None:
    """eq-linear-rotation."""
    u = orthogonal(6)
    angles = torch.tensor([0.9, 0.4, 1e-5])  # the last is lost to rounding if taken as arccos
    turned = u[:, :3] * angles.cos() + u[:, 3:] * angles.sin()
    mixed = turned @ torch.randn(3, 3)  # another basis of the same space
    torch.testing.assert_close(principal_angles(mixed, u[:, :3]), angles, rtol=1e-7, atol=1e-10)

    x, u = designed(SPECTRUM)
    theta = torch.tensor(0.2)
    v = u[:, :3].clone()
    v[:, 2] = u[:, 2] * theta.cos() + u[:, 3] * theta.sin()
    excess = mean_loss(with_weights(v.T, v), x).detach() - sum(SPECTRUM[3:])
    torch.testing.assert_close(excess, (SPECTRUM[2] - SPECTRUM[3]) * theta.sin() ** 2)


def test_principal_angles_need_matrices_of_equal_height() -> None:
    """eq-linear-angle."""
    with pytest.raises(ValueError, match=r"same number of rows, got \(4, 2\) and \(5, 2\)"):
        principal_angles(torch.eye(4)[:, :2], torch.eye(5)[:, :2])
    with pytest.raises(ValueError, match="must be matrices"):
        principal_angles(torch.ones(4), torch.eye(4))


@settings(max_examples=40, deadline=None)
@given(st.floats(0.01, 3.0), st.integers(0, 2**31))
def test_error_bounds_angles(size: float, seed: int) -> None:
    """eq-linear-angle."""
    g = torch.Generator().manual_seed(seed)
    spectrum = torch.tensor(SPECTRUM)
    noise = torch.randn(6, 3, generator=g)
    v = torch.linalg.qr(torch.eye(6)[:, :3] + size * noise).Q
    sines = principal_angles(v, torch.eye(6)[:, :3]).sin().square().sum()
    root = spectrum.sqrt().diag() * math.sqrt(6)  # six examples with covariance diag(spectrum)
    excess = mean_loss(with_weights(v.T, v), root).detach() - sum(SPECTRUM[3:])
    assert (SPECTRUM[2] - SPECTRUM[3]) * sines <= excess + 1e-12
    assert excess <= (SPECTRUM[0] - SPECTRUM[-1]) * sines + 1e-12


def test_probabilistic_pca_likelihood() -> None:
    """eq-linear-ppca."""
    x, u = designed(SPECTRUM)
    leading, noise = torch.tensor(SPECTRUM[:2]), torch.tensor(SPECTRUM[2:]).mean()

    def likelihood(w: Tensor, variance: Tensor) -> Tensor:
        cov = w @ w.T + variance * torch.eye(6)
        density = torch.distributions.MultivariateNormal(torch.zeros(6), cov)
        return density.log_prob(x).mean()

    w = (u[:, :2] * (leading - noise).sqrt() @ orthogonal(2)).requires_grad_()
    variance = noise.clone().requires_grad_()
    ell = likelihood(w, variance)
    logs = leading.log().sum() + 4 * noise.log()
    expected = -0.5 * (6 * math.log(2 * math.pi) + logs + 6)
    torch.testing.assert_close(ell.detach(), expected)

    for gradient in torch.autograd.grad(ell, (w, variance)):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-11)
    for _ in range(200):
        rival = likelihood(
            w.detach() + 0.3 * torch.randn(6, 2), noise * (0.3 * torch.randn(())).exp()
        )
        assert rival < expected
