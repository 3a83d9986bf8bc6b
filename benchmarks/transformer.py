"""A decoder beside PyTorch: surface, gradient, Hessian product, largest eigenvalues, and the floor of the machine.

`problems.language_model` with 4 layers of width 256 (3.3 M parameters, 8 sequences of 64 bytes), and with 12 of width
768 (85 M, 2 sequences of 16). The same decoder is written in PyTorch, `scaled_dot_product_attention` and all, with the
same weights; losses at every point and gradients must agree before anything is timed.

- *surface*: points of a filter-normalised plane. Peers: a loop in PyTorch that writes each point into the parameters,
  the same with `torch.compile`, and for the smaller decoder `torch.func.vmap` over `functional_call`, four points at a
  time. The *floor* is the time of the decoder's matrix products alone, each timed by itself in the same library.
- *gradient, Hessian product*: the marginal cost in a chain; PyTorch's product goes backward through a kept graph of
  the gradient, as PyHessian's does.
- *eigenvalues* (smaller decoder): the five largest, PyHessian and SciPy on curvlinops asked for 1e-3 relative, which
  is checked, as is ours, against SciPy to rounding over products of ours in float64.

Targets: the surface at least 1.5 times as fast as the best peer, the product 1.5, the eigenvalues 3 at equal error.
"""

import math
import os
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.sparse.linalg import LinearOperator, eigsh

import landscape as ls
from benchmarks._harness import Report, Times, settle

TOP, ACCURACY, AGREEMENT = 5, 1e-3, 2e-5
OURS, LOOP, COMPILED, VMAPPED = "landscape", "torch loop", "torch.compile loop", "torch.func.vmap"
PYHESSIAN, CURVLINOPS = "PyHessian", "SciPy eigsh on curvlinops"
TARGETS = {"surface": 1.5, "product": 1.5, "eigenvalues": 3.0}
CHAINS = 2, 6  # links of the two chains whose difference is the marginal cost
HEADS = 4

Program = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """A decoder, how many points are timed, and whether it is small enough for every peer."""

    width: int
    depth: int
    context: int
    sequences: int
    side: int
    small: bool

    def problem(self) -> ls.Problem:
        """The decoder and its text."""
        sizes = {"context": self.context, "num_train": self.sequences, "num_test": 1}
        return ls.problems.language_model(self.width, self.depth, heads=HEADS, **sizes)


def cases(quick: bool) -> list[Case]:
    """Both decoders."""
    if quick:
        return [Case(16, 1, 8, 2, 2, True)]
    return [Case(256, 4, 64, 8, 5, True), Case(768, 12, 16, 2, 3, False)]


# --------------------------------------------------------------------------------------------------------- in PyTorch


def torch_decoder(params: Any) -> Any:
    """The decoder of `problems.language_model` as a module with these weights."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    def weight(x: Any) -> Any:
        return nn.Parameter(torch.tensor(np.array(x)))

    def normed(x: Any, scale: Any) -> Any:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * scale

    class Layer(nn.Module):
        def __init__(self, layer: Any) -> None:
            super().__init__()
            for name in ("norm_1", "norm_2"):
                setattr(self, name, weight(layer[name]["scale"]))
            width = layer["up"]["kernel"].shape[0]
            for name in ("query", "key", "value"):
                setattr(self, name, weight(layer[name]["kernel"].reshape(width, width)))
            self.out = weight(layer["out"]["kernel"].reshape(width, width))
            self.up, self.down = weight(layer["up"]["kernel"]), weight(layer["down"]["kernel"])

        def forward(self, x: Any) -> Any:
            inner = normed(x, self.norm_1)
            q, k, v = (
                (inner @ w).unflatten(-1, (HEADS, -1)).transpose(1, 2) for w in (self.query, self.key, self.value)
            )
            seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + seen.transpose(1, 2).flatten(2) @ self.out
            return x + F.gelu(normed(x, self.norm_2) @ self.up, approximate="tanh") @ self.down

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = weight(params["bytes"]["embedding"])
            self.position = weight(params["position"]["embedding"])
            self.layers = nn.ModuleList([Layer(layer) for layer in params["layers"]])
            self.norm = weight(params["norm"]["scale"])

        def forward(self, ids: Any) -> Any:
            x = F.embedding(ids, self.table) * self.table.shape[1] ** 0.5 + self.position
            for layer in self.layers:
                x = layer(x)
            return (normed(x, self.norm) @ self.table.T).flatten(0, 1)

    return Decoder()


def as_tree(module: Any, tensors: Any, like: Any) -> Any:
    """Tensors, one for each parameter of the module, as a tree of ours."""
    named = {name: t.detach().numpy() for (name, _), t in zip(module.named_parameters(), tensors, strict=True)}

    def leaf(path: Any, x: Any) -> Any:
        keys = [str(getattr(p, "key", getattr(p, "idx", None))) for p in path]
        top = {"bytes": "table", "position": "position", "norm": "norm"}
        name = top[keys[0]] if keys[0] in top else ".".join(keys[:3])
        return named[name].reshape(x.shape)

    return jax.tree_util.tree_map_with_path(leaf, like)


def torch_data(objective: ls.Objective) -> tuple[Any, Any]:
    """Inputs and targets."""
    import torch

    windows = torch.tensor(np.asarray(objective.data["bytes"]), dtype=torch.long)
    return windows[:, :-1], windows[:, 1:].flatten()


def torch_directions(module: Any, directions: Any) -> list[tuple[Any, Any]]:
    """Both directions, in the order and shapes of the module's parameters."""
    import torch

    top = {"table": "bytes", "position": "position", "norm": "norm"}
    found = []
    for name, p in module.named_parameters():
        if name in top:
            (leaf,) = directions[top[name]].values()
        else:
            _, number, inner = name.split(".")
            (leaf,) = directions["layers"][int(number)][inner].values()
        found.append(tuple(torch.tensor(np.array(leaf[i])).reshape(p.shape) for i in (0, 1)))
    return found


# ------------------------------------------------------------------------------------------------------- the measures


def surface(report: Report, case: Case, problem: ls.Problem, params: Any) -> None:
    """A plane, ours and by the peers."""
    objective = problem.objectives["train"]
    directions = ls.subspace.filter_normalize(ls.subspace.random_directions(jax.random.key(1), params), params)
    plane = ls.LossSurface(ls.Subspace(params, directions), objective)
    grid = ls.Grid.square(0.5, case.side)
    module, data = torch_decoder(params), torch_data(objective)
    moves = torch_directions(module, directions)
    programs: dict[str, Program] = {OURS: lambda: ls.sweep(plane, grid, progress=False)["loss"].ravel()}
    programs[LOOP] = by_loop(module, data, moves, grid.points(), False)
    programs[COMPILED] = by_loop(module, data, moves, grid.points(), True)
    if case.small:
        programs[VMAPPED] = by_vmap(module, data, moves, grid.points())
    expected = report.once("landscape, first call", programs[OURS])
    for name in [name for name in programs if name != OURS]:
        losses = report.once(f"{name}, first call", programs[name])
        agree(report, f"{name}: losses", float(np.max(np.abs(losses / expected - 1))))
    settle(programs[OURS])
    programs["floor"] = floor(case, len(grid.points()))
    times = report.compare(programs, repeats=5)
    peers = [name for name in programs if name not in (OURS, "floor")]
    for name in peers:
        report.finding(f"surface: {name} / landscape", times, lambda t, n=name: t[n] / t[OURS])
    report.finding("surface: best peer / landscape (at least 1.5)", times, lambda t: min(t[n] for n in peers) / t[OURS])
    report.finding("surface: floor / landscape", times, lambda t: t["floor"] / t[OURS])


def agree(report: Report, what: str, difference: float) -> None:
    """Note a relative difference, and stop where programs do not compute the same."""
    report.note(f"  {what} differ by at most {difference:.1e} relative", what=what, differs=difference)
    if not difference <= AGREEMENT:
        raise SystemExit(f"{what} differ by more than {AGREEMENT:g}: nothing to compare")


def by_loop(module: Any, data: Any, moves: Any, points: np.ndarray, compiled: bool) -> Program:
    """Point after point, on the module itself."""
    import torch
    from torch.nn import functional as F

    ids, targets = data
    weights = [(w, w.detach().clone(), *pair) for w, pair in zip(module.parameters(), moves)]
    loss = lambda: F.cross_entropy(module(ids), targets)  # noqa: E731
    evaluate = torch.compile(loss) if compiled else loss

    def losses() -> np.ndarray:
        values = []
        with torch.no_grad():
            for a, b in points:
                for weight, origin, one, two in weights:
                    torch.add(origin, one, alpha=float(a), out=weight).add_(two, alpha=float(b))
                values.append(float(evaluate()))
            for weight, origin, _, _ in weights:
                weight.copy_(origin)
        return np.asarray(values)

    return losses


def by_vmap(module: Any, data: Any, moves: Any, points: np.ndarray) -> Program:
    """Four points at a time."""
    import torch
    from torch.nn import functional as F

    ids, targets = data
    names = [name for name, _ in module.named_parameters()]
    origins = [p.detach().clone() for p in module.parameters()]

    def loss(point: Any) -> Any:
        moved = {n: o + point[0] * one + point[1] * two for n, o, (one, two) in zip(names, origins, moves)}
        return F.cross_entropy(torch.func.functional_call(module, moved, (ids,)), targets)

    many, coords = torch.func.vmap(loss), torch.tensor(points, dtype=torch.float32)

    def losses() -> np.ndarray:
        with torch.no_grad():
            return torch.cat([many(part) for part in coords.split(4)]).cpu().numpy()

    return losses


def floor(case: Case, num: int) -> Program:
    """The matrix products of the decoder, as often as the surface needs them."""
    rows, w = case.sequences * case.context, case.width
    shapes = [((rows, w), (w, w))] * 4 + [((rows, w), (w, 4 * w)), ((rows, 4 * w), (4 * w, w))]
    pairs = [[jnp.full(a, 0.5), jnp.full(b, 0.25)] for a, b in [*(shapes * case.depth), ((rows, w), (w, 256))]]
    product = jax.jit(lambda a, b: jnp.matmul(a, b, precision="highest"))

    def products() -> None:
        for _ in range(num):
            results = [product(a, b) for a, b in pairs]
        jax.block_until_ready(results)

    return products


def derivatives(report: Report, case: Case, problem: ls.Problem, params: Any) -> None:
    """One gradient and one Hessian product, as the marginal cost in chains of dependent ones."""
    objective = problem.objectives["train"]
    module, (ids, targets) = torch_decoder(params), torch_data(objective)
    theirs = torch_chains(module, ids, targets)
    gradient = theirs["gradients"](1)
    check_gradients(report, as_tree(module, gradient(), params), objective, params)
    programs: dict[str, Program] = {}
    for length in CHAINS:
        for name, chain in (("products", product_chain), ("gradients", gradient_chain)):
            programs[f"{length} {name}"] = chain(objective, params, length)
            programs[f"{length} torch {name}"] = theirs[name](length)
    for program in programs.values():
        program()
    times = report.compare(programs, repeats=5)

    def marginal(t: Times, name: str) -> float:
        return (t[f"{CHAINS[1]} {name}"] - t[f"{CHAINS[0]} {name}"]) / (CHAINS[1] - CHAINS[0])

    for name in ("gradients", "torch gradients", "products", "torch products"):
        report.finding(f"one of the {name}, ms", times, lambda t, n=name: 1e3 * marginal(t, n), "{:.1f}")
    report.finding("product / gradient", times, lambda t: marginal(t, "products") / marginal(t, "gradients"))
    for name, target in (("gradients", None), ("products", 1 / TARGETS["product"])):
        label = f"landscape / torch, one of the {name}"
        report.finding(label, times, lambda t, n=name: marginal(t, n) / marginal(t, f"torch {n}"), target=target)


def torch_chains(module: Any, ids: Any, targets: Any) -> dict[str, Callable[[int], Program]]:
    """Gradients, each with its graph, and products through a graph that is kept."""
    import torch
    from torch.nn import functional as F

    params = list(module.parameters())

    def gradient(keep: bool) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.autograd.grad(F.cross_entropy(module(ids), targets), params, create_graph=keep)

    def gradients(length: int) -> Program:
        return lambda: [gradient(False) for _ in range(length)][-1]

    def products(length: int) -> Program:
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):  # the others have no second derivative
            kept = gradient(True)
        vectors = [torch.ones_like(p) for p in params]
        return lambda: [torch.autograd.grad(kept, params, vectors, retain_graph=True) for _ in range(length)][-1]

    return {"gradients": gradients, "products": products}


def check_gradients(report: Report, theirs: Any, objective: ls.Objective, params: Any) -> None:
    """The gradients of both libraries."""
    mine = jax.jit(lambda o, p: o.value_and_grad(p)[1])(objective, params)
    gap = max(float(np.abs(a - b).max()) for a, b in zip(jax.tree.leaves(theirs), jax.tree.leaves(mine)))
    agree(report, "gradients", gap / max(float(np.abs(x).max()) for x in jax.tree.leaves(mine)))


def product_chain(objective: ls.Objective, params: Any, length: int) -> Program:
    """Each product takes the last one's result."""

    @jax.jit
    def chain(objective: ls.Objective, params: Any, vector: Any) -> Any:
        def link(v: Any, _: None) -> tuple[Any, None]:
            image = ls.curvature.hvp(objective, params, v)
            return jax.tree.map(lambda x: x / (1 + jnp.max(jnp.abs(x))), image), None

        return jax.lax.scan(link, vector, None, length=length)[0]

    vector = jax.tree.map(jnp.ones_like, params)
    return lambda: jax.block_until_ready(chain(objective, params, vector))


def gradient_chain(objective: ls.Objective, params: Any, length: int) -> Program:
    """Each gradient is taken where the last step led."""

    @jax.jit
    def chain(objective: ls.Objective, params: Any) -> Any:
        def link(p: Any, _: None) -> tuple[Any, None]:
            return jax.tree.map(lambda x, g: x - 1e-3 * g, p, objective.value_and_grad(p)[1]), None

        return jax.lax.scan(link, params, None, length=length)[0]

    return lambda: jax.block_until_ready(chain(objective, params))


def eigenvalues(report: Report, problem: ls.Problem, params: Any) -> None:
    """The five largest, at equal error."""
    objective = problem.objectives["train"]
    expected = reference(problem, params)
    key = jax.random.key(1)
    programs: dict[str, Program] = {
        OURS: lambda: np.asarray(ls.curvature.eigenpairs(key, objective, params, TOP).values)
    }
    programs |= torch_eigenvalues(params, objective)
    for name, program in programs.items():
        off = float(np.max(np.abs(np.sort(report.once(f"{name}, first call", program))[::-1] / expected - 1)))
        report.note(
            f"  {name}: largest relative error {off:.1e}{'' if off <= ACCURACY else ' (NOT as asked)'}", error=off
        )
    times = report.compare(programs, repeats=3)
    for peer in (PYHESSIAN, CURVLINOPS):
        label = f"eigenvalues: landscape / {peer}"
        report.finding(label, times, lambda t, p=peer: t[OURS] / t[p], target=1 / TARGETS["eigenvalues"])


def reference(problem: ls.Problem, params: Any) -> np.ndarray:
    """In float64, by SciPy to a thousandth of the accuracy asked."""
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), params)
        objective = problem.objectives["train"]
        size, unravel = len(ravel_pytree(wide)[0]), ravel_pytree(wide)[1]
        product = jax.jit(lambda o, p, v: ravel_pytree(ls.curvature.hvp(o, p, unravel(v)))[0])
        operator = LinearOperator(
            (size, size), lambda v: np.asarray(product(objective, wide, jnp.asarray(v.ravel()))), dtype=np.float64
        )
        start = np.random.default_rng(0).normal(size=size)
        found = eigsh(operator, TOP, which="LA", v0=start, tol=1e-3 * ACCURACY, return_eigenvectors=False)
        return np.sort(found)[::-1]


def torch_eigenvalues(params: Any, objective: ls.Objective) -> dict[str, Program]:
    """PyHessian and curvlinops."""
    import curvlinops
    import pyhessian
    import torch
    from torch import nn

    module, (ids, targets) = torch_decoder(params), torch_data(objective)
    criterion = nn.CrossEntropyLoss()

    def power() -> np.ndarray:
        torch.manual_seed(0)
        found = pyhessian.hessian(module, criterion, data=(ids, targets), cuda=False)
        return np.asarray(found.eigenvalues(top_n=TOP, tol=ACCURACY)[0])

    def lanczos() -> np.ndarray:
        given = (module, criterion, list(module.parameters()), [(ids, targets)])
        operator = curvlinops.HessianLinearOperator(*given, check_deterministic=False, **_counted(ids)).to_scipy()
        start = np.random.default_rng(0).normal(size=operator.shape[0]).astype(np.float32)
        return eigsh(operator, TOP, which="LA", v0=start, tol=ACCURACY, return_eigenvectors=False)

    def in_math(program: Program) -> Program:
        def run() -> np.ndarray:
            with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return program()

        return run

    return {PYHESSIAN: in_math(power), CURVLINOPS: in_math(lanczos)}


def _counted(ids: Any) -> dict[str, Any]:
    """Curvlinops counts the entries of a batch itself, unless they are not its first axis."""
    return {"num_data": math.prod(ids.shape), "batch_size_fn": lambda x: math.prod(x.shape)}


def run(report: Report) -> None:
    """Both decoders."""
    import psutil
    import torch

    torch.set_num_threads(psutil.cpu_count() or 1)
    with tempfile.TemporaryDirectory() as cache, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache  # nothing compiled by an earlier run
        for case in cases(report.quick):
            problem = case.problem()
            params = problem.init(jax.random.key(0))
            size = sum(x.size for x in jax.tree.leaves(params))
            length = f"{case.sequences} sequences of {case.context} bytes"
            report.section(f"transformer: {case.depth} layers of width {case.width}, {size:,} parameters, {length}")
            surface(report, case, problem, params)
            derivatives(report, case, problem, params)
            if case.small:
                eigenvalues(report, problem, params)
