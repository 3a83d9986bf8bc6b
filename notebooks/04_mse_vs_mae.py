# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # 4. Squares or distances?
#
# You have a miss of 3. Do you write down 3, or 3 times 3, which is 9? This small choice changes what a model learns.
#
# - Write down the distance itself, and take the mean: **MAE**, the mean absolute error.
# - Write down the square of the distance, and take the mean: **MSE**, the mean squared error.
#
# With squares, a miss twice as large counts four times as much. A miss ten times as large counts a hundred times as
# much. So squares say: *big misses first*. Distances say: *every unit of miss counts the same*.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax

import landscape as ls
from landscape import losses

# %matplotlib inline

# %% [markdown]
# ## Two hills
#
# Draw the loss against the miss. The square is a bowl: flat near the bottom, steeper and steeper further up. The
# distance is a V: the same slope everywhere, and a sharp tip. Between the two lies a third one, the **Huber loss**: a
# bowl near the bottom, a straight V further out. (Its square is halved, so that the pieces fit.)
#
# On the right is the **slope**: how much the loss changes if the miss grows a little. The slope decides how hard an
# example pulls at the knobs.

# %%
curves = {"squared": losses.squared_error, "distance": losses.absolute_error, "Huber": losses.huber(1.0)}
miss = jnp.linspace(-3.0, 3.0, 121)
zero = jnp.zeros(())

with ls.plotting.style("doodle"):
    fig, (left, right) = plt.subplots(1, 2, figsize=(8, 3.4))
    for name, loss in curves.items():
        left.plot(miss, loss(miss, jnp.zeros_like(miss)), label=name)
        right.plot(miss, jax.vmap(jax.grad(loss), (0, None))(miss, zero), label=name)
    left.set(xlabel="miss", ylabel="loss", title="the hill")
    right.set(xlabel="miss", ylabel="slope", title="its slope")
    left.legend()

# %% [markdown]
# The slope of the square grows with the miss, without end: one example that is far off can pull harder than all others
# together. The slope of the distance is the same for all: one example, one vote.
#
# ## One typing error
#
# Here are the ice creams of [page 1](01_reality_vs_prediction.py). On one day someone typed 970 where 97 was meant.
# Three lines are fitted to the data, one for each loss. Fitting means: start somewhere, and turn the knobs downhill
# until nothing improves. (`optax.adam` is a popular way of walking downhill. It comes back on page 5.)

# %%
hours_of_sun = jnp.array([1.0, 2.0, 4.0, 5.0, 7.0, 9.0])
cones_sold = jnp.array([21.0, 38.0, 40.0, 66.0, 71.0, 970.0])
data = {"sun": hours_of_sun - 5.0, "cones": cones_sold}


def line_objective(loss):
    """The mean loss of a line, as a function of its two knobs."""
    return ls.Objective(lambda knobs, days: loss(knobs[0] + knobs[1] * days["sun"], days["cones"]), data)


walk = optax.adam(optax.exponential_decay(20.0, 1, 0.99))
fits = {}
for name, loss in {**curves, "Huber": losses.huber(10.0)}.items():
    fits[name] = ls.train(line_objective(loss), walk, jnp.zeros(2), num_steps=1500, record_every=1500).params
    print(f"{name:>8}: {fits[name][0]:6.1f} cones at five hours, {fits[name][1]:+5.1f} for each further hour")

# %%
with ls.plotting.style("doodle"):
    fig, ax = plt.subplots(figsize=(5.4, 3.6))
    for (name, (at_five, more)), line in zip(fits.items(), ("-", "-", "--")):
        ax.plot(hours_of_sun, at_five + more * (hours_of_sun - 5.0), line, label=name)
    ax.plot(hours_of_sun[:5], cones_sold[:5], "o", color="black", markersize=6)
    ax.annotate("970, far above", (9, 250), (6.2, 235), arrowprops={"arrowstyle": "->"})
    ax.set(xlabel="hours of sun", ylabel="cones", ylim=(-150, 260))
    ax.legend(loc="lower right")

# %% [markdown]
# The squares listen to the typing error. Their line even goes below zero, just to come a little nearer to 970. The
# distances overrule it: five against one. The Huber loss does nearly the same.
#
# So are squares bad? No. If the 970 was real (a festival!), then a model that ignores it will run out of ice cream.
# And if there are no such surprises, squares make better use of the data, as we now see.
#
# ## What caution costs
#
# Suppose the misses are small, many and without surprises, so that they follow the famous bell curve. Then the mean,
# which belongs to the squares, is the best you can do. The median, which belongs to the distances, wastes data: it
# needs more examples to be as precise. How many more is known exactly.

# %%
print("share of the data that is put to use, if the misses follow a bell curve of width 1")
for name, loss in {**curves, "Huber": losses.huber(1.345)}.items():
    print(f"  {name:>8}: {losses.gaussian_efficiency(loss):.4f}")

# %% [markdown]
# The distances put 64 % to use; the exact number is 2 divided by pi. The Huber loss with its bend at 1.345 keeps 95
# %. That is why people call it a good compromise.
#
# ## The V has no flat bottom
#
# Walking downhill on a V has a snag. The slope never gets smaller, so a walker with a fixed stride steps over the
# tip, turns round, and steps over it again, for ever. In a bowl the slope fades near the bottom, and so do the steps.
# On a V you must shorten your stride yourself.

# %%
minutes = jnp.array([12.0, 14.0, 15.0, 17.0, 18.0, 20.0, 51.0])


def promise(loss):
    """The mean loss of telling every customer one number."""
    return ls.Objective(lambda told, batch: loss(jnp.broadcast_to(told, batch.shape), batch), minutes)


strides = {
    "bowl, fixed stride": (promise(losses.squared_error), optax.sgd(0.1)),
    "V, fixed stride": (promise(losses.absolute_error), optax.sgd(7.0)),
    "V, shrinking stride": (promise(losses.absolute_error), optax.sgd(optax.exponential_decay(7.0, 1, 0.9))),
}

with ls.plotting.style("doodle"):
    fig, ax = plt.subplots(figsize=(5.4, 3.4))
    for name, (objective, stride) in strides.items():
        run = ls.train(objective, stride, jnp.array(30.0), num_steps=40, snapshots=True)
        ax.plot(run.snapshots, label=name)
    ax.set(xlabel="step", ylabel="minutes that you tell")
    ax.legend()

# %% [markdown]
# The bowl glides to the mean, 21. The V with a fixed stride never settles. With a shrinking stride it settles at the
# median, 17.

# %% [markdown]
# ## The same in symbols
#
# Let $r$ be a miss. The three losses and their slopes are
#
# $$r^2 \text{ with slope } 2 r, \qquad \lvert r \rvert \text{ with slope } \pm 1, \qquad
# h_k(r) = \begin{cases} r^2 / 2 & \text{if } \lvert r \rvert \le k \\
# k \lvert r \rvert - k^2 / 2 & \text{otherwise,} \end{cases}$$
#
# where $\pm 1$ means $+1$ for a positive miss and $-1$ for a negative one, and $k$ is where the Huber loss bends. If
# the misses follow a bell curve of width 1, a loss with slope $\psi(r)$ (psi) uses the share
#
# $$\frac{\left( \text{mean of } r \, \psi(r) \right)^2}{\text{mean of } \psi(r)^2}$$
#
# of the data (Huber 1964). For squares that is 1, for distances $2 / \pi = 0.6366$, for Huber's loss with $k = 1.345$
# it is $0.9500$. There is another side to it. Let a share $e$ of the data be false, and as far away as it likes. The
# mean then follows it to infinity. The median moves by no more than $\Phi^{-1}\!\left( \frac{1}{2 (1 - e)} \right)$
# widths of the bell curve, where $\Phi^{-1}$ turns a probability into a position on the bell curve. For $e = 0.1$
# that is $0.14$.

# %% [markdown]
# ## What these pictures do not show
#
# - *The best loss is not a matter of taste.* It follows from what a miss costs you, and from which surprises your data
#   hold. The pictures cannot know either.
# - *Steep is not fast.* A steep hill gives large steps, but as page 5 shows, too large a step leads uphill.
# - *Three losses are not all.* Networks that choose among classes use the surprise of
#   [page 2](02_per_sample_error.py), which is neither a square nor a distance.
#
# All numbers of this page are measured, with error bars, by
# [an experiment](../experiments/loss_functions.py).
#
# Next: [which way is down?](05_gradient_is_a_compass.py)
