# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # 3. Many misses, one number
#
# After [page 2](02_per_sample_error.py) we have one number for each example. A machine cannot shrink a thousand
# numbers at once: making one smaller makes another larger. It needs a single number, a score. So the many become one.
# This is called **aggregating**.
#
# There is more than one way to do it. This page shows that the way you choose decides which answer is called best.

# %%
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import landscape as ls
from landscape import losses

# %matplotlib inline

# %% [markdown]
# ## Seven deliveries
#
# A parcel service wrote down how many minutes seven deliveries took. (The numbers are made up.) The last one was on a
# day of snow. You must tell the next customer one number. Which?
#
# This is a model with a single knob: the number that you tell. The miss of each delivery is the distance between your
# number and what happened.

# %%
minutes = jnp.array([12.0, 14.0, 15.0, 17.0, 18.0, 20.0, 51.0])
told = 20.0
misses = losses.absolute_error(jnp.full(7, told), minutes)
print("told 20 minutes, the misses are", misses)

# %% [markdown]
# Four ways to make one number of these seven:
#
# - the **sum**: pour all misses into one bucket;
# - the **mean**: the bucket, divided by how many there were;
# - the **median**: sort the misses and take the middle one;
# - the **maximum**: only the worst counts.

# %%
for how in losses.AGGREGATES:
    print(f"{how:>6}: {losses.aggregate(misses, how):.1f}")

# %% [markdown]
# ## Turn the knob, draw the score
#
# Now try every number from 0 to 60, and draw the score of each. This curve is our first **landscape**: left and right
# is the knob, up and down is the score. The best number is the lowest point.
#
# `ls.sweep` is the main tool of this library. It tries a function on a grid of values and remembers what came out.


# %%
def scores(knob):
    """The four scores of the same seven misses."""
    misses = losses.absolute_error(jnp.full(7, knob[0]), minutes)
    return {how: losses.aggregate(misses, how) for how in losses.AGGREGATES}


knob = ls.Grid((ls.Axis.linspace("told", 0, 60, 241, label="minutes that you tell"),))
curves = ls.sweep(scores, knob)

with ls.plotting.style("doodle"):
    ax = ls.plotting.profile(curves, ["mean", "median", "max"], scale="linear", label="score, minutes")
    for how, color in zip(("mean", "median", "max"), ("black", "orangered", "gray")):
        best = curves.argmin(how)
        ax.plot(curves.coords(best), curves[how][best], "*", color=color, markersize=13)

for how in losses.AGGREGATES:
    print(f"{how:>6}: lowest at {curves.coords(curves.argmin(how))[0]:.2f} minutes")

# %% [markdown]
# The same seven misses, and three different answers. The mean asks for 17 minutes. The maximum fears the day of snow
# and asks for 31 and a half. The median hardly looks at the slowest deliveries. The sum is seven times the mean: a
# taller curve with the same lowest point, so it asks for the same 17.
#
# ## Two knobs make a map
#
# With one knob the landscape is a curve. With two it is a map, like a hiking map: two directions to walk in, and a
# height. Here are the ice creams of [page 1](01_reality_vs_prediction.py) again. The line has two knobs: how many
# cones on a day with five hours of sun, and how many more for each further hour. We have added a seventh day, with a
# broken machine.

# %%
hours_of_sun = jnp.array([1.0, 2.0, 4.0, 5.0, 7.0, 9.0, 8.0])
cones_sold = jnp.array([21.0, 38.0, 40.0, 66.0, 71.0, 97.0, 15.0])


def line_scores(knobs):
    """Scores of a line: `knobs[0]` cones at five hours of sun, `knobs[1]` more for each further hour."""
    guesses = knobs[0] + knobs[1] * (hours_of_sun - 5.0)
    misses = losses.absolute_error(guesses, cones_sold)
    return {how: losses.aggregate(misses, how) for how in losses.AGGREGATES}


cones = ls.Axis.linspace("cones", 20, 90, 71, label="cones at 5 hours of sun")
more = ls.Axis.linspace("more", -6, 18, 73, label="more for each hour")
maps = ls.sweep(line_scores, ls.Grid((cones, more)))

with ls.plotting.style("doodle"):
    fig, axes = plt.subplots(1, 3, figsize=(10.5, 3.9))
    for ax, how in zip(axes, ("mean", "median", "max")):
        ls.plotting.contours(maps, how, ax=ax, levels=8, aspect="auto", label=f"{how} of the misses")

# %% [markdown]
# Each line joins points of the same height, as on a hiking map. The star is the lowest point. Three maps of the same
# data, three different lowest points. The landscape is not a property of the data alone. You made it, when you chose
# how to measure and how to aggregate.
#
# Look at the middle map once more. It has several hollows, because a middle value jumps from one day to another as the
# line turns. That is why nobody trains large networks with the median: a marble that rolls downhill would get stuck.

# %% [markdown]
# ## The same in symbols
#
# Let $y_1, \dots, y_n$ be the truths, $c$ the one number that you tell, and $|y_i - c|$ the miss of example $i$. Each
# way to measure and aggregate has a best $c$, and statisticians know its name:
#
# | you make small | the best $c$ is |
# |---|---|
# | the mean of $(y_i - c)^2$ | the mean of the $y_i$ |
# | the mean of $\lvert y_i - c \rvert$ | the median of the $y_i$ |
# | the largest $\lvert y_i - c \rvert$ | the midrange, half-way between the smallest and the largest $y_i$ |
# | the mean of the pinball loss at $\tau$ | the $\tau$-quantile: a share $\tau$ of the $y_i$ lies below it |
#
# The **pinball loss** counts a miss $\tau$ times where the truth was above your number and $1 - \tau$ times where it
# was below, with $\tau$ (tau) between 0 and 1. With $\tau = 0.9$ it is bad to promise too little, so the best promise
# is late for one delivery in ten. The left column is found by the library, the right one by NumPy, from the table:

# %%
pairs = [
    ("mean of squares", losses.best_constant(losses.squared_error, minutes), np.mean(minutes)),
    ("mean of distances", losses.best_constant(losses.absolute_error, minutes), np.median(minutes)),
    (
        "largest distance",
        losses.best_constant(losses.absolute_error, minutes, "max"),
        (minutes.min() + minutes.max()) / 2,
    ),
    ("pinball at 0.8", losses.best_constant(losses.pinball(0.8), minutes), np.sort(minutes)[5]),
]
for name, found, expected in pairs:
    print(f"{name:>18}: {found:.4f}   {expected:.4f}")

# %% [markdown]
# (The sixth of seven sorted numbers is the 0.8-quantile: five of seven, 71 %, are smaller, and six of seven, 86 %,
# are not larger.)

# %% [markdown]
# ## What these pictures do not show
#
# - *The lowest point is not "the truth".* It is the best answer to the question that you asked by choosing a score.
# - *One number hides who pays.* A mean of 5 minutes may be 5 minutes for everyone, or 35 minutes for one in seven.
# - *Two knobs can be drawn, a thousand cannot.* The network of page 1 has 1,210. How to look at such a landscape all
#   the same, and what gets lost, is page 6 and [page 10](10_trust_your_slice.py).
#
# Next: [squares or distances?](04_mse_vs_mae.py)
