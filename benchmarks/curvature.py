"""Top eigenvalues and Hessian products beside PyHessian, SciPy on curvlinops, and a Lanczos in PyTorch.

The digits MLP 64-128-128-10 (tanh, 26,122 parameters, 1,438 examples in one batch, float32), at its initial weights
and after training: five largest eigenvalues of the Hessian of the mean cross-entropy, all programs with the same
weights and data on all cores.

- *landscape*: `curvature.eigenpairs(key, objective, params, 5)`.
- *PyHessian* 0.1: `hessian(model, criterion, data).eigenvalues(top_n=5)`, power iteration with deflation, at its
  default tolerance. Making the object (the gradient's graph) is timed with it, once for five eigenvalues.
- *SciPy on curvlinops*: `eigsh(HessianLinearOperator(...).to_scipy(), k=5)`.
- *torch Lanczos*: a stand-in for hessian-eigenthings, which is not on the package index: SciPy's `eigsh` over
  double-backward products in plain PyTorch. As there, each product builds the gradient's graph anew.
- *torch Lanczos, graph kept*: the same with the gradient's graph built once, the best that this route can do.

`eigsh` has the loosest tolerance of 1e-1, 1e-2, ... whose eigenvalues are as accurate as asked, 1e-4 relative: it is
chosen beforehand, so the peers are asked for no more than that, while ours is left at its default.

The reference is `eigsh` in float64 to rounding over float64 products by JAX. Residuals that are stated must bound the
distance to it. A product is timed as the marginal cost in a chain of dependent ones, a gradient likewise.

Targets: eigenvalues to 1e-4; at least 3 times as fast as PyHessian and as SciPy on curvlinops and 1.5 times as the
torch Lanczos; one product at most 1.3 gradients, and at least twice as fast as PyHessian's.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from scipy.sparse.linalg import LinearOperator, eigsh

from benchmarks._harness import Report, Times
from landscape import Objective, curvature
from landscape.problems import digits_mlp

TOP = 5
ACCURACY = 1e-4
OURS, PYHESSIAN, CURVLINOPS = "landscape", "PyHessian", "SciPy eigsh on curvlinops"
LANCZOS, KEPT = "torch Lanczos", "torch Lanczos, graph kept"
PEERS = {PYHESSIAN: 3.0, CURVLINOPS: 3.0, LANCZOS: 1.5, KEPT: 1.0}  # how many times slower each should be
CHAINS = 5, 25  # links of the two chains whose difference is the marginal cost

Program = Callable[[], np.ndarray]


@dataclass(frozen=True)
class Case:
    """A network at some weights."""

    name: str
    objective: Objective
    params: Any

    @property
    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and labels."""
        return np.asarray(self.objective.data["x"]), np.asarray(self.objective.data["y"])


def cases(quick: bool) -> list[Case]:
    """The digits MLP at its start, and after 300 steps of Adam."""
    problem = digits_mlp((16,) if quick else (128, 128))
    objective, start = problem.objectives["train"], problem.init(jax.random.key(0))
    untrained = Case(f"{problem.name}, initial weights", objective, start)
    if quick:
        return [untrained]
    return [untrained, Case(f"{problem.name}, after 300 steps of Adam", objective, trained(objective, start, 300))]


def trained(objective: Objective, params: Any, steps: int) -> Any:
    optimizer = optax.adam(1e-3)

    def step(carry: Any, _: None) -> tuple[Any, None]:
        params, state = carry
        updates, state = optimizer.update(objective.value_and_grad(params)[1], state, params)
        return (optax.apply_updates(params, updates), state), None

    start = params, optimizer.init(params)
    return jax.jit(lambda start: jax.lax.scan(step, start, None, length=steps)[0][0])(start)


def reference(case: Case) -> np.ndarray:
    """The largest eigenvalues in float64, to rounding; descending."""
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), case.params)
        data = {"x": jnp.asarray(case.data[0], jnp.float64), "y": jnp.asarray(case.data[1])}
        objective = Objective(case.objective.loss_fn, data, has_aux=True)
        x, unravel = ravel_pytree(wide)
        # data and parameters are arguments: as constants XLA would fold them for minutes
        product = jax.jit(lambda o, p, v: ravel_pytree(curvature.hvp(o, p, unravel(v)))[0])
        operator = LinearOperator(
            (len(x),) * 2, lambda v: np.asarray(product(objective, wide, jnp.asarray(v.ravel()))), dtype=np.float64
        )
        start = np.random.default_rng(0).normal(size=len(x))
        return np.sort(eigsh(operator, TOP, which="LA", v0=start, return_eigenvectors=False))[::-1]


# ------------------------------------------------------------------------------------------------------- the programs


def ours(case: Case) -> Program:
    """Our eigenvalues, as a user calls for them."""
    key = jax.random.key(1)
    return lambda: np.asarray(curvature.eigenpairs(key, case.objective, case.params, TOP).values)


def torch_model(case: Case) -> tuple[Any, Any, Any]:
    """The network, its inputs and its labels in PyTorch, with the same weights."""
    import torch

    modules: list[Any] = []
    for layer in case.params:
        linear = torch.nn.Linear(*layer["kernel"].shape)
        with torch.no_grad():
            linear.weight.copy_(torch.tensor(np.array(layer["kernel"]).T))
            linear.bias.copy_(torch.tensor(np.array(layer["bias"])))
        modules += [linear, torch.nn.Tanh()]
    x, y = case.data
    return torch.nn.Sequential(*modules[:-1]), torch.tensor(x), torch.tensor(y, dtype=torch.long)


def pyhessian_object(case: Case) -> Any:
    import pyhessian
    import torch

    model, x, y = torch_model(case)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # backward(create_graph=True) makes a cycle, says torch
        return pyhessian.hessian(model, torch.nn.CrossEntropyLoss(), data=(x, y), cuda=False)


def pyhessian_eigenvalues(case: Case) -> Program:
    import torch

    def values() -> np.ndarray:
        torch.manual_seed(0)
        return np.asarray(pyhessian_object(case).eigenvalues(top_n=TOP)[0])

    return values


def torch_products(case: Case, keep: bool) -> LinearOperator:
    """Double-backward products in plain PyTorch."""
    import torch

    model, x, y = torch_model(case)
    params = list(model.parameters())

    def gradient() -> Any:
        loss = torch.nn.functional.cross_entropy(model(x), y)
        return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, params, create_graph=True)])

    kept = gradient() if keep else None

    def product(v: np.ndarray) -> np.ndarray:
        vector = torch.tensor(v.ravel(), dtype=torch.float32)
        g = gradient() if kept is None else kept
        parts = torch.autograd.grad(g, params, vector, retain_graph=keep)
        return torch.cat([p.reshape(-1) for p in parts]).numpy()

    size = sum(p.numel() for p in params)
    return LinearOperator((size, size), matvec=product, dtype=np.float32)


def curvlinops_products(case: Case) -> LinearOperator:
    import curvlinops
    import torch

    model, x, y = torch_model(case)
    criterion, params = torch.nn.CrossEntropyLoss(), list(model.parameters())
    operator = curvlinops.HessianLinearOperator(model, criterion, params, [(x, y)], check_deterministic=False)
    return operator.to_scipy()


def lanczos(operator: LinearOperator, expected: np.ndarray) -> tuple[Program, float]:
    """SciPy's Lanczos at the loosest tolerance that is accurate enough, and that tolerance."""

    def program(tol: float) -> Program:
        start = np.random.default_rng(0).normal(size=operator.shape[0]).astype(operator.dtype)
        return lambda: eigsh(operator, TOP, which="LA", v0=start, tol=tol, return_eigenvectors=False)[::-1]

    tols = [10.0**-i for i in range(1, 6)]
    return next(((program(t), t) for t in tols if error(program(t)(), expected) <= ACCURACY), (program(0.0), 0.0))


def error(values: np.ndarray, expected: np.ndarray) -> float:
    """Largest relative error of the eigenvalues, both sorted."""
    return float(np.max(np.abs(np.sort(values)[::-1] / expected - 1)))


# -------------------------------------------------------------------------------------------------------- the measures


def run(report: Report) -> None:
    """Both weights."""
    import psutil
    import torch

    torch.set_num_threads(psutil.cpu_count() or 1)
    for case in cases(report.quick):
        report.section(f"curvature: {case.name}")
        expected = reference(case)
        honesty(report, case, expected)
        eigenvalues(report, case, expected)
        products(report, case)


def honesty(report: Report, case: Case, expected: np.ndarray) -> None:
    """Whether our residuals bound our errors."""
    pairs = curvature.eigenpairs(jax.random.key(1), case.objective, case.params, TOP)
    off = np.abs(np.asarray(pairs.values, np.float64) - expected)
    slack = 8 * np.finfo(np.float32).eps * expected[0]  # what float32 rounds in a product
    bound = bool(np.all(off <= np.asarray(pairs.residuals) + slack))
    report.note(f"  reference {np.array2string(expected, precision=6)}", reference=expected.tolist())
    report.note(
        f"  ours within {off.max():.1e}, residuals {pairs.residuals.min():.1e} to {pairs.residuals.max():.1e} "
        f"({'they bound the error' if bound else 'THEY DO NOT BOUND THE ERROR'}), {int(pairs.num_products)} products, "
        f"converged: {bool(pairs.converged)}",
        errors=off.tolist(), residuals=np.asarray(pairs.residuals).tolist(), num_products=int(pairs.num_products),
    )  # fmt: skip


def eigenvalues(report: Report, case: Case, expected: np.ndarray) -> None:
    """All programs in turn."""
    programs = {OURS: ours(case), PYHESSIAN: pyhessian_eigenvalues(case)}
    operators = {CURVLINOPS: curvlinops_products(case), LANCZOS: torch_products(case, False)}
    for name, operator in (operators | {KEPT: torch_products(case, True)}).items():
        programs[name], tol = lanczos(operator, expected)
        report.note(f"  {name}: tolerance {tol:g}", tol=tol)
    for name, fn in programs.items():
        off = error(fn(), expected)
        report.note(f"  {name}: largest relative error {off:.1e}", relative_error=off)
    times = report.compare(programs, repeats=7)
    for peer, least in PEERS.items():
        report.finding(f"landscape / {peer}", times, lambda t, peer=peer: t[OURS] / t[peer], "{:.3f}", target=1 / least)


def products(report: Report, case: Case) -> None:
    """One product, one gradient, one product of PyHessian's."""
    import torch
    from pyhessian.utils import hessian_vector_product

    peer = pyhessian_object(case)
    torch.manual_seed(0)
    vector = [torch.randn_like(p) for p in peer.params]

    def theirs(length: int) -> Callable[[], Any]:
        return lambda: [hessian_vector_product(peer.gradsH, peer.params, vector) for _ in range(length)]

    chains = {"product": product_chain, "gradient": gradient_chain}
    programs: dict[str, Callable[[], Any]] = {}
    for length in CHAINS:
        for name, chain in chains.items():
            programs[f"{length} {name}s"] = chain(case, length)
        programs[f"{length} PyHessian products"] = theirs(length)
    for fn in programs.values():
        fn()
    times = report.compare(programs, repeats=7)

    def marginal(t: Times, name: str) -> float:
        return (t[f"{CHAINS[1]} {name}"] - t[f"{CHAINS[0]} {name}"]) / (CHAINS[1] - CHAINS[0])

    for name in ("products", "gradients", "PyHessian products"):
        report.finding(f"one of the {name}, ms", times, lambda t, name=name: 1e3 * marginal(t, name))
    report.finding(
        "product / gradient", times, lambda t: marginal(t, "products") / marginal(t, "gradients"), target=1.3
    )
    report.finding(
        "product / PyHessian product",
        times,
        lambda t: marginal(t, "products") / marginal(t, "PyHessian products"),
        target=0.5,
    )


def product_chain(case: Case, length: int) -> Callable[[], Any]:
    """Power iteration: each product takes the last one's result, and all share one forward pass."""

    @jax.jit
    def chain(objective: Objective, params: Any, vector: Any) -> Any:
        flat = curvature.Flat(objective, params)
        product = flat.products(flat.start)

        def link(v: jax.Array, _: None) -> tuple[jax.Array, None]:
            image = product(v)
            return image / jnp.linalg.norm(image), None

        return jax.lax.scan(link, vector, None, length=length)[0]

    x = jax.random.normal(jax.random.key(2), ravel_pytree(case.params)[0].shape)
    return lambda: chain(case.objective, case.params, x).block_until_ready()


def gradient_chain(case: Case, length: int) -> Callable[[], Any]:
    """Gradient descent: each gradient is taken where the last step led."""

    @jax.jit
    def chain(objective: Objective, params: Any) -> Any:
        flat = curvature.Flat(objective, params)

        def link(x: jax.Array, _: None) -> tuple[jax.Array, None]:
            return x - 1e-3 * flat.value_and_grad(x)[1], None

        return jax.lax.scan(link, flat.start, None, length=length)[0]

    return lambda: chain(case.objective, case.params).block_until_ready()
