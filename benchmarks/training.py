"""What an epoch of ``fit`` costs, beside a tutorial's loop and beside the matrix products alone.

The model is a 784-400-20-400-784 VAE on 12,000 images, batch 128. Runs are interleaved and the
median is reported, as seconds and as a ratio to the floor: absolute times depend on the machine.

    python benchmarks/training.py [--epochs 5] [--device cpu]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from aecore.models.vae import VAE
from aecore.training import choose_device, fit

BATCH = 128


def make_model() -> VAE:
    """Build the model that all of them train."""
    return VAE(n_inputs=784, n_latents=20)


def package(x: torch.Tensor, device: torch.device) -> None:
    """Train by ``fit``, all defaults."""
    fit(make_model(), x, epochs=1, batch_size=BATCH, device=device, progress=False)


def package_bfloat16(x: torch.Tensor, device: torch.device) -> None:
    """Train by ``fit`` under autocast."""
    fit(make_model(), x, epochs=1, batch_size=BATCH, device=device, precision="bfloat16")


def tutorial(x: torch.Tensor, device: torch.device) -> None:
    """Train as tutorials do: a DataLoader, sigmoid, then cross-entropy, the default Adam."""
    model = make_model().to(device)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    for (cpu_batch,) in DataLoader(TensorDataset(x), batch_size=BATCH, shuffle=True):
        batch = cpu_batch.to(device)
        mu, log_var = model.encode(batch)
        z = mu + torch.exp(0.5 * log_var) * torch.randn_like(mu)
        pixels = torch.sigmoid(model.decode(z))
        loss = binary_cross_entropy(pixels, batch, reduction="sum")
        loss = loss - 0.5 * torch.sum(1 + log_var - mu.pow(2) - log_var.exp())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        loss.item()


def floor(x: torch.Tensor, device: torch.device) -> None:
    """Do only the layers' matrix products, forwards and backwards."""
    x = x.to(device)
    layers = [m for m in make_model().to(device).modules() if isinstance(m, nn.Linear)]
    for batch in x.split(BATCH):
        for layer in layers:
            rows = batch.new_empty(len(batch), layer.in_features).requires_grad_()
            out = rows @ layer.weight.T
            torch.autograd.grad(out, (rows, layer.weight), out.detach())


def seconds(run: Callable[[], None], device: torch.device) -> float:
    """Time one run, the device's queue included."""
    began = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=5, help="timed epochs of each loop")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    x = torch.rand(12_000, 784)
    loops = {
        "matrix products alone": floor,
        "fit, bfloat16": package_bfloat16,
        "fit": package,
        "tutorial loop": tutorial,
    }
    times: dict[str, list[float]] = {name: [] for name in loops}
    for turn in range(arguments.epochs + 1):
        for name, loop in loops.items():
            spent = seconds(lambda loop=loop: loop(x, device), device)
            if turn > 0:  # the first turn warms up
                times[name].append(spent)
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(
        f"{len(x):,} images, torch {torch.__version__}, {device}, {torch.get_num_threads()} threads"
    )
    print(f"{'':24}{'s an epoch':>12}{'x floor':>10}{'spread':>16}")
    for name, median in medians.items():
        spread = f"{min(times[name]):.2f} to {max(times[name]):.2f}"
        ratio = median / medians["matrix products alone"]
        print(f"{name:24}{median:12.2f}{ratio:10.1f}{spread:>16}")


if __name__ == "__main__":
    main()
