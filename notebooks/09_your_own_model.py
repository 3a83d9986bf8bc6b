# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # 9. Your own model
#
# This page and the next are for people who train networks themselves. It takes a model in plain JAX from its loss
# function to a stored, resumable, labelled map of training and test loss. Recipes for flax, equinox and PyTorch
# weights, with batch norm, are in [Your own model](../docs/your_own_model.md).

# %%
import jax
import jax.numpy as jnp
import numpy as np
import optax

import landscape as ls

# %% [markdown]
# ## The model: parameters, a loss for each example, data
#
# Parameters are any pytree of floating-point arrays. Here is a small network with a skip connection, for the 8 x 8
# digits. Kernels are stored as flax stores them, `(in, out)`.


# %%
def init(key):
    """Parameters: kernels from N(0, 1 / fan_in), no biases in the hidden layers."""
    shapes = {"first": (64, 20), "block": (20, 20), "last": (20, 10)}
    keys = jax.random.split(key, len(shapes))
    params = {name: {"kernel": jax.random.normal(k, s) / s[0] ** 0.5} for k, (name, s) in zip(keys, shapes.items())}
    params["last"]["bias"] = jnp.zeros(10)
    return params


def predict(params, x):
    """Logits, shape (n, 10)."""
    hidden = jnp.tanh(x @ params["first"]["kernel"])
    hidden = hidden + jnp.tanh(hidden @ params["block"]["kernel"])
    return hidden @ params["last"]["kernel"] + params["last"]["bias"]


def loss_fn(params, batch):
    """Cross-entropy and accuracy of each example: two arrays of shape (n,)."""
    logits = predict(params, batch["x"])
    loss = optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
    return loss, {"accuracy": (jnp.argmax(logits, axis=-1) == batch["y"]).astype(loss.dtype)}


# %% [markdown]
# An `Objective` is that loss together with data. `loss_fn` returns one number per example, so that the library can
# average over ragged batches without error, and knows standard errors. Data are leaves of a pytree, not closures:
# another data set of the same shape runs through the same compiled program.

# %%
splits = dict(zip(("train", "test"), ls.problems.digits(test_fraction=0.8)))
train, test = (ls.Objective(loss_fn, jax.tree.map(jnp.asarray, splits[part]), has_aux=True) for part in splits)
run = ls.train(
    train, optax.adam(1e-2), jax.jit(init)(jax.random.key(0)), num_steps=60, record_every=60, track={"test": test}
)
print("test accuracy", float(run.history["test_accuracy"][-1]), "outcome", run.outcome.name)

# %% [markdown]
# Already trained? Skip `ls.train` and use your parameters.
#
# ## The plane
#
# Two random directions, each filter scaled to the norm of that filter in the network (Li et al. 2018). Say how your
# kernels are stored: `"flax"`, `"haiku"`, `"torch"`, `"equinox"`, an axis, or a function. Biases do not move by
# default, as in the paper's code.

# %%
directions = ls.subspace.random_directions(jax.random.key(1), run.params)
directions = ls.subspace.filter_normalize(directions, run.params, filter_axis="flax")
plane = ls.Subspace(run.params, directions)
surface = ls.LossSurface(plane, {"train": train, "test": test}, outputs=("off_plane",))
grid = ls.Grid.square(1.0, 21)

# %% [markdown]
# `LossSurface` is a *point function*: coordinates in, a dictionary of numbers out. Both objectives are measured in
# one pass. `off_plane` adds the share of the squared gradient that points out of the picture. Anything that can be
# computed from the parameters can be added as a function.
#
# ## The sweep
#
# `plan` says beforehand what it would cost. `sweep` compiles once, picks the fastest way to batch by timing it, and
# writes finished tiles to a store. Kill it, call it again: it goes on where it was, and the answer is the same to the
# bit. With other data or another grid it refuses, and says what differs.

# %%
print(ls.plan(surface, grid))
result = ls.sweep(surface, grid, store="my_model.zarr")
again = ls.sweep(surface, grid, store="my_model.zarr")  # nothing left to do
print(result)
print("the same to the bit:", all(np.array_equal(result[name], again[name]) for name in result))

# %% [markdown]
# ## The result
#
# A `Landscape` is NumPy arrays with names and axes. `values[name][i, j]` belongs to `axes[0].values[i]` and
# `axes[1].values[j]`. It can be loaded without the model, by xarray without this package, and exported for other
# programs: `landscape info my_model.zarr`, `landscape export my_model.zarr surface.csv`. Other endings want other
# packages, which `pip install -e '.[io]'` brings: `.vti` for ParaView, `.nc`, `.h5`.

# %%
loaded = ls.load("my_model.zarr")
ls.plotting.heatmap(loaded, "train_loss", contours=True)
ls.plotting.heatmap(loaded, "test_accuracy")

centre = loaded.grid.index((0.0, 0.0))
print(f"train loss at the centre {loaded['train_loss'][centre]:.5f}, of the network {float(train(run.params)):.5f}")
print(f"share of the squared gradient outside the picture, at the centre: {loaded['train_off_plane'][centre]:.3f}")

# %% [markdown]
# Two checks belong to every such picture. The loss at the centre must be that of the network. And the last number
# says how much of what moves the network is *not* in the picture; in random planes of large networks it is nearly all
# of it.
#
# ## A larger picture for less
#
# A smooth surface does not need every pixel. With `tolerance` the sweep evaluates a coarse set of them, predicts the
# others, and refines where prediction and value differ. The result says which pixels are exact, an estimate of the
# largest error, and a share of pixels that is guaranteed ([how to read it](../docs/fast_sweeps.md)).

# %%
fine = ls.sweep(ls.LossSurface(plane, {"train": train}), ls.Grid.square(1.0, 129), tolerance=1e-2)
span = np.ptp(fine["train_loss"])
print(f"{fine.computed.sum()} of {fine.grid.size} points evaluated")
print(f"estimated largest error: {fine.error['train_loss'] / span:.1e} of the range")

# %% [markdown]
# ## The experiments, on your model
#
# A function that returns a `Problem` is all that the experiments want. In a file `my_model.py`:

# %%


def factory():
    """What the experiments need to know."""
    return ls.Problem(init=init, objectives={"train": train, "test": test}, predict=predict, name="my network")


factory().check()

# %% [markdown]
# ```console
# python experiments/surface.py --problem my_model.py:factory --layout flax
# python experiments/optimizers.py --problem my_model.py:factory
# python experiments/edge_of_stability.py --problem my_model.py:factory
# ```
#
# ## What this page does not show
#
# - *Batch norm.* Stored statistics are right for one point only. There are three honest ways to draw such a network;
#   see [Your own model](../docs/your_own_model.md).
# - *Whether the plane was a good choice.* That is [page 10](10_trust_your_slice.py).
# - *Many devices.* All local devices are used by default; `shard=(i, n)` is for job arrays, `executor=` for Dask and
#   friends. The answer does not depend on any of them.
