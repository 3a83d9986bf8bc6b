"""What this project does, measured on one accelerator in under ten minutes, with nothing tuned by hand.

Each row is one claim at a size that fills an accelerator, as a user calls it: a surface of the digits network, of a
residual network and of a decoder, many trainings at once, the largest eigenvalues, a Hessian product beside a gradient,
and a decoder of a billion parameters in bfloat16, whose directions are drawn inside the program. Beside it, where
PyTorch is installed and sees the same device, a loop in PyTorch over some of the points, on the same weights. The last
lines are one table, headed by the name of the device; `--json FILE` keeps it.

On a CPU the sizes are small: it runs everywhere, and says where it ran.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import landscape as ls
from benchmarks import convolutions, curvature, training, transformer
from benchmarks._harness import Report

BUDGET = 540.0  # seconds, after which what is left is named and left out
HOW_OFTEN = 3  # calls after the first; the median counts


@dataclass(frozen=True)
class Row:
    """One claim: what is counted, how many of it a call computes, the call, and the same in PyTorch."""

    name: str
    unit: str
    count: float
    ours: Callable[[], Any]
    theirs: Callable[[], tuple[float, Callable[[], Any]]] | None = None  # how many, and the call


def rows(small: bool) -> list[Callable[[], list[Row]]]:
    """The claims; each makes its own models when its turn comes, so that memory is free for the next."""
    return [
        lambda: [surface_of_digits(9 if small else 257)],
        lambda: [trainings(8 if small else 16_384, 20 if small else 1000)],
        lambda: derivatives(small),
        lambda: [residual_network(4 if small else 512, 2 if small else 9)],
        lambda: decoder(
            transformer.Case(16, 1, 8, 2, 2, True) if small else transformer.Case(768, 12, 256, 8, 5, False)
        ),
        lambda: billion(small),
    ]


def surface_of_digits(side: int) -> Row:
    """The loss and the test loss of the digits network in a plane."""
    problem = ls.problems.digits_mlp()
    params = problem.init(jax.random.key(0))
    directions = ls.subspace.filter_normalize(ls.subspace.random_directions(jax.random.key(1), params), params)
    plane = ls.LossSurface(ls.Subspace(params, directions), problem.objectives)
    grid = ls.Grid.square(1.0, side)
    return Row(f"surface, {problem.name}", "points", grid.size, lambda: ls.sweep(plane, grid, progress=False))


def trainings(num: int, steps: int) -> Row:
    """Many small networks; PyTorch takes a sixteenth of the steps."""
    arguments, part = training.data(num), max(steps // 16, 1)

    def theirs() -> tuple[float, Callable[[], Any]]:
        return num * part, training.torch_func(*arguments, part)

    return Row(
        "trainings at once", "steps of networks", num * steps, training.landscape_runs(*arguments, steps), theirs
    )


def derivatives(small: bool) -> list[Row]:
    """Eigenvalues of the digits network, a gradient and a product."""
    problem = ls.problems.digits_mlp((16,) if small else (1024, 1024))
    case = curvature.Case(problem.name, problem.objectives["train"], problem.init(jax.random.key(0)))
    links = 4 if small else 50
    return [
        Row(f"five largest eigenvalues, {problem.name}", "searches", 1, curvature.ours(case)),
        Row(f"gradient, {problem.name}", "gradients", links, curvature.gradient_chain(case, links)),
        Row(f"Hessian product, {problem.name}", "products", links, curvature.product_chain(case, links)),
    ]


def residual_network(images: int, side: int) -> Row:
    """ResNet-20 in a plane; PyTorch takes four of the points, in channels_last."""
    case, grid = convolutions.resnet_case(images), ls.Grid.square(0.5, side)

    def theirs() -> tuple[float, Callable[[], Any]]:
        return 4, convolutions.torch_losses(case, grid.points()[:4], False)

    return Row(
        f"surface, {case.name}, {images} images", "points", grid.size, convolutions.our_losses(case, grid), theirs
    )


def decoder(case: transformer.Case) -> list[Row]:
    """A decoder in a plane; its gradient and its product."""
    problem = case.problem()
    objective, params = problem.objectives["train"], problem.init(jax.random.key(0))
    directions = ls.subspace.filter_normalize(ls.subspace.random_directions(jax.random.key(1), params), params)
    plane, grid = ls.LossSurface(ls.Subspace(params, directions), objective), ls.Grid.square(0.5, case.side)

    def theirs() -> tuple[float, Callable[[], Any]]:
        module, data = transformer.torch_decoder(params), transformer.torch_data(objective)
        moves = transformer.torch_directions(module, directions)
        return 4, transformer.by_loop(module, data, moves, grid.points()[:4], False)

    return [
        Row(f"surface, {problem.name}", "points", grid.size, lambda: ls.sweep(plane, grid, progress=False), theirs),
        Row(f"gradient, {problem.name}", "gradients", 4, transformer.gradient_chain(objective, params, 4)),
        Row(f"Hessian product, {problem.name}", "products", 4, transformer.product_chain(objective, params, 4)),
    ]


def billion(small: bool) -> list[Row]:
    """A decoder in bfloat16 whose directions are never stored."""
    width, depth, heads = (16, 1, 4) if small else (2048, 20, 16)
    sizes = {"context": 8 if small else 512, "num_train": 2 if small else 4, "num_test": 1}
    problem = ls.problems.language_model(width, depth, heads=heads, **sizes)
    half = jax.jit(lambda key: jax.tree.map(lambda x: x.astype(jnp.bfloat16), problem.init(key)))
    params, objective = half(jax.random.key(0)), problem.objectives["train"]
    size = sum(x.size for x in jax.tree.leaves(params))
    seeded = ls.subspace.Seeded(jax.random.key(1), params, 2, "filter")
    plane, grid = ls.LossSurface(ls.Subspace(params, seeded), objective), ls.Grid.square(0.5, 2 if small else 5)
    name = f"{problem.name}, {size / 1e9:.2g} billion parameters, bfloat16"

    def surface() -> Any:
        return ls.sweep(plane, grid, progress=False, precision="default")

    chain = transformer.product_chain(objective, params, 2)
    return [
        Row(f"surface, {name}", "points", grid.size, surface),
        Row(f"Hessian product, {name}", "products", 2, chain),
    ]


# ---------------------------------------------------------------------------------------------------------- the table


def run(report: Report) -> None:
    """All rows, one after another, until the time is up."""
    device = jax.local_devices()[0]
    small = report.quick or device.platform == "cpu"
    report.section(f"gpu: {device.device_kind}, {jax.device_count()} of them")
    if small:
        report.note("  small sizes: this shows that everything runs, and nothing about an accelerator")
    start, table = time.perf_counter(), []
    for make in rows(small):
        if time.perf_counter() - start > BUDGET:
            report.note(f"  left out after {BUDGET:.0f} s: {make()[0].name} and what follows")
            break
        table += [measured(report, row, device) for row in make()]
        jax.clear_caches()
    report.note("\n" + "\n".join(markdown(table, device)), table=table, device=device.device_kind)


def measured(report: Report, row: Row, device: Any) -> dict[str, Any]:
    """Rates of both, the first call apart, and the most memory that the device has held so far."""
    first = seconds(row.ours)
    ours = row.count / float(np.median([seconds(row.ours) for _ in range(HOW_OFTEN)]))
    theirs = None if row.theirs is None else in_torch(report, row.theirs, device)
    peak = (device.memory_stats() or {}).get("peak_bytes_in_use")
    values = {"row": row.name, "unit": row.unit, "first": first, "rate": ours, "torch": theirs, "peak_bytes": peak}
    report.note(f"  {row.name}: {ours:.4g} {row.unit} a second", **values)
    return values


def seconds(call: Callable[[], Any]) -> float:
    """Of one call, with what it returned at hand."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def in_torch(report: Report, make: Callable[[], tuple[float, Callable[[], Any]]], device: Any) -> float | None:
    """The rate of the loop in PyTorch on the same kind of device; None where there is none."""
    try:
        import torch
    except ImportError:
        return None
    wanted = "cuda" if device.platform == "gpu" else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        report.note("  PyTorch is installed, but sees no GPU")
        return None
    with torch.device(wanted):
        count, call = make()
        call()
        return count / float(np.median([seconds(call) for _ in range(HOW_OFTEN)]))


def markdown(table: list[dict[str, Any]], device: Any) -> list[str]:
    """The table, headed by the device."""
    lines = [f"| {device.device_kind}, jax {jax.__version__} | a second | first call | PyTorch | ratio | peak |"]
    lines.append("|---|---|---|---|---|---|")
    for row in table:
        theirs, peak = row["torch"], row["peak_bytes"]
        beside = ("", "") if theirs is None else (f"{theirs:.4g}", f"{row['rate'] / theirs:.2f}")
        memory = "" if peak is None else f"{peak / 2**30:.2f} GiB"
        first = f"{row['first']:.1f} s"
        lines.append(f"| {row['row']} | {row['rate']:.4g} {row['unit']} | {first} | {' | '.join(beside)} | {memory} |")
    return lines
