"""Models in files: the same model comes back, and nothing else can come in."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

import aecore.saving
from aecore import load_model, save
from aecore.models.adversarial import AdversarialAutoencoder, SemiSupervisedAutoencoder
from aecore.models.beta_vae import BetaVAE
from aecore.models.conditional_vae import ConditionalVAE
from aecore.models.contractive import ContractiveAutoencoder
from aecore.models.convolutional import ConvolutionalAutoencoder
from aecore.models.denoising import DenoisingAutoencoder
from aecore.models.iwae import IWAE
from aecore.models.linear import LinearAutoencoder
from aecore.models.pretraining import Classifier, StackedAutoencoder
from aecore.models.sparse import SparseAutoencoder, TopKAutoencoder
from aecore.models.undercomplete import Autoencoder
from aecore.models.vae import VAE
from aecore.models.vq_vae import VQVAE, CodePrior

MODELS = [
    LinearAutoencoder(n_inputs=4, n_latents=2),
    LinearAutoencoder(n_inputs=4, n_latents=2, tied=True, lam=0.5),
    Autoencoder(n_inputs=4, n_latents=2, hidden=(3,), likelihood="gaussian"),
    Autoencoder(n_inputs=4, n_latents=2, hidden=[5, 3], tied=True),
    VAE(n_inputs=4, n_latents=2),
    VAE(n_inputs=4, n_latents=2, hidden=(), likelihood="gaussian", log_var=-1.5),
    VAE(n_inputs=4, n_latents=2, likelihood="gaussian", log_var="learned"),
    VAE(n_inputs=4, n_latents=2, likelihood="gaussian", log_var="optimal"),
    IWAE(n_inputs=4, n_latents=2, hidden=[3], n_samples=2, estimator="doubly reparametrised"),
    BetaVAE(n_inputs=4, n_latents=2, beta=4.0),
    BetaVAE(n_inputs=4, n_latents=2, beta=0.5, likelihood="gaussian", log_var="optimal"),
    ConvolutionalAutoencoder(shape=(1, 2, 2), n_latents=2, channels=[3], upsampling="bilinear"),
    DenoisingAutoencoder(n_inputs=4, n_latents=5, activation="relu", level=0.3),
    SparseAutoencoder(n_inputs=4, n_latents=5, lam=0.1),
    SparseAutoencoder(n_inputs=4, n_latents=5, penalty="kl", lam=0.1, rho=0.2, momentum=0.9),
    TopKAutoencoder(n_inputs=4, n_latents=5, k=2),
    ContractiveAutoencoder(n_inputs=4, n_latents=5, lam=0.2),
    ContractiveAutoencoder(n_inputs=4, n_latents=5, lam=0.2, hidden=[3], penalty="hutchinson"),
    StackedAutoencoder(n_inputs=4, hidden=[5, 3], activation="sigmoid"),
    Classifier(n_inputs=4, hidden=[5, 3], n_classes=2),
    ConditionalVAE(n_inputs=4, n_latents=2, n_classes=2, hidden=[3]),
    ConditionalVAE(n_inputs=4, n_latents=2, n_classes=2, learned_prior=True),
    VQVAE(shape=(1, 2, 2), n_latents=2, n_codes=3, channels=[3]),
    VQVAE(shape=(1, 2, 2), n_latents=2, n_codes=3, channels=[3], codebook="moving average"),
    CodePrior(n_codes=2, grid=[2, 2], channels=3, kernel_size=3),
    AdversarialAutoencoder(n_inputs=4, n_latents=2, target="mixture", critic=[3], saturating=True),
    AdversarialAutoencoder(n_inputs=4, n_latents=3, hidden=[5], match="mmd", lam=2.0),
    SemiSupervisedAutoencoder(n_inputs=4, n_latents=2, n_classes=2, hidden=[5], critic=[3]),
]


@pytest.mark.parametrize("model", MODELS, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_round_trip_gives_the_same_model(
    model: nn.Module, dtype: torch.dtype, tmp_path: Path
) -> None:
    model = model.to(dtype)
    save(model, tmp_path / "model.safetensors")
    again = load_model(tmp_path / "model.safetensors")
    assert type(again) is type(model)
    x = torch.rand(3, 4, dtype=dtype)
    if isinstance(model, CodePrior):
        x = x.round()  # its data are indices
    losses = []
    for m in (model, again):
        torch.manual_seed(1)
        losses.append(m.loss(x, torch.tensor([1, 0, 1]))["loss"])
    assert torch.equal(*losses)
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_every_public_model_is_saved_in_a_test() -> None:
    assert {type(m) for m in MODELS} == set(aecore.saving._classes().values())


def test_header_names_class_and_arguments(tmp_path: Path) -> None:
    save(MODELS[1], tmp_path / "m")
    with safetensors.safe_open(tmp_path / "m", framework="pt") as file:
        header = file.metadata()
    assert header["class"] == "aecore.models.linear.LinearAutoencoder"
    arguments = {"n_inputs": 4, "n_latents": 2, "tied": True, "lam": 0.5}
    assert json.loads(header["arguments"]) == arguments


def test_only_classes_of_aecore_models_are_saved(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"class of aecore\.models, got torch.*Linear"):
        save(nn.Linear(2, 2), tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_a_class_of_ones_own_is_refused_before_it_could_not_be_loaded(tmp_path: Path) -> None:
    class VAE(aecore.models.vae.VAE):
        pass

    expected = r"got .*test_saving.*VAE, which load_model does not know; keep the state_dict"
    with pytest.raises(TypeError, match=expected):
        save(VAE(n_inputs=4, n_latents=2), tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_an_argument_that_is_a_tensor_is_shown_with_the_remedy(tmp_path: Path) -> None:
    model = LinearAutoencoder(n_inputs=4, n_latents=2, lam=torch.tensor(0.5))
    with pytest.raises(TypeError, match=r"'lam': tensor.*set anew .* float\(model\.lam\)"):
        save(model, tmp_path / "m")
    model.lam = float(model.lam)
    save(model, tmp_path / "m")
    assert load_model(tmp_path / "m").lam == 0.5


def test_a_missing_folder_is_named_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"path '.*' lies in no folder; make '.*missing'"):
        save(MODELS[0], tmp_path / "missing" / "m")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["os.system", "torch.nn.modules.linear.Linear", "", None])
def test_a_file_cannot_name_another_class(name: str | None, tmp_path: Path) -> None:
    header = {"arguments": "{}"} | ({} if name is None else {"class": name})
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "m", metadata=header)
    with pytest.raises(ValueError, match="names the class .*expected one of aecore"):
        load_model(tmp_path / "m")


def test_missing_and_torn_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="path '.*nowhere' is no file"):
        load_model(tmp_path / "nowhere")
    path = tmp_path / "m"
    save(MODELS[0], path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match="is no whole safetensors file"):
        load_model(path)


def test_failed_save_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m"
    save(MODELS[0], path)
    before = path.read_bytes()

    def torn(tensors: object, target: Path, metadata: object) -> None:
        target.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(safetensors.torch, "save_file", torn)
    with pytest.raises(KeyboardInterrupt):
        save(MODELS[0], path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["m"]
