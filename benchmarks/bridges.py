"""PyTorch modules through the bridge, beside a loop in PyTorch on the same module, plain and compiled.

First a small convolutional network with batch norm on 512 images of 28 x 28, then GPT-2 with random weights (4 layers,
width 128, 16 sequences of 64 tokens). A 25 x 25 grid in a filter-normalised plane around the module's weights; PyTorch
writes origin + a d1 + b d2 into the parameters in place at each point and evaluates its own loss, on all cores. Values
must agree to 1e-5 relative before anything is timed. Peers are timed on a grid of 5 x 5, as each of their points takes
the same time, and times are given a point. Targets: at most the time of a peer for the network, twice that for GPT-2.
"""

import os
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

import landscape as ls
from benchmarks._harness import Report, settle

AGREEMENT = 1e-5
OURS, PEERS = "landscape", ("torch loop", "torch.compile loop")
SIDE, PART = 25, 5


@dataclass(frozen=True)
class Case:
    """A module, its data as its own loss takes them, and how much of a peer's time is allowed."""

    name: str
    module: Any
    loss: Any
    data: Any
    own_loss: Callable[[], Any]
    target: float


def network(count: int) -> Case:
    """Two convolutions with batch norm and pooling, one more, and a dense layer."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    layers: list[Any] = []
    for inputs, outputs in ((1, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]
    module = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
    train, _ = ls.problems.mnist5k()
    x = torch.tensor(np.asarray(train["x"][:count]).reshape(-1, 1, 28, 28), dtype=torch.float32)
    y = torch.tensor(np.asarray(train["y"][:count]), dtype=torch.long)
    with torch.no_grad():
        module(x)
    loss = nn.functional.cross_entropy
    return Case("a convolutional network", module.eval(), loss, (x, y), lambda: loss(module(x), y), 1.0)


def gpt2(quick: bool) -> Case:
    """GPT-2 with its own loss."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    layers, width, length = (1, 16, 8) if quick else (4, 128, 64)
    sizes = {"n_layer": layers, "n_head": 4, "n_embd": width, "n_positions": length, "vocab_size": 1000}
    module = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=1, eos_token_id=1)).eval()
    ids = torch.randint(0, 1000, (2 if quick else 16, length))
    batch = {"input_ids": ids, "labels": ids}
    return Case("GPT-2", module, None, batch, lambda: module(**batch, use_cache=False).loss, 2.0)


def torch_losses(case: Case, directions: Any, points: np.ndarray, compiled: bool) -> Callable[[], np.ndarray]:
    """A loop over the points, on the module itself."""
    import torch

    weights = dict(case.module.named_parameters())
    moves = [
        (w, w.detach().clone(), *(torch.tensor(np.asarray(directions[n][i])) for i in (0, 1)))
        for n, w in weights.items()
    ]
    evaluate = torch.compile(case.own_loss) if compiled else case.own_loss

    def losses() -> np.ndarray:
        found = []
        with torch.no_grad():
            for a, b in points:
                for weight, origin, one, two in moves:
                    weight.copy_(origin + float(a) * one + float(b) * two)
                found.append(float(evaluate()))
            for weight, origin, _, _ in moves:
                weight.copy_(origin)
        return np.asarray(found)

    return losses


def compare(report: Report, case: Case, threads: int) -> None:
    """Agreement on a part of the grid, then times in turn."""
    side, part = (3, 2) if report.quick else (SIDE, PART)
    report.section(f"bridges: {case.name}, {side}x{side} points, {threads} threads")
    problem = report.once("problem()", lambda: ls.bridges.torch.problem(case.module, case.loss, case.data))
    report.note(f"  outputs differ from PyTorch's by at most {problem.difference:.1e}", difference=problem.difference)
    directions = ls.subspace.random_directions(jax.random.key(1), problem.params)
    directions = ls.subspace.filter_normalize(directions, problem.params)
    surface = ls.LossSurface(ls.Subspace(problem.params, directions), problem.objectives["train"])
    grid, few = ls.Grid.square(0.5, side), ls.Grid.square(0.5, part)
    programs: dict[str, Callable[[], Any]] = {OURS: lambda: ls.sweep(surface, grid, progress=False)}
    for peer in PEERS:
        programs[peer] = torch_losses(case, directions, few.points(), peer == PEERS[1])
    checked = ls.sweep(surface, few, progress=False)["loss"].ravel()
    for name, program in programs.items():
        found = report.once(f"{name}, first call", program)
        if name in PEERS:
            difference = float(np.max(np.abs(found / checked - 1)))
            report.note(f"  {name} and {OURS} differ by at most {difference:.1e} relative", differs=difference)
            if not difference <= AGREEMENT:
                raise SystemExit(f"the surfaces differ by more than {AGREEMENT:g}: nothing to compare")
    settle(programs[OURS])
    times = report.compare(programs, repeats=3)
    points = {OURS: grid.size, **dict.fromkeys(PEERS, few.size)}
    for name, size in points.items():
        report.finding(f"{name}, ms a point", times, lambda t, n=name, s=size: 1e3 * t[n] / s, "{:.1f}")
    for peer in PEERS:
        ratio = few.size / grid.size
        label = f"{OURS} / {peer}"
        report.finding(label, times, lambda t, p=peer, r=ratio: t[OURS] / t[p] * r, target=case.target)


def run(report: Report) -> None:
    """Both modules."""
    import psutil
    import torch

    threads = psutil.cpu_count() or 1
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as cache, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache  # nothing compiled by an earlier run
        compare(report, network(16 if report.quick else 512), threads)
        compare(report, gpt2(report.quick), threads)
