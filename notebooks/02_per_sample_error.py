# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # 2. One number for each miss
#
# To shrink a miss you must first measure it. So every example gets one number: nought if the prediction is perfect,
# and the larger, the worse it is. This number is called the **loss** of the example. (An **example** is one question
# with its true answer: one picture and its digit. Statisticians say *sample*.)
#
# The loss is the tape measure between the dart and the bull's-eye. This page measures each picture of a set, and then
# looks at the pictures with the largest numbers.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import landscape as ls

# %matplotlib inline

# %% [markdown]
# ## A tape measure
#
# On the [first page](01_reality_vs_prediction.py) a network said how sure it was of each digit. How shall we measure
# a guess like "70 % sure of the right digit"? The usual answer is the **surprise**. If you were sure of the truth,
# the truth does not surprise you: surprise 0. If you thought it likely, you are a little surprised. If you thought it
# impossible, you are very surprised.

# %%
sure = np.array([1.0, 0.9, 0.5, 0.1, 0.01, 0.001])
for given_to_the_truth, surprise in zip(sure, -np.log(sure)):
    print(f"{given_to_the_truth:6.1%} sure of the truth: loss {abs(surprise):.2f}")

# %% [markdown]
# Halve the probability, and the loss grows by 0.69, always the same amount. There is no upper end: a guess that gives
# the truth no chance at all has an infinite loss. The name of this tape measure is **cross-entropy**.
#
# ## Measure them all
#
# We train a small network on 1,438 pictures and measure its loss on 359 others, one number for each. `per_example` is
# the tape measure of this library.

# %%
problem = ls.problems.digits_mlp(hidden=(16,))
train, test = problem.objectives["train"], problem.objectives["test"]
run = ls.train(train, optax.adam(0.02), problem.init(jax.random.key(0)), num_steps=60, record_every=60)

losses = np.asarray(test.per_example(run.params))
print("number of losses:", len(losses))
print(f"smallest {losses.min():.4f}, typical (the middle one) {np.median(losses):.3f}, largest {losses.max():.2f}")

# %% [markdown]
# Sort them, the largest first, and draw the first hundred side by side.

# %%
order = np.argsort(-losses)

with ls.plotting.style("doodle"):
    fig, ax = plt.subplots(figsize=(5.4, 3.2))
    ax.fill_between(np.arange(100), losses[order[:100]], step="post", color="orangered")
    ax.set(xlabel="pictures, worst first (100 of 359)", ylabel="loss", xlim=(-1, 99), ylim=(0, None))
    ax.set_title("a few pictures have most of the loss")

share = losses[order[:36]].sum() / losses.sum()
print(f"the worst 36 pictures, one in ten, hold {share:.0%} of all loss")

# %% [markdown]
# ## Look at the worst ones
#
# These are the eight pictures with the largest loss. This is the most useful habit in all of machine learning: before
# you believe a number, look at the examples behind it.

# %%
pictures, truths = test.data["x"], np.asarray(test.data["y"])
guesses = np.asarray(jnp.argmax(problem.predict(run.params, pictures), axis=-1))

with ls.plotting.style("doodle"):
    fig, axes = plt.subplots(1, 8, figsize=(8.4, 2.1))
    for ax, i in zip(axes, order):
        ax.imshow(np.reshape(pictures[i], (8, 8)), cmap="gray_r")
        ax.set(xticks=[], yticks=[])
        ax.set_title(f"truth {truths[i]}\nguess {guesses[i]}\nloss {losses[i]:.1f}", fontsize=8)

# %% [markdown]
# Some are hard for people too. A picture may also be labelled wrongly: then the network is right, the "truth" is not,
# and the loss is large all the same. A tape measure cannot tell you which of the two it was. You have to look.

# %% [markdown]
# ## How much does one example count?
#
# On the next page all these numbers become a single one. How much of a say will one picture have? Take eleven misses
# and make one of them larger and larger. We watch two summaries: the **mean** (add up, divide by how many) and the
# **median** (sort, take the middle one).

# %%
misses = np.array([0.4, 0.7, 0.9, 1.1, 1.4, 1.6, 1.9, 2.3, 2.6, 3.1, 3.3])
pushed_by = np.linspace(0, 20, 81)
many = np.tile(misses, (len(pushed_by), 1))
many[:, 3] += pushed_by  # one example, the fourth, gets worse and worse

with ls.plotting.style("doodle"):
    fig, ax = plt.subplots(figsize=(5, 3.2))
    ax.plot(pushed_by, many.mean(axis=1), color="orangered", label="mean")
    ax.plot(pushed_by, np.median(many, axis=1), color="black", label="median")
    ax.set(xlabel="how much worse one example got", ylabel="summary of eleven", ylim=(0, None))
    ax.legend()

slope = (many[-1].mean() - many[0].mean()) / pushed_by[-1]
print(f"the mean grows by {slope:.4f} for each unit; 1 / 11 is {1 / 11:.4f}")
print(f"the median went from {np.median(many[0])} to {np.median(many[-1])}, and then no further")

# %% [markdown]
# One example pulls the mean as far as it likes. It moves the median from the middle number to its neighbour at most,
# and no further. Neither is right or wrong. If a huge miss is a disaster, you want the mean to notice. If a huge miss
# is a typing error, you do not want it to.

# %% [markdown]
# ## The same in symbols
#
# Write $p_i$ for the probability that the network gives to the truth of example $i$. Its loss is
#
# $$\ell_i = -\log p_i ,$$
#
# with the natural logarithm $\log$. So $p_i = 1$ gives $0$ and $p_i = 0$ gives infinity. The overall loss is the mean
# of $n$ such numbers,
#
# $$L = \frac{1}{n} \left( \ell_1 + \ell_2 + \dots + \ell_n \right) .$$
#
# If one target or one miss moves by $z$, the mean moves by exactly $z / n$. The median moves at most to the next
# number in the sorted list, whatever $z$ is. The library computes both sides of the equation for $L$ in different
# ways; they agree:

# %%
print(f"mean of the {len(losses)} losses: {losses.mean():.6f}")
print(f"what training would see: {float(test(run.params)):.6f}")

# %% [markdown]
# ## What these pictures do not show
#
# - *A loss is not an error rate.* A picture can be read rightly and still have a loss, because the network was not
#   quite sure. And a loss of 2 is not "twice as wrong" as 1; the scale is that of the tape measure.
# - *The worst pictures here are the worst of one network.* Train again from another start and the list changes a
#   little.
# - *Large loss is not the same as harmful.* The tape measure does not know that confusing a 1 with a 7 may cost more
#   on a cheque than in a diary.
#
# Next: [many misses, one number](03_aggregating.py).
