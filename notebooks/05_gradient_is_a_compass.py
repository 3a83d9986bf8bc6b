# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # 5. The gradient is a compass
#
# The score is too high. Which way should the knobs be turned?
#
# Imagine a hiker in fog on a mountainside. She cannot see the valley. But she feels under her feet in which direction
# the ground falls most steeply. So she takes a step that way, and feels again. That is how machines learn: no map,
# only the slope underfoot.
#
# The slope underfoot has a name, the **gradient**. It has one number for each knob: *if you turn this knob up a
# little, how much does the score go up?* Strictly, it is an arrow that points steepest *uphill*. Downhill is the
# opposite direction.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import landscape as ls
from landscape import losses

# %matplotlib inline

# %% [markdown]
# ## Feel the slope
#
# Once more the ice creams of [page 1](01_reality_vs_prediction.py): a line with two knobs, and the mean of the
# squared misses as its score. To feel the slope, turn each knob by a hair and look at what the score does. Or ask
# JAX, the engine below this library, which works out the same numbers from the formula, for all knobs at once.

# %%
days = {
    "sun": jnp.array([1.0, 2.0, 4.0, 5.0, 7.0, 9.0]) - 5.0,
    "cones": jnp.array([21.0, 38.0, 40.0, 66.0, 71.0, 97.0]),
}


def line_loss(knobs, days):
    """Squared miss of each day; `knobs[0]` cones at five hours of sun, `knobs[1]` more for each further hour."""
    return losses.squared_error(knobs[0] + knobs[1] * days["sun"], days["cones"])


score = ls.Objective(line_loss, days)
here = jnp.array([30.0, 14.0])
gradient = jax.grad(score)(here)

for number, name in enumerate(("cones at five hours", "more for each hour")):
    hair = jnp.zeros(2).at[number].set(0.01)
    by_hand = (score(here + hair) - score(here - hair)) / 0.02
    print(f"{name:>20}: by turning the knob {by_hand:7.2f}, from the formula {gradient[number]:7.2f}")

# %% [markdown]
# The first number is negative: turn that knob up and the score falls. The second is positive: turn that knob up and the
# score rises. So go up with the first and down with the second.
#
# ## Arrows on a map
#
# Now at many places at once. The lines join places of the same height. At every place the compass shows its arrow,
# downhill, all drawn with the same length.

# %%
cones = ls.Axis.linspace("cones", 25, 85, 41, label="cones at 5 hours of sun")
more = ls.Axis.linspace("more", -5, 20, 41, label="more for each hour")
bowl = ls.sweep(ls.LossSurface(lambda knobs: knobs, score, outputs=("gradient",)), ls.Grid((cones, more)))

every = (slice(2, None, 6), slice(2, None, 6))
down = -bowl["gradient"][every]
picture = np.array([np.ptp(cones.values), np.ptp(more.values)])  # the two knobs have different units
arrows = down / picture / np.linalg.norm(down / picture, axis=-1, keepdims=True)

with ls.plotting.style("doodle"):
    ax = ls.plotting.contours(bowl, "loss", levels=9, aspect="auto", label="mean squared miss")
    x, y = np.meshgrid(cones.values[every[0]], more.values[every[1]], indexing="ij")
    ax.quiver(x, y, arrows[..., 0], arrows[..., 1], color="orangered", angles="uv", scale=16, width=0.006)
    ax.set_box_aspect(1)  # as wide as high: an arrow has the direction of its step

# %% [markdown]
# The star marks the lowest place. In a round bowl every arrow would point at it. In a long, narrow valley they do not:
# they point across the valley, at the opposite wall. The compass knows the steepest way down from here. It does not
# know where the lowest place is.
#
# (Counted in the units of its knobs, this valley is nearly three times as long as it is wide. The map is squeezed to
# fit the page, so the lines look round. The arrows show the true direction of the step on this map. As the two knobs
# have different units, they need not cross the lines at right angles.)
#
# How wrong can it be? Take a valley that is 10, 100 or 1,000 times as curved across as along. We stand all around its
# lowest place and measure the angle between the compass and the true way.

# %%


def compass_error(where):
    """Angle in degrees between downhill and the way to the bottom, in a valley and a direction in which we stand."""
    curved, direction = 10.0 ** where[0], where[1]
    valley = ls.Objective(lambda place, _: (place[0] ** 2 + curved * place[1] ** 2) / 2)
    place = jnp.array([jnp.cos(direction), jnp.sin(direction)])
    downhill = -jax.grad(valley)(place)
    cosine = jnp.dot(downhill, -place) / jnp.linalg.norm(downhill)
    return {"degrees": jnp.degrees(jnp.arccos(jnp.clip(cosine, -1.0, 1.0)))}


around = ls.Grid.of(zeros=[1.0, 2.0, 3.0], direction=np.linspace(0.0, np.pi / 2, 2001))
worst = ls.sweep(compass_error, around)["degrees"].max(axis=1)

for curved, off_by in zip((10.0, 100.0, 1000.0), worst):
    exact = np.degrees(np.arccos(2 * np.sqrt(curved) / (1 + curved)))
    print(f"{curved:6.0f} times as curved: off by up to {off_by:.2f} degrees; exactly {exact:.2f}")

# %% [markdown]
# Almost 90 degrees: the compass may point nearly sideways. It never points uphill, though. Follow it with small enough
# steps, and you always get lower.
#
# ## How long a step?
#
# A step is the arrow, times a number called the **learning rate**. Too small, and you take for ever. Too large, and you
# step across the valley and land higher on the other side. There is an exact border, and it depends on how strongly the
# ground is curved, along the direction in which it is curved most. The library measures this curvature.

# %%
curvature = np.linalg.eigvalsh(ls.curvature.hessian(score, here)).max()
print(f"strongest curvature {curvature:.3f}; largest safe learning rate 2 / {curvature:.3f} = {2 / curvature:.4f}")

rates = jnp.array([0.5, 1.9, 2.1]) / curvature
starts = jnp.tile(here, (3, 1))
walks = ls.train_many(score, optax.sgd, starts, hyper=rates, num_steps=30, record_every=1, snapshots=True)

# %% [markdown]
# Three hikers start at the same place, with three learning rates: well below the border, just below it, just above it.

# %%
names = ("0.5 / curvature", "1.9 / curvature", "2.1 / curvature")

with ls.plotting.style("doodle"):
    fig, (left, right) = plt.subplots(1, 2, figsize=(9, 4))
    ls.plotting.contours(bowl, "loss", ax=left, levels=9, aspect="auto", labels=False, label="three walks")
    for number, color in ((2, "gray"), (1, "orangered"), (0, "black")):
        left.plot(*walks.snapshots[number, :9].T, ".-", color=color, linewidth=1.2)
        right.plot(walks.history["step"][number], walks.history["loss"][number], color=color, label=names[number])
    left.set(xlim=cones.values[[0, -1]], ylim=more.values[[0, -1]])
    right.set(xlabel="step", ylabel="mean squared miss", yscale="log", title="height above sea level")
    right.legend()

# %% [markdown]
# The black hiker walks down without a jump. The red one jumps from wall to wall and gets there all the same. The grey
# one is only a little bolder. She goes down for three steps, while the way along the valley still helps, and from then
# on stands higher with every step.

# %% [markdown]
# ## The same in symbols
#
# Write $L(\theta)$ for the score at the knobs $\theta$. The gradient $\nabla L(\theta)$ (read "nabla L") is the list of
# slopes, one for each knob. One step of **gradient descent** with learning rate $\eta$ (eta) is
#
# $$\theta \leftarrow \theta - \eta \, \nabla L(\theta) .$$
#
# In a valley with curvature $\lambda$ (lambda) the distance from the lowest place is multiplied by $1 - \eta \lambda$
# in every step. So it shrinks steadily for $\eta < 1 / \lambda$, shrinks while jumping from side to side for $1 /
# \lambda < \eta < 2 / \lambda$, and grows for $\eta > 2 / \lambda$. With several curvatures the largest one sets the
# limit. If it is $\kappa$ (kappa) times the smallest, then the worst angle between the compass and the way has the
# cosine
#
# $$\frac{2 \sqrt{\kappa}}{1 + \kappa} ,$$
#
# and even with the best single learning rate the distance is multiplied, in the worst case, by
# $\frac{\kappa - 1}{\kappa + 1}$ in each step. Remembering a part of the last step (*heavy ball*, or *momentum*)
# improves this factor to $\frac{\sqrt{\kappa} - 1}{\sqrt{\kappa} + 1}$ in the long run. That is one reason why it is
# used so much.

# %% [markdown]
# ## What these pictures do not show
#
# - *Arrows depend on the units of the knobs.* Count sun in minutes instead of hours, and the valley becomes sixty times
#   narrower. The data are the same, the compass is not.
# - *All these valleys are simple bowls.* A network's landscape bends: the curvature, and with it the safe learning
#   rate, change along the way. In fact training tends to walk to where the learning rate is just about safe: [the
#   edge of stability](../experiments/edge_of_stability.py).
# - *The hiker here sees all data at each step.* Real training often uses a few examples at a time, so its compass
#   trembles.
#
# Next: [marbles and ditches](06_landscape.py).
