"""Every tool under `jax_numpy_rank_promotion="raise"` and `jax_numpy_dtype_promotion="strict"`.

What is refused is refused while tracing, so most tools are traced only; their answers are checked elsewhere.
"""

import contextlib
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import landscape as ls
from landscape.curvature import EmpiricalFisher, Fisher, GaussNewton
from landscape.engine._kernel import Strategy

KEY = jax.random.key(3)
GRID = ls.Grid.square(1.0, 3)


@functools.cache
def tools_for(dtype):
    """The tools on parameters of this dtype, as a namespace."""
    inputs = jax.random.normal(jax.random.key(0), (12, 3), dtype)
    targets = jax.random.randint(jax.random.key(1), (12,), 0, 2)
    weights = {
        "first": {"kernel": jax.random.normal(jax.random.key(4), (3, 4), dtype), "bias": jnp.full(4, 0.1, dtype)},
        "last": {"kernel": jax.random.normal(jax.random.key(5), (4, 2), dtype), "bias": jnp.full(2, -0.2, dtype)},
    }
    other = jax.tree.map(lambda x: 0.5 * x + 0.25, weights)
    third = jax.tree.map(lambda x: jnp.sin(3.0 * x), weights)
    many = jax.tree.map(lambda *x: jnp.stack(x), weights, other, third)

    def predict(params, x):
        hidden = jnp.tanh(x @ params["first"]["kernel"] + params["first"]["bias"][None])
        return hidden @ params["last"]["kernel"] + params["last"]["bias"][None]

    def cross_entropy(params, batch):
        logits = jax.nn.log_softmax(predict(params, batch["x"]))
        return -jnp.take_along_axis(logits, batch["y"][:, None], axis=1)[:, 0]

    def half_square(x, _=None):
        """1/2 x' diag(2, 0.5) x - sum(sin x): smooth, with one minimum near 0."""
        return 0.5 * jnp.sum(jnp.array([2.0, 0.5], x.dtype) * x**2) - 0.3 * jnp.sum(jnp.sin(x))

    whole = ls.Objective(cross_entropy, {"x": inputs, "y": targets})
    batched = ls.Objective(cross_entropy, {"x": inputs, "y": targets}, batch_size=5)
    small = ls.Objective(half_square)
    spec = ls.paths.PermutationSpec.sequential(weights, order=["first", "last"])

    def plane():
        return ls.Subspace(weights, ls.subspace.filter_normalize(directions(), weights, filter_axis=-1))

    def directions():
        return ls.subspace.random_directions(KEY, weights)

    def surface(outputs=(), objective=whole):
        at = ls.Subspace(weights, jax.tree.map(lambda x: x[:2], many))
        return ls.LossSurface(at, objective, outputs)

    def basins(**options):
        return ls.BasinMap(ls.Subspace(jnp.zeros(2), jnp.eye(2)), small, optax.sgd(0.1), 40, **options)

    def at_a_point(point, num_coords=2):
        return lambda: point(jnp.full(num_coords, 0.3))

    def optimize(optimizer, objective=whole, **options):
        return ls.train(objective, optimizer, weights, num_steps=4, **options)

    def learning_coefficient():
        return ls.curvature.local_learning_coefficient(
            KEY, batched, weights, step_size=1e-4, num_chains=2, num_steps=8, num_records=4
        )

    operators = {
        "whole": whole,
        "batched": batched,
        "gauss_newton": GaussNewton(
            lambda p, b: predict(p, b["x"]), lambda z, b: 0.5 * jnp.sum(z**2, -1), {"x": inputs}
        ),
        "fisher": Fisher(lambda p, b: predict(p, b["x"]), {"x": inputs}),
        "empirical_fisher": EmpiricalFisher(whole),
    }
    traced = {
        "loss_surface": at_a_point(surface()),
        "loss_surface_with_everything": at_a_point(surface(("sem", "gradient", "gradient_norm"), batched)),
        "basin_map": at_a_point(basins(tol=1e-3)),
        "basin_map_of_minima": at_a_point(basins(minima=jnp.array([[0.1, 0.5]]), radius=0.5)),
        "trainability_map": at_a_point(
            ls.TrainabilityMap(lambda c: (optax.sgd(0.1 + 0.1 * c[0] ** 2), other), whole, 4)
        ),
        "instability": at_a_point(
            ls.paths.Instability(
                lambda key: jax.tree.map(lambda x: x * jax.random.normal(key, (), x.dtype), weights),
                whole,
                optax.sgd(0.1),
                3,
                batch_size=4,
                key=KEY,
            ),
            1,
        ),
        "bezier": at_a_point(ls.LossSurface(ls.paths.Bezier(many), whole), 1),
        "chain": at_a_point(ls.LossSurface(ls.paths.Chain(many), whole), 1),
        "objective": lambda: (whole(weights), batched.evaluate(weights), batched.per_example(weights)),
        "value_and_grad": lambda: batched.value_and_grad(weights),
        "random_directions": directions,
        "filter_normalize": plane,
        "layer_normalize": lambda: ls.subspace.layer_normalize(directions(), weights),
        "orthonormalize": lambda: ls.subspace.orthonormalize(directions()),
        "pca_directions": lambda: ls.subspace.pca_directions(many),
        "mask": lambda: ls.subspace.mask(directions(), "first"),
        "line": lambda: ls.subspace.line(weights, other)(jnp.array([0.3])),
        "plane_through": lambda: ls.subspace.plane_through(weights, other, third),
        "project": lambda: (plane().project(other), plane().residual(other)),
        "affine_vmap": lambda: ls.affine.affine_vmap(lambda c: whole(plane()(c)))(jnp.ones((3, 2))),
        "sgd": lambda: optimize(optax.sgd(0.1)),
        "momentum_in_batches": lambda: optimize(optax.sgd(0.1, momentum=0.9), batch_size=4, key=KEY, snapshots=True),
        "many_steps": lambda: ls.train(small, optax.sgd(0.1), jnp.array([0.5, -0.7]), num_steps=50, record_every=25),
        "hvp": lambda: ls.curvature.hvp(whole, weights, other),
        "hessian": lambda: ls.curvature.hessian(whole, weights),
        "layer_traces": lambda: ls.curvature.layer_traces(KEY, whole, weights, num_samples=4),
        "ascent_sharpness": lambda: ls.curvature.ascent_sharpness(whole, weights),
        "ascent_sharpness_adaptive": lambda: ls.curvature.ascent_sharpness(whole, weights, adaptive=True),
        "learning_coefficient": learning_coefficient,
        **{
            f"{name}_of_{what}": lambda tool=tool, operator=operator: tool(KEY, operator, weights)
            for what, operator in operators.items()
            for name, tool in {
                "eigenpairs": lambda *a: ls.curvature.eigenpairs(*a, 2),
                "trace": lambda *a: ls.curvature.trace(*a, num_products=6),
            }.items()
        },
        "eigenpairs_of_both_ends": lambda: ls.curvature.eigenpairs(KEY, whole, weights, 2, "LM"),
        "hutchinson": lambda: ls.curvature.trace(KEY, whole, weights, num_products=6, method="hutchinson"),
        "sharpness": lambda: ls.curvature.sharpness(KEY, whole, weights),
        "sharpness_adaptive": lambda: ls.curvature.sharpness(KEY, whole, weights, adaptive=True),
        "spectral_density": lambda: ls.curvature.spectral_density(KEY, whole, weights, num_probes=2, num_steps=4),
        "polish": lambda: ls.minima.polish(small, jnp.array([0.5, -0.7])),
        "polish_a_saddle": lambda: ls.minima.polish(ls.Objective(double_well), jnp.array([0.1, -0.2]), to="critical"),
        "fit_bezier": lambda: ls.paths.fit_bezier(KEY, whole, weights, other, num_steps=3, optimizer=optax.sgd(0.1)),
        "fit_chain": lambda: ls.paths.fit_chain(KEY, whole, weights, other, num_steps=3, optimizer=optax.sgd(0.1)),
        "elastic_band": lambda: ls.paths.elastic_band(
            ls.Objective(double_well), jnp.array([-1.0, 0.1]), jnp.array([1.0, 0.1]), num_images=5, num_steps=20
        ),
        "huber": lambda: ls.losses.huber(1.5)(inputs, 2.0 * inputs),
        "best_constant": lambda: ls.losses.best_constant(ls.losses.squared_error, inputs[:, 0]),
        "gaussian_efficiency": lambda: ls.losses.gaussian_efficiency(ls.losses.huber(1.5)),
        "losses_cross_entropy": lambda: (ls.losses.cross_entropy(inputs, targets), ls.losses.zero_one(inputs, targets)),
        "himmelblau": lambda: ls.problems.himmelblau(jnp.array([1.5, 0.5])),
    }
    return SimpleNamespace(**locals())


def double_well(x, _=None):
    return (x[0] ** 2 - 1.0) ** 2 + 0.7 * x[1] ** 2


TOOLS = tools_for("float32")
PROBLEMS = {
    "student_teacher": lambda: ls.problems.student_teacher(3),
    "xor": ls.problems.xor,
    "lennard_jones": lambda: ls.problems.lennard_jones(4),
    "thomson": lambda: ls.problems.thomson(4),
    "mean_field_net": lambda: ls.problems.mean_field_net(3, 4),
    "classifier": lambda: ls.problems.classifier(
        *ls.problems.mlp((3, 4, 2)), {"train": {"x": np.asarray(TOOLS.inputs), "y": np.asarray(TOOLS.targets)}}
    ),
    "deep_linear": lambda: ls.problems.deep_linear((3, 2, 3), 6),
    "autoencoder": ls.problems.autoencoder,
    "chebyshev_regression": lambda: ls.problems.chebyshev_regression(2, 5, (4,)),
    "modular_addition": lambda: ls.problems.modular_addition(5, 4),
}


RUN = {
    "sweep": lambda: ls.sweep(TOOLS.surface(), GRID),
    "sweep_hoisted": lambda: ls.sweep(TOOLS.surface(), GRID, batch=Strategy(3, hoist=True)),
    "sweep_at_a_tolerance": lambda: ls.sweep(
        lambda c: {"loss": jnp.sum(c**2)}, ls.Grid.square(1.0, 33), tolerance=0.01, batch=16
    ),
    "plan": lambda: ls.plan(lambda c: jnp.sum(c), GRID, batch=2),
    "train_many": lambda: ls.train_many(TOOLS.small, optax.sgd(0.1), jnp.eye(2), num_steps=4),
    "train_many_rates": lambda: ls.train_many(
        TOOLS.small, lambda rate: optax.sgd(rate), jnp.eye(2), num_steps=4, hyper=jnp.array([0.1, 0.2])
    ),
    "classify": lambda: ls.minima.classify(TOOLS.small, jnp.array([0.1, 0.5])),
    "distinct": lambda: ls.minima.distinct([*TOOLS.many.values()], np.ones(3), symmetry=ls.minima.HiddenUnits()),
    "match_weights": lambda: ls.paths.match_weights(TOOLS.weights, TOOLS.other, TOOLS.spec, key=KEY),
}


def descend(make):
    problem = make()
    params = problem.init(KEY) if getattr(problem, "params", None) is None else problem.params
    return [objective.value_and_grad(params) for objective in problem.objectives.values()]


@contextlib.contextmanager
def strict(x64=False):
    with jax.enable_x64(x64), jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield


FURTHER = [tool for tool in TOOLS.traced if "_of_" not in tool or tool.endswith("_of_whole")]
CASES = [(tool, "float32", False) for tool in TOOLS.traced]
CASES += [(tool, *kind) for tool in FURTHER for kind in [("float64", True), ("float32", True), ("bfloat16", False)]]


@pytest.mark.parametrize(("tool", "dtype", "x64"), CASES)
def test_tools_run_where_promotion_is_refused(tool, dtype, x64):
    with strict(x64):
        run = tools_for(dtype).traced[tool]
        jax.eval_shape(lambda: jax.tree.leaves(run()))


@pytest.mark.parametrize("tool", RUN)
def test_what_cannot_be_traced_runs_where_promotion_is_refused(tool):
    with strict():
        RUN[tool]()


@pytest.mark.parametrize("problem", PROBLEMS)
def test_problems_run_where_promotion_is_refused(problem):
    with strict():
        jax.eval_shape(lambda: descend(PROBLEMS[problem]))
