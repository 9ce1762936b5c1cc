"""fit: one loop, reproducible, resumable, and plain about what went wrong."""

import io
import math
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
from torch import Tensor, nn

from aecore.data import Images
from aecore.models.linear import LinearAutoencoder
from aecore.models.undercomplete import Autoencoder
from aecore.models.vae import VAE
from aecore.training import History, choose_device, fit

IMAGES = Images(torch.rand(50, 6), torch.zeros(50), (1, 2, 3))


class Mean(nn.Module):
    """One parameter, fitted to the data's mean; `terms` may be swapped to break the contract."""

    def __init__(self) -> None:
        super().__init__()
        self.centre = nn.Parameter(torch.zeros(1))
        self.steps = 0

    def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        loss = (x - self.centre).square().sum(dim=1)
        return {"loss": loss, "label": loss.detach() * 0 if y is None else y.to(loss)}

    def after_step(self) -> None:
        self.steps += 1


def weights(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def train_vae(**kwargs: object) -> tuple[VAE, History]:
    torch.manual_seed(3)
    model = VAE(n_inputs=6, n_latents=2, hidden=(5,))
    x = torch.rand(50, 6, generator=torch.Generator().manual_seed(1))
    arguments = {"epochs": 3, "batch_size": 16, "transform": torch.bernoulli, "device": "cpu"}
    history = fit(model, x, **(arguments | kwargs))
    return model, history


def test_fit_finds_the_least_squares_solution() -> None:
    x = torch.randn(200, 1) + 3
    model = Mean()
    fit(model, x, epochs=60, batch_size=50, lr=0.2, device="cpu")
    torch.testing.assert_close(model.centre.item(), x.mean().item(), rtol=1e-3, atol=0)


def test_same_call_gives_the_same_bits() -> None:
    first, one = train_vae()
    second, two = train_vae()
    assert all(map(torch.equal, weights(first), weights(second)))
    assert one.train == two.train


def test_callers_random_state_is_untouched() -> None:
    x = torch.rand(20, 6)
    model = VAE(n_inputs=6, n_latents=2)
    before = torch.get_rng_state()
    fit(model, x, epochs=2, device="cpu")
    assert torch.equal(before, torch.get_rng_state())


def test_another_seed_gives_other_weights() -> None:
    first, _ = train_vae(seed=0)
    second, _ = train_vae(seed=1)
    assert not torch.equal(weights(first)[0], weights(second)[0])


def test_a_validation_set_or_a_callback_that_draws_noise_changes_nothing() -> None:
    plain, _ = train_vae()
    watched, _ = train_vae(valid=torch.rand(9, 6), on_epoch=lambda *_: torch.randn(3).isnan().any())
    assert all(map(torch.equal, weights(plain), weights(watched)))


def test_history_holds_means_over_examples_not_over_batches() -> None:
    # 5 examples in batches of 4: the mean of batch means would weigh the last example fourfold
    x = torch.tensor([[0.0], [0.0], [0.0], [0.0], [10.0]])
    history = fit(Mean(), x, epochs=1, batch_size=4, lr=1e-12, valid=x, device="cpu")
    assert history.train["loss"][0] == pytest.approx(20.0)
    assert history.valid["loss"][0] == pytest.approx(20.0)


def test_validation_batches_are_weighted_by_their_size() -> None:
    x = torch.zeros(1025, 1)
    x[-1] = 1025**0.5  # alone in the second batch of 1,024
    history = fit(Mean(), torch.zeros(4, 1), epochs=1, lr=1e-12, valid=x, device="cpu")
    assert history.valid["loss"][0] == pytest.approx(1.0)


def test_gradient_is_the_mean_over_the_batch() -> None:
    # plain gradient descent: centre moves by lr · mean of 2 (x − centre), whatever the batch size
    for n in (2, 200):
        model = Mean()
        x = torch.ones(n, 1)
        fit(model, x, epochs=1, batch_size=n, schedule="constant", device="cpu",
            optimizer=lambda p: torch.optim.SGD(p, lr=0.1))  # fmt: skip
        assert model.centre.item() == pytest.approx(0.2)


def test_labels_travel_with_their_examples() -> None:
    seen = []

    class Watch(Mean):
        def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
            seen.append((x[:, 0], y))
            return super().loss(x, y)

    x = torch.arange(10.0)[:, None]
    fit(Watch(), x, y=torch.arange(10), epochs=1, batch_size=3, device="cpu")
    assert all(torch.equal(a.long(), b) for a, b in seen)
    assert sorted(torch.cat([b for _, b in seen]).tolist()) == list(range(10))


def test_transform_is_fresh_each_epoch_and_kept_from_validation() -> None:
    seen = []

    class Watch(Mean):
        def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
            seen.append((self.training, x.clone()))
            return super().loss(x, y)

    x = torch.full((400, 1), 0.5)
    fit(Watch(), x, epochs=2, batch_size=400, transform=torch.bernoulli, valid=x, device="cpu")
    (_, one), (_, held_out), (_, two), _ = seen
    assert set(one.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(one, two)
    assert torch.equal(held_out, x)
    assert [training for training, _ in seen] == [True, False, True, False]


def test_after_step_is_called_once_an_update() -> None:
    model = Mean()
    fit(model, torch.randn(10, 1), epochs=3, batch_size=4, device="cpu")
    assert model.steps == 9


@pytest.mark.parametrize("stop_after", [1, 2])
def test_killed_run_goes_on_from_its_checkpoint_bit_for_bit(
    tmp_path: Path, stop_after: int
) -> None:
    path = tmp_path / "run.checkpoint"
    valid = torch.rand(9, 6, generator=torch.Generator().manual_seed(2))
    whole, whole_history = train_vae(valid=valid, keep="best")

    def kill(epoch: int, *_: object) -> None:
        if epoch == stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_vae(valid=valid, keep="best", checkpoint=path, on_epoch=kill)
    epochs = []
    resumed, history = train_vae(
        valid=valid, keep="best", checkpoint=path, on_epoch=lambda epoch, *_: epochs.append(epoch)
    )
    assert all(map(torch.equal, weights(whole), weights(resumed)))
    assert history.train == whole_history.train
    assert history.valid == whole_history.valid
    # the last finished epoch is reported again, so that an annealed weight is set again
    assert epochs == list(range(stop_after, 4))


def test_finished_checkpoint_trains_no_further(tmp_path: Path) -> None:
    path = tmp_path / "run.checkpoint"
    first, _ = train_vae(checkpoint=path)
    second, history = train_vae(checkpoint=path)
    assert len(history) == 3
    assert all(map(torch.equal, weights(first), weights(second)))


def test_checkpoint_of_another_run_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "run.checkpoint"
    train_vae(checkpoint=path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"checkpoint .* is of another run .*seed=0.*seed=1"):
        train_vae(checkpoint=path, seed=1)
    assert path.read_bytes() == before


def test_broken_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.checkpoint"
    path.write_bytes(b"torn")
    with pytest.raises(ValueError, match="checkpoint .*run.checkpoint' is no checkpoint"):
        train_vae(checkpoint=path)


def test_no_half_written_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.checkpoint"
    train_vae(checkpoint=path, on_epoch=lambda epoch, *_: epoch == 1)
    before = path.read_bytes()

    def torn(state: object, target: Path) -> None:
        target.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", torn)
    with pytest.raises(KeyboardInterrupt):
        train_vae(checkpoint=path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["run.checkpoint"]


def test_best_weights_come_back_on_request() -> None:
    valid = torch.zeros(3, 1)
    x = torch.full((8, 1), 5.0)  # each step leads away from the held-out data
    best, last = Mean(), Mean()
    common = {"epochs": 4, "schedule": "constant", "valid": valid, "lr": 0.1, "device": "cpu"}
    history = fit(best, x, keep="best", **common)
    fit(last, x, **common)
    assert history.best_epoch == 1
    assert 0 < best.centre.item() < 0.2 < last.centre.item()


def test_callback_sees_the_terms_and_can_stop() -> None:
    calls = []

    def watch(epoch: int, model: nn.Module, terms: dict[str, float]) -> bool:
        calls.append((epoch, sorted(terms)))
        return epoch == 2

    x = torch.randn(6, 1)
    history = fit(Mean(), x, epochs=5, valid=x, on_epoch=watch, device="cpu")
    names = ["label", "loss", "valid_label", "valid_loss"]
    assert calls == [(1, names), (2, names)]
    assert len(history) == 2


def test_model_in_evaluation_mode_is_trained_in_training_mode() -> None:
    class Watched(Mean):
        def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
            modes.append(self.training)
            return super().loss(x, y)

    modes: list[bool] = []
    model = Watched().eval()

    fit(model, torch.zeros(5, 1), epochs=2, progress=False)

    assert modes
    assert all(modes)
    assert model.training


def test_callback_may_switch_to_evaluation_mode() -> None:
    model = VAE(n_inputs=2, n_latents=1, likelihood="gaussian", log_var="optimal")
    fit(model, torch.randn(6, 2), epochs=2, device="cpu",
        on_epoch=lambda epoch, model, terms: model.eval() and None)  # fmt: skip
    assert model.training


@pytest.mark.parametrize("epochs", [1, 2])
def test_one_cycle_rises_and_falls_and_survives_a_single_step(epochs: int) -> None:
    rates = []
    history = fit(Mean(), torch.randn(4, 1), epochs=epochs, lr=0.5, device="cpu",
                  on_epoch=lambda *_: rates.append(0))  # fmt: skip
    assert len(rates) == epochs
    assert 0 < history.lr[-1] <= 0.5


def test_one_cycle_ends_low() -> None:
    history = fit(Mean(), torch.randn(400, 1), epochs=10, batch_size=10, lr=0.5, device="cpu")
    assert max(history.lr) > 0.45
    assert history.lr[-1] < 1e-4


def test_optimiser_can_be_replaced() -> None:
    made = []

    def sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        made.append(torch.optim.SGD(parameters, lr=0.3, momentum=0.9))
        return made[0]

    history = fit(Mean(), torch.randn(5, 1), epochs=1, optimizer=sgd, schedule="constant",
                  device="cpu")  # fmt: skip
    assert history.lr == [0.3]


def test_frozen_parameters_stay() -> None:
    model = LinearAutoencoder(n_inputs=3, n_latents=2)
    model.encoder.weight.requires_grad_(False)
    before = model.encoder.weight.clone()
    fit(model, torch.randn(8, 3), epochs=2, device="cpu")
    assert torch.equal(before, model.encoder.weight)


def test_bfloat16_trains_in_float32_weights() -> None:
    model, history = train_vae(precision="bfloat16")
    assert math.isfinite(history.train["loss"][-1])
    assert model.encoder.layers[0].weight.dtype == torch.float64  # the fixture's default


def test_divergence_names_epoch_step_and_term() -> None:
    class Explode(Mean):
        def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
            fine = x.square().sum(dim=1) + 0 * self.centre
            kl = torch.full_like(fine, torch.inf if self.steps == 4 else 1.0)
            return {"loss": fine + kl, "reconstruction": fine, "kl": kl}

    with pytest.raises(FloatingPointError, match=r"epoch 2, step 2: kl = inf, loss = inf"):
        fit(Explode(), torch.randn(9, 1), epochs=3, batch_size=3, device="cpu")


def test_overflowing_log_variance_is_reported_by_name() -> None:
    model = VAE(n_inputs=3, n_latents=2, hidden=())
    with torch.no_grad():
        model.encoder.layers[0].bias[2:] = 1e4
    with pytest.raises(FloatingPointError, match="kl = inf"):
        fit(model, torch.rand(8, 3), epochs=1, device="cpu")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"epochs": 0}, ValueError, "epochs must be a positive integer, got 0"),
        ({"batch_size": -1}, ValueError, "batch_size must be a positive integer, got -1"),
        ({"lr": 0.0}, ValueError, "lr must be a positive number, got 0.0"),
        ({"lr": "1e-3"}, ValueError, "lr must be a positive number, got '1e-3'"),
        ({"optimizer": "adam"}, TypeError, r"optimizer must be a function .*SGD.*, got 'adam'"),
        ({"optimizer": torch.optim.SGD([torch.ones(1)])}, TypeError, "optimizer must .* got SGD"),
        ({"checkpoint": "no/where"}, FileNotFoundError, "checkpoint 'no/where' lies in no folder"),
        ({"schedule": "cosine"}, ValueError, "schedule must be one of 'one-cycle', 'constant'"),
        ({"precision": "half"}, ValueError, "precision must be one of .*; got 'half'"),
        ({"keep": "all"}, ValueError, "keep must be one of 'last', 'best'; got 'all'"),
        ({"device": "tpu"}, ValueError, "device must be one of 'auto'.*'cpu'; got 'tpu'"),
        ({"x": [[1.0]]}, TypeError, "x must be a tensor, got list"),
        ({"x": IMAGES}, TypeError, r"x must be a tensor, got Images; pass images\.x"),
        ({"valid": IMAGES}, TypeError, r"valid must be a tensor, got Images; pass images\.x"),
        ({"x": torch.rand(4, 2, 3)}, ValueError, r"got \(4, 2, 3\); .* x\.flatten\(1\)"),
        ({"y": [0] * 50}, TypeError, "y must be a tensor, got list"),
        ({"valid": torch.rand(4, 5)}, ValueError, "valid must be as wide as x, got 5 and 6"),
        ({"x": torch.ones(2, 6).int()}, TypeError, "x must be a floating-.*got torch.int"),
        ({"x": torch.rand(6)}, ValueError, r"x must have shape \(N, D\).*got \(6,\)"),
        ({"x": torch.rand(0, 6)}, ValueError, r"x must have shape .* got \(0, 6\)"),
        ({"x": torch.rand(4, 6) * torch.nan}, ValueError, "x must be finite, got 24 NaN"),
        ({"x": 255 * torch.ones(4, 6)}, ValueError, r"x must lie in \[0, 1\] for a Bern.*255"),
        ({"x": torch.rand(4, 5)}, ValueError, r"x must have shape \(..., 6\), got \(4, 5\)"),
        ({"valid": -torch.ones(4, 6)}, ValueError, r"valid must lie in \[0, 1\].*-1"),
        ({"y": torch.zeros(3)}, ValueError, "y must have as many labels as x rows, got 3 and 50"),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(
    change: dict[str, object], error: type[Exception], message: str
) -> None:
    x = change.pop("x", torch.rand(50, 6))
    model = Autoencoder(n_inputs=6, n_latents=2)
    before = weights(model)
    with pytest.raises(error, match=message):
        fit(model, x, **({"epochs": 1, "device": "cpu"} | change))
    assert all(map(torch.equal, before, weights(model)))


@pytest.mark.parametrize(
    ("model", "got"), [(VAE, "the class VAE"), (IMAGES, "Images"), ("vae", "str")]
)
def test_what_is_no_model_is_named(model: object, got: str) -> None:
    with pytest.raises(TypeError, match=rf"instance of torch\.nn\.Module, got {got}"):
        fit(model, torch.rand(4, 6), epochs=1, device="cpu")


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        (lambda x: x.sum(), r"must return a dict of tensors with the key \"loss\""),
        (lambda x: {"total": x.sum(1)}, r"must return a dict of tensors with the key \"loss\""),
        (lambda x: {"loss": x.mean()}, r"\['loss'\] must hold one number an example, shape \(4,\)"),
    ],
)
def test_a_loss_that_breaks_the_contract_is_refused(terms: object, message: str) -> None:
    model = Mean()
    model.loss = lambda x, y=None: terms(x)
    with pytest.raises(TypeError, match=message):
        fit(model, torch.rand(4, 1), epochs=1, device="cpu")


def test_history_plots_itself() -> None:
    _, history = train_vae(valid=torch.rand(9, 6))
    _, ax = plt.subplots()
    assert history.plot(ax, terms=("loss", "kl")) is ax
    labels = [line.get_label() for line in ax.lines]
    assert labels == ["loss", "loss, held out", "kl", "kl, held out"]
    torch.testing.assert_close(list(ax.lines[2].get_ydata()), history.train["kl"])
    with pytest.raises(ValueError, match="terms must be among loss, reconstruction, kl; got 'mse'"):
        history.plot(ax, terms=("mse",))
    with pytest.raises(TypeError, match=r"names in a tuple, such as \('kl',\), got 'kl'"):
        history.plot(ax, "kl")
    plt.close("all")


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_shows_running_terms_on_a_terminal_only(
    terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = io.StringIO()
    screen.isatty = lambda: terminal
    monkeypatch.setattr(sys, "stderr", screen)
    train_vae()
    if terminal:
        assert "epoch 3/3" in screen.getvalue()
        assert "kl=" in screen.getvalue()
    else:
        assert screen.getvalue() == ""


def test_auto_device_is_present() -> None:
    assert choose_device("auto").type in ("cuda", "mps", "cpu")
    assert choose_device(torch.device("cpu")) == torch.device("cpu")
