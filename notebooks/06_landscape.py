# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # 6. Marbles and ditches
#
# Put all the pages so far together. A model has knobs. Every setting of the knobs has a score. So the score is a
# **landscape** over all settings: hills where the model is bad, ditches where it is good. Training puts a marble
# somewhere and lets it roll.
#
# A ditch is called a **minimum**: all ways out of it lead uphill. The deepest ditch of all is the **global minimum**;
# every other one is a **local minimum**. A marble does not know which kind it is in. From inside, all ditches look
# alike.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import landscape as ls

# %matplotlib inline

# %% [markdown]
# ## A landscape with four ditches
#
# Here is a landscape with two knobs, after a test function of Himmelblau, tilted so that the ditches are not equally
# deep. With only two knobs the library can find every ditch (`census`: it searches the whole map).

# %%


def height(knobs, _):
    """Himmelblau's function, a tenth as high, and tilted."""
    return ls.problems.himmelblau(knobs) / 10 + 0.5 * knobs[0]


hills = ls.Objective(height)
census = ls.minima.census(hills, [(-6.0, 6.0), (-6.0, 6.0)])
ditches, depths = census.points[census.indices == 0], census.values[census.indices == 0]
for place, depth in zip(ditches, depths):
    print(f"ditch at ({place[0]:+.2f}, {place[1]:+.2f}), height {depth:+.2f}")

grid = ls.Grid.square(5.0, 61, names=("x", "y"))
surface = ls.sweep(ls.LossSurface(lambda knobs: knobs, hills), grid)

with ls.plotting.style("doodle"):
    ls.plotting.surface3d(surface, "loss", label="height", scale="linear")

# %% [markdown]
# ## Roll some marbles
#
# We drop 25 marbles on a regular pattern. Each rolls by the rule of [page 5](05_gradient_is_a_compass.py): a step
# downhill, look again, a step downhill. They roll all at once; the library is built to roll thousands.

# %%
ticks = jnp.linspace(-4.0, 4.0, 5)
drops = jnp.stack(jnp.meshgrid(ticks, ticks, indexing="ij"), axis=-1).reshape(-1, 2)
marbles = ls.train_many(
    hills, optax.sgd(0.03), drops, num_steps=200, record_every=2, check_every=2, snapshots=True, tol=1e-3
)

with ls.plotting.style("doodle"):
    ax = ls.plotting.contours(surface, "loss", levels=9, labels=False, minimum=False, label="25 marbles")
    for path in np.asarray(marbles.snapshots):
        ax.plot(*path.T, color="orangered", linewidth=1.2)
        ax.plot(*path[0], "o", color="black", markersize=3)
    ax.plot(*ditches.T, "*", color="black", markersize=11)

# %% [markdown]
# Every marble ends in a ditch. Only some end in the deepest one, at the bottom left. The place where you drop it
# decides.
#
# The places from which marbles roll into the same ditch form its **basin**, like the land from which all rain flows
# into one lake. A map of the basins answers the question "where must I start?" for every start at once.

# %%
basins = {}
for name, optimizer in {
    "small steps": optax.sgd(0.03),
    "large steps": optax.sgd(0.17),
    "a heavy marble": optax.sgd(0.03, momentum=0.9),
}.items():
    rolls = ls.BasinMap(None, hills, optimizer, 400, minima=ditches, radius=0.2, tol=1e-2)
    basins[name] = ls.sweep(rolls, grid)

deepest = int(np.argmin(depths))
for name, basin in basins.items():
    print(f"{name:>14}: {np.mean(basin['label'] == deepest):.1%} of all starts reach the deepest ditch")

# %% [markdown]
# One colour or pattern for each ditch. The same landscape, the same starts, three ways to roll: with small steps, with
# steps nearly six times as long, and a heavy marble that keeps some of its speed.

# %%
with ls.plotting.style("doodle"):
    fig, axes = plt.subplots(1, 3, figsize=(10.5, 4.6))
    for ax, (name, basin) in zip(axes, basins.items()):
        ls.plotting.basins(basin, ax=ax, points={"minima": ditches}, shade=None)
        ax.set_title(name)

# %% [markdown]
# With small steps each ditch has its own patch of land around it. With large steps scraps of one patch turn up inside
# another, because a marble can jump over a ridge. And no marble rests in the deepest ditch any more: it is too
# narrow. Each step leads from one wall to the other (the dark area). A heavy marble can roll through a shallow ditch
# and out again.
#
# Page 5 said when a ditch is too narrow: when the learning rate exceeds 2 divided by the curvature. So we can check.

# %%
for place, depth in zip(ditches, depths):
    curvature = np.linalg.eigvalsh(ls.curvature.hessian(hills, jnp.asarray(place, jnp.float32))).max()
    print(f"ditch of height {depth:+.2f}: it holds learning rates up to {2 / curvature:.3f}; the large steps have 0.17")

# %% [markdown]
# So "how likely is the deepest ditch?" has no answer, unless you say how you roll, and where the marbles are dropped.
# That is why the start (the **initialisation**) and the length of the steps (the **learning rate**) matter so much.

# %% [markdown]
# ## The ditches of a network
#
# The digit reader of page 1 has 1,210 knobs, so its landscape has 1,210 directions. No picture shows that. But we can
# walk along a straight line through it. We train two networks from different starts, then turn all knobs at once from
# the settings of the first (at 0) to the settings of the second (at 1), and measure the score on the way.

# %%
problem = ls.problems.digits_mlp(hidden=(16,))
train, test = problem.objectives["train"], problem.objectives["test"]
rule = optax.adam(0.02)
first, second = (
    ls.train(train, rule, problem.init(jax.random.key(seed)), num_steps=60, record_every=60).params for seed in (0, 1)
)

way = ls.subspace.line(first, second)
profile = ls.sweep(ls.LossSurface(way, {"train": train, "test": test}), ls.Grid.line((-0.3, 1.3), 65))

with ls.plotting.style("doodle"):
    ax = ls.plotting.profile(profile, ["train_loss", "test_loss"], scale="linear")
    ax.set(xlabel="from the first network (0) to the second (1)", ylim=(0, None))

between = (profile.grid.axes[0].values >= 0) & (profile.grid.axes[0].values <= 1)
hill = ls.analysis.barrier(profile["train_loss"][between], profile.grid.axes[0].values[between])
print(
    f"scores of the two networks {hill.ends[0]:.3f} and {hill.ends[1]:.3f}; the hill between them {hill.above_line:.2f}"
)

# %% [markdown]
# Two ditches, about equally deep, with a hill between them. Networks have a great many such ditches. Most are about
# equally good, which is why training works at all. But not always: a network that imitates another one of the same
# size gets stuck in a bad ditch in more than half of all trials once it is large enough. That is [page
# 8](08_culture.py), and [an experiment](../experiments/student_teacher.py).

# %% [markdown]
# ## The same in symbols
#
# A minimum is a setting $\theta$ where the gradient is zero, $\nabla L(\theta) = 0$, and where the ground curves
# upward in every direction. The curvatures are the *eigenvalues* (numbers that say how strongly the ground curves along
# its main directions) of the table of all second derivatives, the *Hessian*. If all are positive, it is a minimum; if
# all are negative, a hilltop; if some are negative and some positive, a **saddle**, a pass between two ditches. The
# number of negative ones is the *Morse index*. For a landscape with two knobs that rises on all sides, the number of
# minima, minus saddles, plus hilltops, is always exactly 1. The library finds them all and counts:

# %%
minima, saddles, hilltops = census.counts
print(f"{minima} minima, {saddles} saddles, {hilltops} hilltop: {minima} - {saddles} + {hilltops} = {census.euler}")

# %% [markdown]
# ## What these pictures do not show
#
# - *A map of two knobs is exact only for a model with two knobs.* Along a line between two networks you see a hill. A
#   curved way around it may exist, and often does: see [an experiment](../experiments/connectivity.py).
# - *Swapping two parts of a network changes all its knobs, but not what it does.* Many ditches are such copies of each
#   other. The picture cannot tell a copy from a new solution.
# - *Marbles in a thousand directions roll differently.* A pass that hardly ever appears in two directions is common
#   in a thousand. What looks stuck is often only slow.
#
# Next: [does it work on new data?](07_generalization.py)
