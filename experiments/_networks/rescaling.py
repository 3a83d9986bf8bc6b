r"""The counter-example of Dinh et al. (2017): one function, and any sharpness.

A network $W_2\,\mathrm{relu}(W_1 x)$ without biases does not change under $T_a: (W_1, W_2) \mapsto (a W_1, W_2 / a)$,
$a > 0$ (their theorem 2 and section 4). $T_a$ is linear, $T_a \theta = D \theta$ with the diagonal
$D = \mathrm{diag}(a I, I / a)$, and $L(D \theta) = L(\theta)$ for all $\theta$, so differentiating twice gives

$$\nabla L(D\theta) = D^{-1} \nabla L(\theta), \qquad
H(D\theta) = D^{-1} H(\theta) D^{-1} = \begin{pmatrix} H_{11} / a^2 & H_{12} \\ H_{21} & a^2 H_{22} \end{pmatrix}.$$

The largest eigenvalue tends to $a^2 \lambda(H_{22})$ for large and $\lambda(H_{11}) / a^2$ for small $a$. Filters of
$W_1$ grow by $a$ and those of $W_2$ shrink by it, so filter-normalised directions move along by $T_a$, and their
surface stays what it was (Li et al. 2018, section 4).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _lab import Lab
from jax.flatten_util import ravel_pytree

import landscape as ls
from landscape import curvature

Params = dict[str, jax.Array]
_static: Any = {"static": True}


def relu_net(inputs: int, hidden: int, outputs: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """`init(key)` and `predict(params, x)` of two layers without biases, started as by He et al. (2015)."""

    def init(key: jax.Array) -> Params:
        first, second = jax.random.split(key)
        return {
            "W1": jax.random.normal(first, (inputs, hidden)) * (2 / inputs) ** 0.5,
            "W2": jax.random.normal(second, (hidden, outputs)) * (2 / hidden) ** 0.5,
        }

    def predict(params: Params, x: jax.Array) -> jax.Array:
        return jax.nn.relu(x @ params["W1"]) @ params["W2"]

    return init, predict


def rescale(params: Params, a: Any) -> Params:
    """The same function with other weights: `(a W1, W2 / a)`."""
    return {"W1": params["W1"] * a, "W2": params["W2"] / a}


def rescaled_hessian(hessian: np.ndarray, params: Params, a: float) -> np.ndarray:
    """The Hessian at `rescale(params, a)` from that at `params`, by the algebra alone."""
    factor = ravel_pytree(rescale(jax.tree.map(jnp.ones_like, params), 1 / a))[0]
    return np.asarray(factor)[:, None] * hessian * np.asarray(factor)


def largest_eigenvalue(matrix: np.ndarray) -> float:
    """Of a symmetric matrix, by LAPACK."""
    from scipy.linalg import eigh

    last = len(matrix) - 1
    return float(eigh(matrix, eigvals_only=True, subset_by_index=(last, last))[0])


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Rescaled:
    """Point function: the factor `a` -> losses and the largest eigenvalue of the Hessian at `rescale(params, a)`."""

    params: Params
    objectives: Mapping[str, ls.Objective]
    key: jax.Array

    def __call__(self, coords: jax.Array) -> dict[str, jax.Array]:
        """Losses, sharpness and its residual."""
        here = rescale(self.params, coords[0])
        values = {f"{name}_loss": objective(here) for name, objective in self.objectives.items()}
        # near a = 1 the second eigenvalue may be close to the first: ask for a small residual
        found = curvature.sharpness(self.key, self.objectives["train"], here, tol=1e-6)
        return values | {"sharpness": found.value, "sharpness_residual": found.residual}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class RescaledPlane:
    """Parameters at `(a, alpha, beta)`: a plane through `rescale(params, a)`.

    Attributes:
        params: parameters at the factor 1.
        directions: two stacked directions.
        normalize: whether to scale each filter of them to the norm of that filter in the rescaled parameters.
    """

    params: Params
    directions: Params
    normalize: bool = field(metadata=_static)

    def __call__(self, coords: jax.Array) -> Params:
        """The parameters at these coordinates."""
        here = rescale(self.params, coords[0])
        directions = ls.subspace.filter_normalize(self.directions, here) if self.normalize else self.directions
        return ls.Subspace(here, directions)(coords[1:])


def sweeps(
    lab: Lab, params: Params, objectives: Mapping[str, ls.Objective], scales: tuple[float, ...], num: int, seed: int
) -> dict[str, Any]:
    """Loss and sharpness against the factor, and planes at its ends with and without filter normalisation; float64."""
    key = jax.random.fold_in(jax.random.key(seed), 5)
    with jax.enable_x64(True):
        params, objectives = jax.tree.map(_double, (params, dict(objectives)))
        grid = ls.Grid((ls.Axis("scale", np.sort(np.asarray(scales, dtype=np.float64)), "factor $a$"),))
        about = partial(_predictions, params, objectives["train"])
        together = lab.at_once(len(scales), len(scales))
        result = {"rescaled": together.sweep("rescaled", Rescaled(params, objectives, key), grid, about)}
        raw = ls.subspace.random_directions(key, params)
        fixed = ls.subspace.filter_normalize(raw, params)
        ends = ls.Axis("scale", np.array([min(scales), 1.0, max(scales)]), "factor $a$")
        plane = ls.Grid((ends, *(ls.Axis.linspace(name, -1.0, 1.0, num) for name in ("alpha", "beta"))))
        for name, at in (
            ("filter", RescaledPlane(params, raw, True)),
            ("fixed", RescaledPlane(params, fixed, False)),
        ):
            surface = ls.LossSurface(at, {"train": objectives["train"]})
            result[f"rescaled_{name}"] = lab.sweep(f"rescaled_{name}", surface, plane)
    return result


def _double(leaf: Any) -> jax.Array:
    leaf = jnp.asarray(leaf)
    return leaf.astype(jnp.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf


def _predictions(params: Params, train: ls.Objective, landscape: ls.Landscape) -> dict[str, Any]:
    """What the algebra makes of the dense Hessian at the factor 1, and the blocks that decide far from it."""
    if not landscape.computed.all() or "predicted" in landscape.meta:
        return {}
    hessian = np.asarray(curvature.hessian(train, params))
    first = params["W1"].size
    blocks = [largest_eigenvalue(part) for part in (hessian[:first, :first], hessian[first:, first:])]
    scales = landscape.grid.axes[0].values
    return {"predicted": [largest_eigenvalue(rescaled_hessian(hessian, params, a)) for a in scales], "blocks": blocks}


def rows(result: Mapping[str, ls.Landscape]) -> list[tuple[str, str, str]]:
    """Rows of `(what, expected, found)`."""
    landscape = result["rescaled"]
    scales, sharpness = landscape.grid.axes[0].values, landscape["sharpness"]
    span = f"a = {scales[0]:g} ... {scales[-1]:g}"
    found = []
    for part in ("train", "test"):
        loss = landscape[f"{part}_loss"]
        found.append(
            (f"Dinh, {span}: {part} loss changes by, relative", "rounding", f"{np.ptp(loss) / loss.max():.1e}")
        )
    predicted = np.asarray(landscape.meta["predicted"])
    error, residual = np.max(np.abs(sharpness / predicted - 1)), np.max(landscape["sharpness_residual"] / sharpness)
    for place in (0, int(np.argmin(np.abs(scales - 1))), -1):
        what = f"Dinh: largest eigenvalue at a = {scales[place]:g}"
        found.append((what, f"{predicted[place]:.6g} (algebra)", f"{sharpness[place]:.6g} (Lanczos)"))
    text = f"{error:.1e} (residuals up to {residual:.0e})"
    found.append(("Dinh: largest relative error of the eigenvalue", "rounding", text))
    decades = [f"{np.ptp(np.log10(values)):.1f} decades" for values in (predicted, sharpness)]
    found.append(("Dinh: sharpness of the same function varies by", f"{decades[0]} (algebra)", decades[1]))
    for name, expected in (("filter", "rounding"), ("fixed", "it changes")):
        worst = difference(result[f"rescaled_{name}"])
        words = "filter-normalised surface" if name == "filter" else "surface along fixed directions"
        found.append((f"Dinh: {words} changes by, share of its range", expected, f"{worst:.2g}"))
    return found


def difference(landscape: ls.Landscape) -> float:
    """The largest difference of a surface from that at the factor 1, as a share of its range there."""
    loss = landscape["train_loss"]
    middle = loss[landscape.grid.index(1.0)[0]]
    return float(np.max(np.abs(loss - middle)) / np.ptp(middle))


# --------------------------------------------------------------------------------------------------------- figures


def draw(result: Mapping[str, ls.Landscape]) -> Any:
    """Loss, sharpness and surfaces of one function with other weights."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(7.4, 5.6))
    landscape = result["rescaled"]
    scales = landscape.grid.axes[0].values
    axes[0, 0].plot(scales, landscape["train_loss"], "o-", label="train")
    axes[0, 0].plot(scales, landscape["test_loss"], "s--", label="test")
    axes[0, 0].set(ylim=(0, 1.35 * np.max(landscape["test_loss"])), ylabel="loss")
    change = max(np.ptp(landscape[name]) / np.max(landscape[name]) for name in ("train_loss", "test_loss"))
    axes[0, 0].set_title(f"(a) the same loss: it changes by {change:.0e}", loc="left")
    _draw_sharpness(axes[0, 1], landscape)
    for ax in axes[0]:
        ax.set_xscale("log", base=2)
        ax.set(xlabel="factor $a$ of $(aW_1, W_2/a)$")
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}" if value >= 1 else f"1/{1 / value:g}")
        ax.legend(loc="best")
    _draw_profiles(axes[1, 0], result["rescaled_fixed"], "(c) fixed directions: sharp or flat")
    _draw_profiles(axes[1, 1], result["rescaled_filter"], "(d) filter-normalised: one curve")
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
    figure.suptitle("one function, any sharpness (Dinh et al. 2017)")
    return figure


def _draw_sharpness(ax: Any, landscape: ls.Landscape) -> None:
    scales, (first, second) = landscape.grid.axes[0].values, landscape.meta["blocks"]
    predicted = np.asarray(landscape.meta["predicted"])
    ax.plot(scales, landscape["sharpness"], "o", label="measured (Lanczos)")
    ax.plot(scales, predicted, color="black", linewidth=0.9, label="$D^{-1}HD^{-1}$ (algebra)")
    low = scales < 1
    for where, limit, text in (
        (low, first / scales**2, r"$\lambda(H_{11})/a^2$"),
        (~low, second * scales**2, r"$a^2\lambda(H_{22})$"),
    ):
        ax.plot(scales[where], limit[where], ":", color="0.45", linewidth=1.2)
        place = np.flatnonzero(where)[0 if where is low else -1]
        side = {"ha": "left", "xytext": (9, 0)} if where is low else {"ha": "right", "xytext": (-9, 0)}
        ax.annotate(text, (scales[place], limit[place]), textcoords="offset points", va="center", color="0.3", **side)
    ax.set_yscale("log")
    ax.set(ylabel="largest eigenvalue of the Hessian", ylim=(0.4 * predicted.min(), 3 * predicted.max()))
    ax.set_title("(b) any sharpness, as the algebra says", loc="left")


def _draw_profiles(ax: Any, landscape: ls.Landscape, title: str) -> None:
    """The loss along the first direction, through the middle, for each factor."""
    scale, alpha, beta = (axis.values for axis in landscape.grid.axes)
    middle = int(np.argmin(np.abs(beta)))
    for number, (a, dashes, width) in enumerate(zip(scale, ("-", "--", ":"), (3.2, 2.0, 1.4))):
        text = f"a = {a:g}" if a >= 1 else f"a = 1/{1 / a:g}"
        loss = landscape["train_loss"][number, :, middle]
        ax.plot(alpha, loss, dashes, color=f"C{(2, 0, 1)[number]}", linewidth=width, label=text)
    ax.set(xlabel=f"first direction (largest change {difference(landscape):.1g} of the range)", ylabel="train loss")
    ax.set_title(title, loc="left")
    ax.legend(loc="best")
