# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # 10. Trust your slice?
#
# A picture of a loss landscape shows two directions out of thousands or millions. It can be exact and still mislead.
# This page is for people who publish such pictures. Four questions to ask of each: which directions, what is left
# out, what would chance have shown, and how large are the error bars?

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import landscape as ls

problem = ls.problems.digits_mlp(hidden=(16,), activation=jax.nn.relu)
train, test = problem.objectives["train"], problem.objectives["test"]
run = ls.train(
    train, optax.adam(0.01), jax.jit(problem.init)(jax.random.key(0)), num_steps=100, record_every=2, snapshots=True
)
network = run.params

# %% [markdown]
# ## 1. Which directions?
#
# A ReLU network does not change if the first layer is multiplied by a positive number $a$ and the second divided by
# it: $\max(0, a z) = a \max(0, z)$. Same function, same predictions, other parameters (Dinh et al. 2017). So anything
# about the picture that changes under this operation is about the parameters, not about what the network has learned.
#
# Here is a network and its rescaled twin with $a = 3$, along one random direction each. On the left the direction is
# raw: the same random numbers for both. On the right each filter of the direction is scaled to the norm of that
# filter in the network (*filter normalisation*, Li et al. 2018).


# %%
def rescaled(params, a):
    """The same ReLU network in other parameters: first layer times `a`, second layer divided by it."""
    first, second = params
    return [jax.tree.map(lambda w: a * w, first), {"kernel": second["kernel"] / a, "bias": second["bias"]}]


twins = {"a = 1": network, "a = 3": rescaled(network, 3.0)}
logits = [problem.predict(twin, train.data["x"]) for twin in twins.values()]
print(f"largest difference between the logits of the twins: {float(jnp.max(jnp.abs(logits[1] - logits[0]))):.0e}")

raw = ls.subspace.random_directions(jax.random.key(1), network, num=1)
raw = jax.tree.map(lambda d: 0.3 * d, raw)
line = ls.Grid.line((-1.0, 1.0), 41)
fig, axes = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True, layout="constrained")
for (name, twin), look in zip(twins.items(), ("-", "--")):
    for ax, directions in zip(axes, (raw, ls.subspace.filter_normalize(raw, twin))):
        curve = ls.sweep(ls.LossSurface(ls.Subspace(twin, directions), {"train": train}), line)
        ax.plot(line.axes[0].values, curve["train_loss"], look, label=name)
for ax, title in zip(axes, ("raw direction", "filter-normalised")):
    ax.set(title=title, xlabel="alpha", ylabel="train loss")
    ax.legend()

# %% [markdown]
# The raw curves make one of the twins look much sharper than the other. Both are the same function. The normalised
# curves coincide. So use normalised directions, and do not compare the widths of raw ones.
#
# What about a number instead of a picture? The largest eigenvalue of the Hessian, the *sharpness*, has no
# normalisation:

# %%
for name, twin in twins.items():
    value, residual = ls.curvature.sharpness(jax.random.key(2), train, twin)
    print(f"{name}: sharpness {value:8.2f} (an eigenvalue lies within {residual:.1e})")

# %% [markdown]
# Neither sharpness nor width by itself says that a network generalises. Normalisation removes this symmetry; it does
# not turn flatness into a law (Andriushchenko et al. 2023).
#
# ## 2. What does the plane leave out?
#
# The plane of the two principal components of the training path is the best plane for drawing the path. How good is
# best? `residual` is the distance of a point from the plane, and `off_plane` the share of the squared gradient that
# points out of it.

# %%
directions, explained = ls.subspace.pca_directions(run.snapshots)
plane = ls.Subspace(network, directions)
path, away = (np.asarray(jax.jit(jax.vmap(f))(run.snapshots)) for f in (plane.project, plane.residual))
length = np.linalg.norm(path[0] - path[-1])

low, high = path.min(axis=0), path.max(axis=0)
margin = 0.25 * (high - low).max()
axes = [ls.Axis.covering(f"pc{i + 1}", low[i] - margin, high[i] + margin, 25) for i in (0, 1)]
surface = ls.sweep(ls.LossSurface(plane, {"train": train}, outputs=("off_plane",)), ls.Grid(tuple(axes)))

losses = np.asarray(run.history["loss"])
ax = ls.plotting.heatmap(surface, "train_loss", minimum=False)
ls.plotting.trajectory(surface, {"training": {"coords": path, "loss": losses, "residual": away}}, ax=ax)

outside = surface["train_off_plane"]
print(f"the path is up to {away.max():.2f} off the plane; from start to end it goes {length:.2f}")
print(f"share of the squared gradient outside the plane: {np.median(outside):.0%} in the median over the picture")

# %% [markdown]
# The colours at the path are not the losses of the path: they are the losses of its shadow on the plane. The legend
# gives the true ones at both ends.
#
# ## 3. What would chance have shown?
#
# "Two directions explain 90 % of the path" sounds like a discovery about training. It is mostly a fact about paths. A
# long random walk in many dimensions has the same property: its first principal components are smooth, in the plane
# of the first two it looks like a parabola (a Lissajous curve), and they explain 61 % and 15 %, whatever is walked
# (Antognini & Sohl-Dickstein 2018).

# %%
steps = ls.subspace.random_directions(jax.random.key(3), network, num=len(losses))
walk = jax.tree.map(lambda d: jnp.cumsum(d, axis=0), steps)
walk_directions, walk_explained = ls.subspace.pca_directions(walk)
walk_plane = ls.Subspace(jax.tree.map(lambda w: w[-1], walk), walk_directions)
walk_path = np.asarray(jax.jit(jax.vmap(walk_plane.project))(walk))
null = ls.subspace.random_walk_explained(len(losses))

fig, axes = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
for ax, points, title in zip(axes, (path, walk_path), ("training", "a random walk")):
    ax.plot(*points.T, ".-", linewidth=1)
    ax.set(title=title, xlabel="principal component 1", ylabel="principal component 2")

print(f"training:             {explained[0]:.1%} and {explained[1]:.1%}")
print(f"this random walk:     {walk_explained[0]:.1%} and {walk_explained[1]:.1%}")
print(f"random walk, theory:  {null[0]:.1%} and {null[1]:.1%} for {len(losses)} snapshots")

# %% [markdown]
# So report the two numbers side by side. What exceeds the null is about your training. A smooth arc is not.
#
# ## 4. How large are the error bars?
#
# A test loss is a mean over a sample. `outputs=("sem",)` gives its standard error at every point, and `profile` draws
# two of them to either side. Below: from the network along the normalised direction of question 1.

# %%
normalised = ls.subspace.filter_normalize(raw, network)
both = ls.LossSurface(ls.Subspace(network, normalised), {"train": train, "test": test}, outputs=("sem",))
near = ls.sweep(both, ls.Grid.line((-0.3, 0.3), 41))
ls.plotting.profile(near, ["train_loss", "test_loss"], scale="linear")

lowest = near.argmin("test_loss")
centre = near.grid.index(0.0)
difference = near["test_loss"][centre] - near["test_loss"][lowest]
print(f"test loss at the centre minus its lowest: {difference:.4f}")
print(f"standard error of either: {near['test_loss_sem'][centre]:.4f}")

# %% [markdown]
# The two test losses share their examples, so the error of their *difference* is smaller than either. Measure it on the
# differences themselves, example by example:

# %%
at_lowest = ls.Subspace(network, normalised)(jnp.asarray(near.coords(lowest)))
pairs = np.asarray(test.per_example(network) - test.per_example(at_lowest))
print(f"difference {pairs.mean():.4f}, standard error {pairs.std(ddof=1) / np.sqrt(len(pairs)):.4f}")

# %% [markdown]
# A sweep at a `tolerance` has error bars of its own: an estimate of the largest error and a guaranteed share of
# pixels. They mean different things; see [Fast sweeps](../docs/fast_sweeps.md).
#
# ## Before you publish: a list
#
# - Say which directions, how normalised, which leaves did not move, and the seed.
# - Draw the same with two other seeds. If the message changes, there is none.
# - Give `residual` for every path and `off_plane` for the picture.
# - Give the explained variance beside that of a random walk.
# - Train and test on the same plane, with standard errors.
# - Say how batch norm was treated, and whether any pixel is a prediction.
#
# ## What these pictures do not show
#
# - *Everything that is not in the plane.* Two minima that look separated can be joined by a path elsewhere, and a
#   bowl in the picture can be a saddle in a direction that was not drawn. `curvature.eigenpairs` with `which="SA"`
#   asks for it.
# - *Cause.* That a network generalises and lies in a wide valley does not show that it generalises because of it.
