"""What every model of ``aecore.models`` and every public name promises."""

import ast
import copy
import importlib
import inspect
import pkgutil
import re
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

import aecore
from aecore.data import Images
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
from aecore.models.vq_vae import VQVAE

D, L = 6, 2
SIZES = {"n_inputs": D, "n_latents": L}
IMAGE = {"shape": (1, 2, 3), "n_latents": L, "channels": (3,)}  # D = 1 · 2 · 3
MODELS = {
    "linear": LinearAutoencoder(n_inputs=D, n_latents=L),
    "linear tied": LinearAutoencoder(n_inputs=D, n_latents=L, tied=True, lam=0.3),
    "bernoulli": Autoencoder(n_inputs=D, n_latents=L),
    "gaussian tied": Autoencoder(
        n_inputs=D, n_latents=L, hidden=(4,), likelihood="gaussian", tied=True
    ),
    "vae": VAE(n_inputs=D, n_latents=L),
    "vae learned": VAE(n_inputs=D, n_latents=L, likelihood="gaussian", log_var="learned"),
    "vae optimal": VAE(n_inputs=D, n_latents=L, likelihood="gaussian", log_var="optimal"),
    "iwae": IWAE(n_inputs=D, n_latents=L),
    "iwae doubly": IWAE(
        n_inputs=D,
        n_latents=L,
        likelihood="gaussian",
        log_var="learned",
        n_samples=3,
        estimator="doubly reparametrised",
    ),
    "beta-vae": BetaVAE(n_inputs=D, n_latents=L, beta=4.0),
    "beta-vae gaussian": BetaVAE(
        n_inputs=D, n_latents=L, beta=0.3, likelihood="gaussian", log_var="learned"
    ),
    "convolutional": ConvolutionalAutoencoder(**IMAGE),
    "convolutional bilinear": ConvolutionalAutoencoder(
        **IMAGE, likelihood="gaussian", upsampling="bilinear"
    ),
    "denoising": DenoisingAutoencoder(**SIZES),
    "denoising gaussian": DenoisingAutoencoder(
        **SIZES, hidden=(4,), likelihood="gaussian", corruption="gaussian", activation="relu"
    ),
    "sparse l1": SparseAutoencoder(**SIZES, lam=0.3),
    "sparse kl": SparseAutoencoder(**SIZES, penalty="kl", lam=0.3),
    "sparse kl running": SparseAutoencoder(**SIZES, penalty="kl", lam=0.3, momentum=0.9),
    "top-k": TopKAutoencoder(**SIZES, k=1),
    "contractive": ContractiveAutoencoder(**SIZES, lam=0.3),
    "contractive exact": ContractiveAutoencoder(
        **SIZES, lam=0.3, hidden=(4,), activation="identity", penalty="exact", tied=False
    ),
    "contractive hutchinson": ContractiveAutoencoder(**SIZES, lam=0.3, penalty="hutchinson"),
    "stacked": StackedAutoencoder(n_inputs=D, hidden=(4, L)),
    "conditional vae": ConditionalVAE(**SIZES, n_classes=3),
    "conditional vae learned": ConditionalVAE(
        **SIZES, n_classes=3, likelihood="gaussian", learned_prior=True
    ),
    "vq-vae": VQVAE(**IMAGE, n_codes=4),
    "vq-vae moving average": VQVAE(
        **IMAGE, n_codes=4, likelihood="gaussian", codebook="moving average", revive=0.1
    ),
    "adversarial": AdversarialAutoencoder(**SIZES, lam=0.3),
    "adversarial mmd": AdversarialAutoencoder(
        **SIZES, lam=0.3, match="mmd", target="swiss roll", likelihood="gaussian"
    ),
}
MODULES = [
    importlib.import_module(info.name)
    for info in pkgutil.walk_packages(aecore.__path__, "aecore.")
    if not info.name.endswith(".models")
]
PUBLIC = [
    pytest.param(module, name, id=f"{module.__name__}.{name}")
    for module in MODULES
    for name in module.__all__
    if callable(getattr(module, name))
]


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> nn.Module:
    return MODELS[request.param].to(torch.float64)


def given(model: nn.Module, n: int) -> tuple[Tensor, ...]:
    """What a conditional model is called with beside ``x`` or ``z``: labels; others, nothing."""
    n_classes = getattr(model, "n_classes", None)
    return () if n_classes is None else (torch.arange(n) % n_classes,)


def loss(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(5)
    return model.loss(x, *given(model, len(x)))


@pytest.mark.parametrize("n", [1, 7])
def test_every_term_holds_one_number_an_example(model: nn.Module, n: int) -> None:
    terms = loss(model, torch.rand(n, D))
    assert "loss" in terms
    assert {tuple(term.shape) for term in terms.values()} == {(n,)}


def test_loss_is_the_formula_of_its_docstring(model: nn.Module) -> None:
    terms = loss(model, torch.rand(7, D))
    formula = re.search(r"``loss = (.+?)``", inspect.getdoc(type(model).loss)).group(1)
    names = {node.id for node in ast.walk(ast.parse(formula)) if isinstance(node, ast.Name)}
    values = {name: terms[name] if name in terms else getattr(model, name) for name in names}
    torch.testing.assert_close(terms["loss"], eval(formula, values))


def test_terms_are_sums_over_an_examples_own_pixels(model: nn.Module) -> None:
    """An example's reconstruction term does not depend on its batch mates."""
    model = copy.deepcopy(model)
    for part in model.modules():
        if hasattr(part, "corruption"):
            part.level = 0.0  # the noise is another at each call
    if getattr(model, "log_var", None) == "optimal":
        model.eval()  # in training its variance is the batch's, and says so
    x = torch.rand(4, D)
    noise = torch.randn(4, L)
    y = given(model, 4)
    if hasattr(model, "nll"):
        each = [model.nll(*(t[i : i + 1] for t in (x, noise, *y))) for i in range(4)]
        torch.testing.assert_close(model.nll(x, noise, *y), torch.cat(each))
    else:
        each = [model.loss(x[i : i + 1])["reconstruction"] for i in range(4)]
        torch.testing.assert_close(model.loss(x)["reconstruction"], torch.cat(each))


def test_encode_and_decode_have_the_contracts_shapes(model: nn.Module) -> None:
    code = model.encode(torch.rand(7, D), *given(model, 7))
    if isinstance(model, VQVAE):  # its codes are a grid of indices
        assert code.shape == (7, *model.grid)
        assert code.dtype == torch.int64
        assert model.decode(code).shape == (7, D)
        return
    for part in code if isinstance(code, tuple) else (code,):
        assert part.shape == (7, L)
    assert model.decode(torch.randn(7, L), *given(model, 7)).shape == (7, D)


def test_wrong_widths_are_named(model: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"x must have shape \(..., 6\), got \(7, 5\)"):
        model.encode(torch.rand(7, 5), *given(model, 7))
    if isinstance(model, VQVAE):
        with pytest.raises(ValueError, match=r"indices must have shape \(B, 1, 2\), got \(7, 3\)"):
            model.decode(torch.zeros(7, 3, dtype=torch.long))
        return
    with pytest.raises(ValueError, match=r"[hz] must have shape \(..., 2\), got \(7, 3\)"):
        model.decode(torch.rand(7, 3), *given(model, 7))


def test_every_parameter_gets_a_gradient(model: nn.Module) -> None:
    model.train()
    model.zero_grad()
    loss(model, torch.rand(7, D))["loss"].mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_probabilistic_models_have_prior_and_nll(model: nn.Module) -> None:
    if not hasattr(model, "prior"):
        assert not hasattr(model, "nll")
        return
    y = given(model, 7)
    prior = model.prior(*y)
    assert isinstance(prior, Distribution)
    z = prior.sample(() if y else (7,))
    assert z.shape == (7, L)
    assert z.dtype == torch.float64
    assert prior.log_prob(z).shape == (7,)
    assert model.nll(torch.rand(7, D), z, *y).shape == (7,)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("name", ["n_inputs", "n_latents"])
def test_sizes_must_be_positive(model: nn.Module, name: str) -> None:
    arguments = {a: getattr(model, a) for a in inspect.signature(type(model)).parameters}
    if name not in arguments:
        return  # the width of images follows from their shape, that of a stack from its layers
    with pytest.raises(ValueError, match=f"{name} must be a positive integer, got 0"):
        type(model)(**(arguments | {name: 0}))


@pytest.mark.parametrize(
    "model",
    [
        *MODELS.values(),
        SemiSupervisedAutoencoder(**SIZES, n_classes=3),
        Classifier(n_inputs=D, hidden=(4,)),
    ],
    ids=[*MODELS, "semi-supervised", "classifier"],
)
@pytest.mark.parametrize("value", [400, (0,), (400.0,), "400", None])
def test_widths_come_in_a_tuple(model: nn.Module, value: object) -> None:
    arguments = {a: getattr(model, a) for a in inspect.signature(type(model)).parameters}
    for name in {"hidden", "channels", "critic", "shape"} & set(arguments):
        with pytest.raises(ValueError, match=rf"^{name} must be (a tuple|three) .*, got "):
            type(model)(**(arguments | {name: value}))


def test_a_data_set_in_the_place_of_its_pixels_is_named(model: nn.Module) -> None:
    images = Images(torch.rand(7, D), torch.zeros(7), IMAGE["shape"])
    with pytest.raises(TypeError, match=r"x must be a tensor, got Images; pass images\.x"):
        model.encode(images, *given(model, 7))


def test_arguments_of_encode_and_decode_are_those_the_package_tells() -> None:
    """One each, but for the models that the docstring of ``aecore.models`` names."""
    told = set(re.findall(r"``(\w+)`` (?:is given|decodes)", aecore.models.__doc__))
    others = set()
    for cls in {*map(type, MODELS.values()), SemiSupervisedAutoencoder}:
        for method in (cls.encode, cls.decode):
            if len(inspect.signature(method).parameters) != 2:  # self and one more
                others.add(cls.__name__)
    assert told == others


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("lam", [-0.1, float("nan")])
def test_weights_of_penalties_are_not_negative(model: nn.Module, lam: float) -> None:
    arguments = {a: getattr(model, a) for a in inspect.signature(type(model)).parameters}
    if "lam" in arguments:
        with pytest.raises(ValueError, match=f"lam must .*negative, got {lam}"):
            type(model)(**(arguments | {"lam": lam}))


@pytest.mark.parametrize(("module", "name"), PUBLIC)
def test_public_docstrings_say_what_goes_in_and_out(module: ModuleType, name: str) -> None:
    thing = getattr(module, name)
    if inspect.isclass(thing) and issubclass(thing, tuple | Exception):
        assert thing.__doc__
        return
    doc = inspect.getdoc(thing) or ""
    called = thing.__init__ if inspect.isclass(thing) else thing
    arguments = [p for p in inspect.signature(called).parameters if p != "self"]
    missing = [p for p in arguments if not re.search(rf"^\s+\*{{0,2}}{p}: ", doc, re.M)]
    assert missing == []
    if not inspect.isclass(thing) and inspect.signature(thing).return_annotation is not None:
        assert "Returns:" in doc


@pytest.mark.parametrize(
    ("path", "signature"),
    [
        ("data.load", "(name, split='train', *, n=None, root=None, source=None)"),
        ("synthetic.swiss_roll", "(n, *, noise=0.0, generator=None)"),
        ("synthetic.LinearGaussian", "(weight, bias, log_var)"),
        ("synthetic.sprites", "(n, *, size=32, generator=None)"),
        ("corruption.gaussian_noise", "(x, std, generator=None)"),
        ("corruption.masking_noise", "(x, p, generator=None)"),
        ("corruption.salt_and_pepper", "(x, p, generator=None)"),
        ("losses.squared_error", "(x_hat, x)"),
        ("losses.bernoulli_nll", "(logits, x)"),
        ("losses.gaussian_nll", "(mean, x, log_var=0.0)"),
        ("divergences.gaussian_kl", "(mu, log_var)"),
        ("divergences.gaussian_kl_between", "(mu_q, log_var_q, mu_p, log_var_p)"),
        ("divergences.bernoulli_kl", "(rho, rho_hat)"),
        ("divergences.mmd", "(x, y, bandwidths=(0.2, 0.5, 1.0, 2.0, 5.0))"),
        ("evaluation.elbo", "(model, x, *, y=None, n_samples=1, generator=None)"),
        (
            "evaluation.log_likelihood",
            "(model, x, *, y=None, n_samples=5000, batch_size=None, generator=None)",
        ),
        ("evaluation.log_weights", "(model, x, *, y=None, n_samples, generator=None)"),
        ("evaluation.effective_sample_size", "(log_w)"),
        ("evaluation.active_units", "(model, x, *, threshold=0.01)"),
        (
            "evaluation.class_log_likelihood",
            "(model, x, *, n_samples, batch_size=None, generator=None)",
        ),
        ("evaluation.principal_angles", "(a, b)"),
        (
            "evaluation.linear_probe",
            "(features, labels, test_features, test_labels, *, c=0.01, max_iter=1000)",
        ),
        ("evaluation.mutual_information_gap", "(codes, factors, *, n_bins=20)"),
        (
            "evaluation.factor_vae_score",
            "(codes, factors, *, n_votes=800, group_size=64, generator=None)",
        ),
        ("models.contractive.contractive_penalty", "(h, weight)"),
        ("models.contractive.jacobian_penalty", "(encode, x)"),
        ("models.contractive.hutchinson_penalty", "(encode, x, n_samples=1, generator=None)"),
        ("saving.save", "(model, path)"),
        ("saving.load_model", "(path)"),
        (
            "training.fit",
            "(model, x, *, y=None, epochs, batch_size=128, lr=0.001, optimizer=None, "
            "schedule='one-cycle', transform=None, valid=None, seed=0, device='auto', "
            "precision='float32', compile=False, checkpoint=None, on_epoch=None, keep='last', "
            "progress=True)",
        ),
        ("models.linear.LinearAutoencoder", "(*, n_inputs, n_latents, tied=False, lam=0.0)"),
        (
            "models.undercomplete.Autoencoder",
            "(*, n_inputs, n_latents, hidden=(), likelihood='bernoulli', tied=False)",
        ),
        (
            "models.vae.VAE",
            "(*, n_inputs, n_latents, hidden=(400,), likelihood='bernoulli', log_var=0.0)",
        ),
        (
            "models.iwae.IWAE",
            "(*, n_inputs, n_latents, hidden=(400,), likelihood='bernoulli', log_var=0.0, "
            "n_samples=5, estimator='pathwise')",
        ),
        (
            "models.beta_vae.BetaVAE",
            "(*, n_inputs, n_latents, beta, hidden=(400,), likelihood='bernoulli', log_var=0.0)",
        ),
        (
            "models.conditional_vae.ConditionalVAE",
            "(*, n_inputs, n_latents, n_classes=None, n_features=None, hidden=(400,), "
            "likelihood='bernoulli', log_var=0.0, learned_prior=False, label_scale=10.0)",
        ),
        (
            "models.convolutional.ConvolutionalAutoencoder",
            "(*, shape=(1, 28, 28), n_latents, channels=(16, 32), likelihood='bernoulli', "
            "upsampling='transposed')",
        ),
        (
            "models.denoising.DenoisingAutoencoder",
            "(*, n_inputs, n_latents, hidden=(), likelihood='bernoulli', activation='identity', "
            "corruption='masking', level=0.2)",
        ),
        (
            "models.sparse.SparseAutoencoder",
            "(*, n_inputs, n_latents, penalty='l1', lam, rho=0.05, momentum=0.0, "
            "likelihood='bernoulli')",
        ),
        (
            "models.sparse.TopKAutoencoder",
            "(*, n_inputs, n_latents, k, likelihood='bernoulli')",
        ),
        (
            "models.contractive.ContractiveAutoencoder",
            "(*, n_inputs, n_latents, lam=0.1, hidden=(), likelihood='bernoulli', "
            "activation='sigmoid', penalty='closed form', tied=True)",
        ),
        (
            "models.vq_vae.VQVAE",
            "(*, shape=(1, 28, 28), n_latents, n_codes, channels=(16, 32), "
            "likelihood='bernoulli', beta=0.25, codebook='gradient', decay=0.99, revive=0.0)",
        ),
        (
            "models.adversarial.AdversarialAutoencoder",
            "(*, n_inputs, n_latents, hidden=(400,), target='gaussian', likelihood='bernoulli', "
            "match='adversarial', lam=10.0, critic=(200, 200), saturating=False)",
        ),
    ],
)
def test_promised_signatures_hold(path: str, signature: str) -> None:
    """Other people's code relies on these."""
    module, _, name = path.rpartition(".")
    found = inspect.signature(getattr(importlib.import_module(f"aecore.{module}"), name))
    plain = found.replace(
        parameters=[
            p.replace(annotation=inspect.Parameter.empty) for p in found.parameters.values()
        ],
        return_annotation=inspect.Signature.empty,
    )
    assert str(plain) == signature
