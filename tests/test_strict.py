"""Every tool under `jax_numpy_rank_promotion="raise"` and `jax_numpy_dtype_promotion="strict"`.

What is refused is refused while tracing, so most tools are traced only; their answers are checked elsewhere.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import landscape as ls
from landscape._kernel import Strategy
from landscape.curvature import EmpiricalFisher, Fisher, GaussNewton

KEY = jax.random.key(3)
X = jax.random.normal(jax.random.key(0), (12, 3))
Y = jax.random.randint(jax.random.key(1), (12,), 0, 2)
PARAMS = {
    "first": {"kernel": jax.random.normal(jax.random.key(4), (3, 4)), "bias": jnp.full(4, 0.1)},
    "last": {"kernel": jax.random.normal(jax.random.key(5), (4, 2)), "bias": jnp.full(2, -0.2)},
}
OTHER = jax.tree.map(lambda x: 0.5 * x + 0.25, PARAMS)
THIRD = jax.tree.map(lambda x: jnp.sin(3.0 * x), PARAMS)
MANY = jax.tree.map(lambda *x: jnp.stack(x), PARAMS, OTHER, THIRD)
GRID = ls.Grid.square(1.0, 3)


def predict(params, x):
    hidden = jnp.tanh(x @ params["first"]["kernel"] + params["first"]["bias"][None])
    return hidden @ params["last"]["kernel"] + params["last"]["bias"][None]


def cross_entropy(params, batch):
    logits = jax.nn.log_softmax(predict(params, batch["x"]))
    return -jnp.take_along_axis(logits, batch["y"][:, None], axis=1)[:, 0]


def half_square(x, _=None):
    """1/2 x' diag(2, 0.5) x - sum(sin x): smooth, with one minimum near 0."""
    return 0.5 * jnp.sum(jnp.array([2.0, 0.5]) * x**2) - 0.3 * jnp.sum(jnp.sin(x))


OBJECTIVE = ls.Objective(cross_entropy, {"x": X, "y": Y})
BATCHED = ls.Objective(cross_entropy, {"x": X, "y": Y}, batch_size=5)
SMALL = ls.Objective(half_square)
SPEC = ls.paths.PermutationSpec.sequential(PARAMS, order=["first", "last"])


def plane(**options):
    return ls.Subspace(PARAMS, ls.subspace.filter_normalize(directions(), PARAMS, filter_axis=-1))


def directions():
    return ls.subspace.random_directions(KEY, PARAMS)


def surface(outputs=(), objective=OBJECTIVE):
    at = ls.Subspace(PARAMS, jax.tree.map(lambda x: x[:2], MANY))
    return ls.LossSurface(at, objective, outputs)


def basins(**options):
    return ls.BasinMap(ls.Subspace(jnp.zeros(2), jnp.eye(2)), SMALL, optax.sgd(0.1), 40, **options)


def at_a_point(point, num_coords=2):
    return lambda: point(jnp.full(num_coords, 0.3))


def optimize(optimizer, objective=OBJECTIVE, **options):
    return ls.train(objective, optimizer, PARAMS, num_steps=4, **options)


def learning_coefficient():
    return ls.curvature.local_learning_coefficient(
        KEY, BATCHED, PARAMS, step_size=1e-4, num_chains=2, num_steps=8, num_records=4
    )


def double_well(x, _=None):
    return (x[0] ** 2 - 1.0) ** 2 + 0.7 * x[1] ** 2


CURVATURE = {
    "objective": OBJECTIVE,
    "batched": BATCHED,
    "gauss_newton": GaussNewton(lambda p, b: predict(p, b["x"]), lambda z, b: 0.5 * jnp.sum(z**2, -1), {"x": X}),
    "fisher": Fisher(lambda p, b: predict(p, b["x"]), {"x": X}),
    "empirical_fisher": EmpiricalFisher(OBJECTIVE),
}
TRACED = {
    "loss_surface": at_a_point(surface()),
    "loss_surface_with_everything": at_a_point(surface(("sem", "gradient", "gradient_norm"), BATCHED)),
    "basin_map": at_a_point(basins(tol=1e-3)),
    "basin_map_of_minima": at_a_point(basins(minima=jnp.array([[0.1, 0.5]]), radius=0.5)),
    "trainability_map": at_a_point(
        ls.TrainabilityMap(lambda c: (optax.sgd(0.1 + 0.1 * c[0] ** 2), OTHER), OBJECTIVE, 4)
    ),
    "instability": at_a_point(
        ls.paths.Instability(
            lambda key: jax.tree.map(lambda x: x * jax.random.normal(key), PARAMS),
            OBJECTIVE,
            optax.sgd(0.1),
            3,
            batch_size=4,
            key=KEY,
        ),
        1,
    ),
    "bezier": at_a_point(ls.LossSurface(ls.paths.Bezier(MANY), OBJECTIVE), 1),
    "chain": at_a_point(ls.LossSurface(ls.paths.Chain(MANY), OBJECTIVE), 1),
    "objective": lambda: (OBJECTIVE(PARAMS), BATCHED.evaluate(PARAMS), BATCHED.per_example(PARAMS)),
    "value_and_grad": lambda: BATCHED.value_and_grad(PARAMS),
    "random_directions": directions,
    "filter_normalize": plane,
    "layer_normalize": lambda: ls.subspace.layer_normalize(directions(), PARAMS),
    "orthonormalize": lambda: ls.subspace.orthonormalize(directions()),
    "pca_directions": lambda: ls.subspace.pca_directions(MANY),
    "mask": lambda: ls.subspace.mask(directions(), "first"),
    "line": lambda: ls.subspace.line(PARAMS, OTHER)(jnp.array([0.3])),
    "plane_through": lambda: ls.subspace.plane_through(PARAMS, OTHER, THIRD),
    "project": lambda: (plane().project(OTHER), plane().residual(OTHER)),
    "affine_vmap": lambda: ls.affine.affine_vmap(lambda c: OBJECTIVE(plane()(c)))(jnp.ones((3, 2))),
    "sgd": lambda: optimize(optax.sgd(0.1)),
    "momentum_in_batches": lambda: optimize(optax.sgd(0.1, momentum=0.9), batch_size=4, key=KEY, snapshots=True),
    "many_steps": lambda: ls.train(SMALL, optax.sgd(0.1), jnp.array([0.5, -0.7]), num_steps=50, record_every=25),
    "hvp": lambda: ls.curvature.hvp(OBJECTIVE, PARAMS, OTHER),
    "hessian": lambda: ls.curvature.hessian(OBJECTIVE, PARAMS),
    "layer_traces": lambda: ls.curvature.layer_traces(KEY, OBJECTIVE, PARAMS, num_samples=4),
    "ascent_sharpness": lambda: ls.curvature.ascent_sharpness(OBJECTIVE, PARAMS),
    "ascent_sharpness_adaptive": lambda: ls.curvature.ascent_sharpness(OBJECTIVE, PARAMS, adaptive=True),
    "learning_coefficient": learning_coefficient,
    **{
        f"{name}_of_{what}": lambda tool=tool, operator=operator: tool(KEY, operator, PARAMS)
        for what, operator in CURVATURE.items()
        for name, tool in {
            "eigenpairs": lambda *a: ls.curvature.eigenpairs(*a, 2),
            "trace": lambda *a: ls.curvature.trace(*a, num_products=6),
        }.items()
    },
    "eigenpairs_of_both_ends": lambda: ls.curvature.eigenpairs(KEY, OBJECTIVE, PARAMS, 2, "LM"),
    "hutchinson": lambda: ls.curvature.trace(KEY, OBJECTIVE, PARAMS, num_products=6, method="hutchinson"),
    "sharpness": lambda: ls.curvature.sharpness(KEY, OBJECTIVE, PARAMS),
    "sharpness_adaptive": lambda: ls.curvature.sharpness(KEY, OBJECTIVE, PARAMS, adaptive=True),
    "spectral_density": lambda: ls.curvature.spectral_density(KEY, OBJECTIVE, PARAMS, num_probes=2, num_steps=4),
    "polish": lambda: ls.minima.polish(SMALL, jnp.array([0.5, -0.7])),
    "polish_a_saddle": lambda: ls.minima.polish(ls.Objective(double_well), jnp.array([0.1, -0.2]), to="critical"),
    "fit_bezier": lambda: ls.paths.fit_bezier(KEY, OBJECTIVE, PARAMS, OTHER, num_steps=3, optimizer=optax.sgd(0.1)),
    "fit_chain": lambda: ls.paths.fit_chain(KEY, OBJECTIVE, PARAMS, OTHER, num_steps=3, optimizer=optax.sgd(0.1)),
    "elastic_band": lambda: ls.paths.elastic_band(
        ls.Objective(double_well), jnp.array([-1.0, 0.1]), jnp.array([1.0, 0.1]), num_images=5, num_steps=20
    ),
    "huber": lambda: ls.losses.huber(1.5)(X, 2.0 * X),
    "best_constant": lambda: ls.losses.best_constant(ls.losses.squared_error, X[:, 0]),
    "gaussian_efficiency": lambda: ls.losses.gaussian_efficiency(ls.losses.huber(1.5)),
    "losses_cross_entropy": lambda: (ls.losses.cross_entropy(X, Y), ls.losses.zero_one(X, Y)),
    "himmelblau": lambda: ls.problems.himmelblau(jnp.array([1.5, 0.5])),
}
PROBLEMS = {
    "student_teacher": lambda: ls.problems.student_teacher(3),
    "xor": ls.problems.xor,
    "lennard_jones": lambda: ls.problems.lennard_jones(4),
    "thomson": lambda: ls.problems.thomson(4),
    "mean_field_net": lambda: ls.problems.mean_field_net(3, 4),
    "classifier": lambda: ls.problems.classifier(
        *ls.problems.mlp((3, 4, 2)), {"train": {"x": np.asarray(X), "y": np.asarray(Y)}}
    ),
    "deep_linear": lambda: ls.problems.deep_linear((3, 2, 3), 6),
    "autoencoder": ls.problems.autoencoder,
    "chebyshev_regression": lambda: ls.problems.chebyshev_regression(2, 5, (4,)),
    "modular_addition": lambda: ls.problems.modular_addition(5, 4),
}


RUN = {
    "sweep": lambda: ls.sweep(surface(), GRID),
    "sweep_hoisted": lambda: ls.sweep(surface(), GRID, batch=Strategy(3, hoist=True)),
    "sweep_at_a_tolerance": lambda: ls.sweep(
        lambda c: {"loss": jnp.sum(c**2)}, ls.Grid.square(1.0, 33), tolerance=0.01, batch=16
    ),
    "plan": lambda: ls.plan(lambda c: jnp.sum(c), GRID, batch=2),
    "train_many": lambda: ls.train_many(SMALL, optax.sgd(0.1), jnp.eye(2), num_steps=4),
    "train_many_rates": lambda: ls.train_many(
        SMALL, lambda rate: optax.sgd(rate), jnp.eye(2), num_steps=4, hyper=jnp.array([0.1, 0.2])
    ),
    "classify": lambda: ls.minima.classify(SMALL, jnp.array([0.1, 0.5])),
    "distinct": lambda: ls.minima.distinct([*MANY.values()], np.ones(3), symmetry=ls.minima.HiddenUnits()),
    "census": lambda: ls.minima.census(double_well, [(-1.5, 1.5), (-1.0, 1.0)], key=KEY, num_starts=20, max_rounds=2),
    "match_weights": lambda: ls.paths.match_weights(PARAMS, OTHER, SPEC, key=KEY),
}


def descend(make):
    problem = make()
    params = problem.init(KEY) if getattr(problem, "params", None) is None else problem.params
    return [objective.value_and_grad(params) for objective in problem.objectives.values()]


@pytest.fixture
def strict():
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield


@pytest.mark.parametrize("tool", TRACED)
def test_tools_run_where_promotion_is_refused(strict, tool):
    jax.eval_shape(lambda: jax.tree.leaves(TRACED[tool]()))


@pytest.mark.parametrize("tool", RUN)
def test_what_cannot_be_traced_runs_where_promotion_is_refused(strict, tool):
    RUN[tool]()


@pytest.mark.parametrize("problem", PROBLEMS)
def test_problems_run_where_promotion_is_refused(strict, problem):
    jax.eval_shape(lambda: descend(PROBLEMS[problem]))
