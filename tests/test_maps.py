"""Oracles for loss surfaces: a quadratic with prescribed spectrum, whose values, gradients and shares are known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landscape import Grid, LossSurface, Objective, Subspace, sweep

RNG = np.random.default_rng(11)
DIM, N = 6, 7
ROTATION, _ = np.linalg.qr(RNG.normal(size=(DIM, DIM)))
HESSIAN = ROTATION @ np.diag([9.0, 4.0, 2.0, 0.5, 0.3, -1.5]) @ ROTATION.T
MINIMUM, ORIGIN = RNG.normal(size=DIM), RNG.normal(size=DIM)
DIRECTIONS = np.array([[3.0], [0.2]]) * RNG.normal(size=(2, DIM)) + 0.4  # neither orthogonal nor of one length
SLOPES = RNG.normal(size=(N, DIM))
COORDS = np.array([0.7, -1.3])


def split(x):
    """A vector, or rows of vectors, as a tree of two leaves."""
    x = jnp.asarray(x, jnp.result_type(float))
    return {"b": x[..., :2], "w": x[..., 2:].reshape(*x.shape[:-1], 2, 2)}


def join(params):
    return jnp.concatenate([params["b"], params["w"].reshape(-1)])


def quadratic(params, batch):
    """Each example tilts the bowl its own way; the mean is the bowl with the mean tilt."""
    d = join(params)
    d = d - jnp.asarray(MINIMUM, d.dtype)
    losses = 0.5 * d @ jnp.asarray(HESSIAN, d.dtype) @ d + batch @ d
    return losses, {"tilted": batch @ d > 0.5}


def objective(slopes=SLOPES, **options):
    return Objective(quadratic, jnp.asarray(slopes, jnp.result_type(float)), has_aux=True, **options)


def plane():
    return Subspace(split(ORIGIN), split(DIRECTIONS))


def expected(coords=COORDS, slopes=SLOPES):
    """Values and gradient by NumPy."""
    d = ORIGIN + coords @ DIRECTIONS - MINIMUM
    losses = 0.5 * d @ HESSIAN @ d + slopes @ d
    return losses, slopes @ d > 0.5, HESSIAN @ d + slopes.mean(0)


EVERYTHING = ("sem", "gradient", "gradient_norm", "off_plane")
evaluate = jax.jit(lambda surface, coords: surface(coords))


@pytest.mark.parametrize("batch_size", [None, 1, 3, 7])
def test_all_built_in_outputs_against_numpy(x64, batch_size):
    values = evaluate(LossSurface(plane(), objective(batch_size=batch_size), EVERYTHING), jnp.asarray(COORDS))
    losses, tilted, gradient = expected()
    np.testing.assert_allclose(values["loss"], losses.mean(), rtol=1e-12)
    np.testing.assert_allclose(values["tilted"], tilted.mean(), rtol=1e-6)
    np.testing.assert_allclose(values["loss_sem"], losses.std(ddof=1) / np.sqrt(N), rtol=1e-12)
    np.testing.assert_allclose(values["tilted_sem"], tilted.std(ddof=1) / np.sqrt(N), rtol=1e-6)
    np.testing.assert_allclose(values["gradient"], DIRECTIONS @ gradient, rtol=1e-12)
    np.testing.assert_allclose(values["gradient_norm"], np.linalg.norm(gradient), rtol=1e-12)
    within = DIRECTIONS.T @ np.linalg.lstsq(DIRECTIONS.T, gradient, rcond=None)[0]
    share = np.sum((gradient - within) ** 2) / np.sum(gradient**2)
    np.testing.assert_allclose(values["off_plane"], share, rtol=1e-12)
    assert 0.05 < share < 0.95


def test_off_plane_is_zero_for_a_gradient_in_the_plane_and_one_for_one_across_it():
    aim = np.float32(DIRECTIONS.T @ [0.3, -2.0])
    across = np.random.default_rng(0).normal(size=DIM)
    across -= DIRECTIONS.T @ np.linalg.lstsq(DIRECTIONS.T, across, rcond=None)[0]
    for direction, share in ((aim, 0.0), (across, 1.0)):
        straight = Objective(lambda p, batch: jnp.vdot(batch[0], join(p)), jnp.asarray(direction, jnp.float32)[None])
        values = evaluate(LossSurface(plane(), straight, ("off_plane",)), jnp.asarray(COORDS, jnp.float32))
        assert set(values) == {"loss", "off_plane"}
        np.testing.assert_allclose(values["off_plane"], share, atol=1e-6)


def test_off_plane_of_a_curved_map_uses_its_tangents(x64):
    def curve(coords):
        return split(jnp.asarray(ORIGIN) + coords[0] ** 2 * jnp.asarray(DIRECTIONS[0]))

    values = evaluate(
        LossSurface(jax.tree_util.Partial(curve), objective(), ("gradient", "off_plane")), jnp.array([1.5])
    )
    _, _, gradient = expected(np.array([2.25, 0.0]))
    np.testing.assert_allclose(values["gradient"], [3.0 * DIRECTIONS[0] @ gradient], rtol=1e-12)
    cosine = DIRECTIONS[0] @ gradient / np.linalg.norm(DIRECTIONS[0]) / np.linalg.norm(gradient)
    np.testing.assert_allclose(values["off_plane"], 1 - cosine**2, rtol=1e-12)


def test_names_carry_the_prefix_of_their_objective(x64):
    test_slopes = SLOPES[:3] + 0.7
    objectives = {"train": objective(), "test": objective(test_slopes)}
    values = evaluate(LossSurface(plane(), objectives, ("sem", "gradient")), jnp.asarray(COORDS))
    names = ["loss", "tilted", "loss_sem", "tilted_sem", "gradient"]
    assert set(values) == {f"{part}_{name}" for part in objectives for name in names}
    np.testing.assert_allclose(values["train_loss"], expected()[0].mean(), rtol=1e-12)
    np.testing.assert_allclose(values["test_loss"], expected(slopes=test_slopes)[0].mean(), rtol=1e-12)


def test_standard_errors_cost_no_second_pass():
    def products(outputs):
        program = jax.make_jaxpr(LossSurface(plane(), objective(), outputs))(COORDS)
        return str(program).count("dot_general")

    assert products(("sem",)) == products(()) > 0


def test_metrics_that_are_means_have_no_standard_errors():
    level = Objective(lambda p, batch: (batch @ join(p), {"level": 3.5, "tilted": batch @ join(p) > 0.5}),
                      jnp.asarray(SLOPES, jnp.float32), has_aux=True)  # fmt: skip
    values = evaluate(LossSurface(plane(), level, ("sem",)), COORDS)
    assert set(values) == {"loss", "level", "tilted", "loss_sem", "tilted_sem"}
    assert float(values["level"]) == 3.5


def weight_norm(params):
    return jnp.linalg.norm(join(params))


def test_functions_of_the_parameters_are_outputs_too():
    outputs = (weight_norm, ("bias", lambda params: params["b"]))
    values = evaluate(LossSurface(plane(), {"train": objective()}, outputs), COORDS)
    assert set(values) == {"train_loss", "train_tilted", "weight_norm", "bias"}
    at = ORIGIN + COORDS @ DIRECTIONS
    np.testing.assert_allclose(values["weight_norm"], np.linalg.norm(at), rtol=1e-5)
    np.testing.assert_allclose(values["bias"], at[:2], rtol=1e-5)


def test_recalibrate_measures_the_state_anew_at_every_point(x64):
    def loss_fn(params, batch, state):
        return (batch @ join(params) - state["mean"]) ** 2

    def measure(params, batch, state):
        return {"mean": jnp.mean(batch @ join(params))}

    stateful = Objective(
        loss_fn, jnp.asarray(SLOPES), batch_size=3, state={"mean": jnp.float64(5.0)}, update_state=measure
    )
    at = ORIGIN + COORDS @ DIRECTIONS
    out = SLOPES @ at
    outputs = ("gradient_norm", "sem", "gradient")
    frozen = evaluate(LossSurface(plane(), stateful, outputs), jnp.asarray(COORDS))
    anew = evaluate(LossSurface(plane(), stateful, outputs, recalibrate=True), jnp.asarray(COORDS))
    for values, mean in ((frozen, 5.0), (anew, out.mean())):
        np.testing.assert_allclose(values["loss"], np.mean((out - mean) ** 2), rtol=1e-12)
        np.testing.assert_allclose(values["loss_sem"], np.std((out - mean) ** 2, ddof=1) / np.sqrt(N), rtol=1e-12)
        gradient = 2 * (out - mean) @ SLOPES / N  # the state is held fixed
        np.testing.assert_allclose(values["gradient_norm"], np.linalg.norm(gradient), rtol=1e-12)
        np.testing.assert_allclose(values["gradient"], DIRECTIONS @ gradient, rtol=1e-12)


def test_the_test_loss_uses_the_statistics_of_the_training_data(x64):
    def loss_fn(params, batch, state):
        return (batch @ join(params) - state["mean"]) ** 2

    def measure(params, batch, state):
        return {"mean": jnp.mean(batch @ join(params))}

    parts = {"test": SLOPES[:2], "train": SLOPES[2:]}
    both = {
        name: Objective(loss_fn, jnp.asarray(x), state={"mean": jnp.float64(5.0)}, update_state=measure)
        for name, x in parts.items()
    }
    values = evaluate(LossSurface(plane(), both, recalibrate=True), jnp.asarray(COORDS))
    at = ORIGIN + COORDS @ DIRECTIONS
    mean = np.mean(SLOPES[2:] @ at)
    for name, x in parts.items():
        np.testing.assert_allclose(values[f"{name}_loss"], np.mean((x @ at - mean) ** 2), rtol=1e-12)


def test_test_data_are_normalised_by_the_training_data(x64):
    def loss_fn(params, batch, state):
        return (batch @ join(params) - state) ** 2

    def measure(params, batch, state):
        return jnp.mean(batch @ join(params))

    held_out = SLOPES[:4] + 0.7
    objectives = {
        name: Objective(loss_fn, jnp.asarray(data), state=jnp.float64(5.0), update_state=measure)
        for name, data in (("test", held_out), ("train", SLOPES))
    }
    at = ORIGIN + COORDS @ DIRECTIONS
    values = evaluate(LossSurface(plane(), objectives, recalibrate=True), jnp.asarray(COORDS))
    mean = np.mean(SLOPES @ at)
    np.testing.assert_allclose(values["train_loss"], np.mean((SLOPES @ at - mean) ** 2), rtol=1e-12)
    np.testing.assert_allclose(values["test_loss"], np.mean((held_out @ at - mean) ** 2), rtol=1e-12)


def test_bowl_on_a_non_square_grid_and_its_centre(x64):
    grid = Grid.of(alpha=np.linspace(-1, 1, 5), beta=np.linspace(-4, 2, 7))
    result = sweep(LossSurface(plane(), {"train": objective()}), grid, progress=False)
    bowl = np.array([expected(c)[0].mean() for c in grid.points()]).reshape(5, 7)
    np.testing.assert_allclose(result["train_loss"], bowl, rtol=1e-11)
    np.testing.assert_allclose(result["train_loss"][grid.index(0.0)], objective()(split(ORIGIN)), rtol=1e-14)


# -------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"outputs": ("hessian",)}, ValueError, "unknown output 'hessian'; built in are sem, gradient, gradient_norm"),
        ({"outputs": ["sem"]}, TypeError, "outputs must be a tuple of names and functions, got list"),
        ({"outputs": "sem"}, TypeError, "outputs must be a tuple of names and functions, got str"),
        ({"outputs": (3,)}, TypeError, "an output must be one of .* got 3"),
        ({"outputs": (lambda params: 2.0,)}, TypeError, "an output must be one of .*, a function with a name"),
        ({"outputs": (functools.partial(weight_norm),)}, TypeError, "or a pair \\(name, function\\)"),
        ({"outputs": (("bias", 3),)}, TypeError, "an output must be one of"),
        ({"objectives": [objective()]}, TypeError, "must be an Objective or a dict of them, got list"),
        (
            {"objectives": {"train": quadratic}},
            TypeError,
            r"objectives\['train'\] must be a landscape.Objective, got function",
        ),
        (
            {"objectives": {"test": objective()}, "recalibrate": True},
            ValueError,
            "needs update_state in the objective 'train'",
        ),
        ({"at": Subspace(split(ORIGIN), split(DIRECTIONS[:1]))}, ValueError, "1 directions, the grid 2 axes"),
        ({"at": None}, TypeError, r"LossSurface.at must be a function, called as at\(coords\), got NoneType"),
        ({"at": lambda a, b: a}, TypeError, r"LossSurface.at is called as at\(coords\), but it takes \(a, b\)"),
        ({"at": lambda c: None}, TypeError, "at.coords. must return parameters, .* got None: is a `return` missing"),
        ({"at": lambda c: "near"}, TypeError, "at.coords. must return parameters, a pytree of arrays, got 'near'"),
        ({"objectives": {}}, ValueError, "objectives must hold at least one Objective, got none"),
        ({"objectives": {1: objective()}}, TypeError, "objectives must be named by strings, got 1"),
        ({"objectives": {"train": Objective(None)}}, TypeError, r"objectives\['train'\].loss_fn must be a function"),
        ({"outputs": (("two", lambda p, q: 1.5),)}, TypeError, r"outputs.two is called as two\(params\), but it takes"),
        ({"recalibrate": "yes"}, TypeError, "recalibrate must be True or False, got str 'yes'"),
    ],
)
def test_check_grid_refuses(options, error, said):
    surface = LossSurface(**{"at": plane(), "objectives": objective(), **options})
    with pytest.raises(error, match=said):
        surface.check_grid(Grid.square(1.0, 5))


def test_outputs_of_one_name_are_refused():
    surface = LossSurface(plane(), objective(), (("loss", weight_norm),))
    with pytest.raises(ValueError, match="two outputs are called 'loss'"):
        surface(COORDS)


def of_names(*names, scalar=()):
    """An objective with metrics of these names, for each example or as means."""

    def loss_fn(params, batch):
        losses = batch @ join(params)
        return losses, dict.fromkeys(names, losses) | dict.fromkeys(scalar, 1.5)

    return Objective(loss_fn, jnp.asarray(SLOPES, jnp.float32), has_aux=True)


@pytest.mark.parametrize(
    ("objectives", "outputs", "name"),
    [
        (of_names("gradient"), ("gradient",), "gradient"),
        (of_names("gradient_norm"), ("gradient_norm",), "gradient_norm"),
        (of_names("off_plane"), ("off_plane",), "off_plane"),
        (of_names("loss_sem"), ("sem",), "loss_sem"),
        (of_names("hit", scalar=("hit_sem",)), ("sem",), "hit_sem"),
        ({"a": of_names("b_loss"), "a_b": of_names()}, (), "a_b_loss"),
        ({"train": of_names("gradient")}, ("gradient",), "gradient"),
        (of_names(), (("level", weight_norm), ("level", weight_norm)), "level"),
    ],
)
def test_no_output_is_lost_to_another_of_its_name(objectives, outputs, name):
    with pytest.raises(ValueError, match=f"two outputs are called '{name}'; rename a metric or an objective"):
        sweep(LossSurface(plane(), objectives, outputs), Grid.square(1.0, 3))


def test_a_metric_may_have_the_name_of_an_output_that_was_not_asked_for():
    values = evaluate(LossSurface(plane(), of_names("gradient"), ("gradient_norm",)), COORDS)
    np.testing.assert_allclose(values["gradient"], values["loss"], rtol=1e-6)


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (None, "got NoneType None: is a `return` missing"),
        ("low", "got str 'low'"),
        ((1.5, 2.5), r"got tuple .*jnp.stack"),
    ],
)
def test_what_a_function_of_the_parameters_may_return(returned, said):
    surface = LossSurface(plane(), objective(), (("extra", lambda params: returned),))
    with pytest.raises(TypeError, match=f"the output 'extra' must be an array of numbers.* {said}"):
        sweep(surface, Grid.square(1.0, 3))


@jax.custom_vjp
def cubes(x):
    return jnp.sum(x**3)


cubes.defvjp(lambda x: (cubes(x), x), lambda x, g: (3 * g * x**2,))


@pytest.mark.parametrize("batch_size", [None, 3])
def test_the_gradient_of_a_loss_without_forward_mode(x64, batch_size):
    slopes = jnp.asarray(SLOPES)
    cubic = Objective(lambda p, batch: batch @ join(p) + cubes(join(p)), slopes, batch_size=batch_size)
    values = evaluate(LossSurface(plane(), cubic, ("gradient", "gradient_norm")), jnp.asarray(COORDS))
    gradient = SLOPES.mean(0) + 3 * (ORIGIN + COORDS @ DIRECTIONS) ** 2
    np.testing.assert_allclose(values["gradient"], DIRECTIONS @ gradient, rtol=1e-12)
    np.testing.assert_allclose(values["gradient_norm"], np.linalg.norm(gradient), rtol=1e-12)


def test_a_gradient_that_cannot_be_names_the_output():
    def doubled(params, _):
        return jnp.sum(jax.lax.while_loop(lambda x: jnp.sum(x) < 9.0, lambda x: 2 * x, jnp.abs(params)))

    surface = LossSurface(Subspace(jnp.array([0.5, 1.5]), jnp.eye(2)), Objective(doubled), ("gradient",))
    np.testing.assert_allclose(evaluate(surface, np.zeros(2))["gradient"], [8.0, 8.0])  # 16 is the first beyond 9
    for output in ("gradient_norm", "off_plane"):
        with pytest.raises(
            ValueError, match=f"output '{output}' needs the gradient .* a length that is known beforehand"
        ):
            LossSurface(surface.at, surface.objectives, (output,))(COORDS)


class Alike:
    """Equal to whatever comes, so that a cache that asks it would mistake it for another."""

    __hash__ = None

    def __init__(self, scale):
        self.scale = scale

    def __eq__(self, other):
        return True

    def __call__(self, params):
        return self.scale * weight_norm(params)


def test_functions_with_state_are_told_apart_among_the_outputs_and_as_map():
    size = np.linalg.norm(ORIGIN)
    for scale in (0.5, 2.5):
        surface = LossSurface(plane(), objective(), (("size", Alike(scale)),))
        result = sweep(surface, Grid.of(a=[0.0], b=[0.0]), progress=False, batch=1)
        np.testing.assert_allclose(result["size"], [[scale * size]], rtol=1e-5)
