"""What `curvature.py` sweeps: curvature along a training, whole spectra, spectra against the number of classes, and
training that is projected onto a few eigenvectors or onto all the others."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

import landscape as ls
from landscape import curvature
from landscape.point import as_number
from landscape.problems import cross_entropy, digits, mlp

ARMS = {"full": (1.0, 1.0), "dominant": (1.0, 0.0), "bulk": (0.0, 1.0)}  # of the gradient: its part inside, outside
MOMENTS = ("start", "middle", "end")
BATCHES = 8  # minibatches whose gradients are looked at, for each snapshot
ROUNDING = 1e-6  # relative to the largest eigenvalue, in float32
_static: Any = {"static": True}


def flat(tree: Any) -> Float[Array, " n"]:
    """A tree as one vector."""
    return ravel_pytree(tree)[0]


def rows(vectors: Any) -> Float[Array, "k n"]:
    """A stack of trees as rows."""
    return jax.vmap(flat)(vectors)


def share(basis: Float[Array, "k n"], gradient: Float[Array, " n"]) -> Float[Array, ""]:
    """The share of a squared norm that lies in the span of orthonormal rows; NaN for the zero vector."""
    return jnp.sum((basis @ gradient) ** 2) / jnp.sum(gradient**2)


def minibatch(objective: ls.Objective, size: int, key: Array) -> ls.Objective:
    """The objective over some examples, drawn without replacement."""
    return objective.take(jax.random.choice(key, objective.num_examples, (size,), replace=False))  # ty: ignore


def gradient(objective: ls.Objective, params: Any) -> Float[Array, " n"]:
    """The gradient as one vector."""
    return flat(objective.value_and_grad(params)[1])


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Along:
    """Point function: the top of the Hessian and the gradient's place in it, along trainings.

    Attributes:
        objective: the loss over all examples.
        snapshots: parameters with three leading axes: arms, runs, records.
        key: of starts, probes and minibatches.
        top: dimension of the top space.
        batch_size: examples in a minibatch.
    """

    objective: ls.Objective
    snapshots: Any
    key: Any
    top: int = field(metadata=_static)
    batch_size: int = field(metadata=_static)

    def __call__(self, coords: Float[Array, " 3"]) -> dict[str, Array]:
        """Loss, eigenvalues with residuals, and shares of squared gradients."""
        place = as_number(coords)
        params = jax.tree.map(lambda x: jnp.asarray(x)[*place], self.snapshots)
        keys = jax.random.split(jax.random.fold_in(self.key, place[1]), 3)
        pairs = curvature.eigenpairs(keys[0], self.objective, params, self.top)
        basis, whole = rows(pairs.vectors), gradient(self.objective, params)
        random = jnp.linalg.qr(jax.random.normal(keys[1], basis.shape[::-1], basis.dtype))[0].T

        def of_batch(key: Array) -> Array:
            return share(basis, gradient(minibatch(self.objective, self.batch_size, key), params))

        batches = jax.random.split(jax.random.fold_in(keys[2], place[2]), BATCHES)
        return {
            "loss": self.objective(params),
            "values": pairs.values,
            "residuals": pairs.residuals,
            "share": share(basis, whole),
            "random_share": share(random, whole),
            "batch_share": jax.lax.map(of_batch, batches),
        }


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Spectra:
    """Point function: the spectrum of the Hessian at moment number `coords[0]`, estimated, and whole where it is small.

    Attributes:
        objective: the loss.
        points: parameters with a leading axis, the moments.
        key: of the probes.
        top: how many of the largest eigenvalues.
        probes: random vectors of the density.
        depth: Lanczos steps from each.
        dense: whether to take all eigenvalues of the dense Hessian too.
    """

    objective: ls.Objective
    points: Any
    key: Any
    top: int = field(metadata=_static)
    probes: int = field(metadata=_static)
    depth: int = field(metadata=_static)
    dense: bool = field(metadata=_static)

    def __call__(self, coords: Float[Array, " 1"]) -> dict[str, Array]:
        """Density, outliers and trace, and `dense`, all eigenvalues in ascending order."""
        params = jax.tree.map(lambda x: jnp.asarray(x)[as_number(coords[0])], self.points)
        keys = jax.random.split(self.key, 3)
        options: dict[str, Any] = {"num_probes": self.probes, "num_steps": self.depth}
        density = curvature.spectral_density(keys[0], self.objective, params, **options)
        pairs = curvature.eigenpairs(keys[1], self.objective, params, self.top)
        trace = curvature.trace(keys[2], self.objective, params)
        found = {
            "loss": self.objective(params),
            "nodes": density.nodes,
            "weights": density.weights,
            "values": pairs.values,
            "residuals": pairs.residuals,
            "trace": trace.mean,
            "trace_sem": trace.sem,
        }
        if self.dense:
            found["dense"] = jnp.linalg.eigvalsh(curvature.hessian(self.objective, params))
        return found


# ---------------------------------------------------------------------------------------- against the number of classes


def clusters_by_class(rng: np.random.Generator, separation: float, num: int, dim: int, classes: int) -> np.ndarray:
    """Gaussian clusters around centres from N(0, separation^2), each of unit variance in every coordinate.

    Args:
        rng: source of centres and examples.
        separation: standard deviation of the centres' coordinates.
        num: examples of each class.
        dim: dimension.
        classes: number of clusters.

    Returns:
        Examples scaled to unit variance, `(classes, num, dim)`.
    """
    centres = separation * rng.standard_normal((classes, 1, dim))
    examples = centres + rng.standard_normal((classes, num, dim))
    return (examples / np.sqrt(1 + separation**2)).astype(np.float32)


def digits_by_class(rng: np.random.Generator, num: int) -> np.ndarray:
    """Digits drawn without replacement, averaged to 4 x 4 pixels, `(10, num, 16)`; of the rarest there are 174."""
    parts = digits()
    x, y = (np.concatenate([part[name] for part in parts]) for name in ("x", "y"))
    x = x.reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4)).reshape(-1, 16)
    return np.stack([x[rng.choice(np.flatnonzero(y == c), num, replace=False)] for c in range(10)])


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class ByClasses:
    """Point function: the largest eigenvalues for `coords[1]` classes in run `coords[2]`, on data number `coords[0]`.

    Full-batch gradient descent on a tanh network with one hidden layer. The network has outputs for the largest number
    of classes; those without examples are cut off from the softmax, so their gradients and their rows of the Hessian
    are exactly 0, and one program does for all.

    Attributes:
        inputs: examples by class, `(data, run, class, example, dim)`.
        key: of starts.
        optimizer: of the training.
        num: examples.
        hidden: units of the hidden layer.
        steps: steps of training, even.
    """

    inputs: Float[Array, "data runs classes m dim"]
    key: Any
    optimizer: optax.GradientTransformation = field(metadata=_static)
    num: int = field(metadata=_static)
    hidden: int = field(metadata=_static)
    steps: int = field(metadata=_static)

    @property
    def most(self) -> int:
        """The largest number of classes."""
        return self.inputs.shape[2]

    def __call__(self, coords: Float[Array, " 3"]) -> dict[str, Array]:
        """At each moment the `3 most + 1` largest `values`, from the dense Hessian, `loss` and `accuracy`."""
        number, classes, seed = as_number(coords)
        init, objective = self.problem(number, classes, seed)
        start = init(jax.random.fold_in(self.key, seed))
        options: dict[str, Any] = {"num_steps": self.steps, "record_every": self.steps // 2, "snapshots": True}
        run = ls.train(objective, self.optimizer, start, track={"train": objective}, **options)

        def largest(params: Any) -> Array:
            return jnp.linalg.eigvalsh(curvature.hessian(objective, params))[: -3 * self.most - 2 : -1]

        values = jax.lax.map(largest, run.snapshots)
        told = {name: run.history[f"train_{name}"] for name in ("loss", "accuracy")}
        return {"values": values, **told}

    def problem(self, number: Any, classes: Any, seed: Any) -> tuple[Any, ls.Objective]:
        """`init` of the network, and its loss on the first classes of data `number` in run `seed`."""
        init, predict = mlp((self.inputs.shape[-1], self.hidden, self.most))
        labels, turn = jnp.arange(self.num) % classes, jnp.arange(self.num) // classes
        x = jnp.asarray(self.inputs)[number, seed, labels, turn]
        data = {"x": x, "y": labels, "classes": jnp.full(self.num, classes)}

        def loss_fn(params: Any, batch: Any) -> Any:
            there = jnp.arange(self.most) < batch["classes"][:, None]
            return cross_entropy(jnp.where(there, predict(params, batch["x"]), -1e9), batch["y"])

        return init, ls.Objective(loss_fn, data, has_aux=True)


def by_gap(values: np.ndarray, classes: int) -> int:
    """The number of eigenvalues above the largest gap, in the logarithm, among the first `3 classes`.

    Args:
        values: the largest eigenvalues, from the largest; those that are nothing but rounding do not count.
        classes: the number of classes.
    """
    values = np.asarray(values[: 3 * classes + 1], np.float64)
    positive = values > ROUNDING * abs(values[0])
    ratios = -np.diff(np.log(values[positive]))
    return int(np.argmax(ratios)) + 1 if len(ratios) else int(positive.sum())


# ------------------------------------------------------------------------------------------------- projected training


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Projected:
    """Point function: SGD from the start of run `coords[1]` with the gradient projected as arm `coords[0]` says.

    Song, Ahn & Yun (2024) project every step onto the eigenvectors of that step; here they are taken anew every few
    steps.

    Attributes:
        objective: the loss over all examples.
        starts: parameters with a leading axis, the runs.
        key: of minibatches, the same for all arms.
        rate: learning rate.
        top: dimension of the top space.
        batch_size: examples in a step.
        steps: steps, a multiple of `refresh`.
        refresh: steps between two looks at the Hessian.
    """

    objective: ls.Objective
    starts: Any
    key: Any
    rate: Any
    top: int = field(metadata=_static)
    batch_size: int = field(metadata=_static)
    steps: int = field(metadata=_static)
    refresh: int = field(metadata=_static)

    def __call__(self, coords: Float[Array, " 2"]) -> dict[str, Array]:
        """Loss and share of the step's squared gradient in the top space, every `refresh` steps."""
        arm, number = as_number(coords)
        inside, outside = jnp.asarray(list(ARMS.values()))[arm]
        params = jax.tree.map(lambda x: jnp.asarray(x)[number], self.starts)
        start, unravel = ravel_pytree(params)
        key = jax.random.fold_in(self.key, number)

        def step(t: Any, carry: Any) -> Any:
            at, basis, _ = carry
            part = minibatch(self.objective, self.batch_size, jax.random.fold_in(key, t))
            slope = gradient(part, unravel(at))
            top = (basis @ slope) @ basis
            at = at - self.rate * (inside * top + outside * (slope - top))
            return at, basis, share(basis, slope)

        def advance(at: Array, t: Array) -> Any:
            basis = rows(
                curvature.eigenpairs(jax.random.fold_in(key, t), self.objective, unravel(at), self.top).vectors
            )
            new, _, last = jax.lax.fori_loop(t, t + self.refresh, step, (at, basis, jnp.zeros((), at.dtype)))
            return new, (self.objective(unravel(at)), last)

        end, (losses, shares) = jax.lax.scan(advance, start, jnp.arange(0, self.steps, self.refresh))
        return {"loss": jnp.append(losses, self.objective(unravel(end))), "share": shares}


def subset(objective: ls.Objective, num: int) -> ls.Objective:
    """The objective over the first `num` of its examples."""
    return dataclasses.replace(objective, data=jax.tree.map(lambda x: x[:num], objective.data))
