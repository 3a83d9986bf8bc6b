# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # 7. Does it work on new data?
#
# A pupil learns the answers to a hundred exercises by heart. Asked those hundred again, the pupil knows them all.
# Asked the hundred-and-first, the pupil knows nothing. That is memory, not understanding.
#
# A model can do the same. So the examples are divided into two heaps. With the **training data** the knobs are
# turned. The **test data** are locked away until the end, and only then measured. The difference of the two scores is
# called the **generalization gap**. To generalize means: to do well on what you have not seen.

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np
import optax

import landscape as ls

# %matplotlib inline

# %% [markdown]
# ## Too few exercises
#
# The digit reader again, with only 90 training pictures, and 1,707 for the test. It has 1,210 knobs, more than ten
# for each picture. It could learn them all by heart.

# %%
problem = ls.problems.digits_mlp(hidden=(16,), test_fraction=0.95)
train, test = problem.objectives["train"], problem.objectives["test"]
print(f"{train.num_examples} training pictures, {test.num_examples} test pictures")

run = ls.train(
    train,
    optax.adam(0.02),
    problem.init(jax.random.key(0)),
    num_steps=300,
    record_every=5,
    track={"train": train, "test": test},
)

# %% [markdown]
# Both scores, step by step. The training loss falls towards zero. The test loss falls at first, too: what is learned
# early holds for all pictures. Then it stops, and even rises a little. From there on the network learns what is
# special about the 90 pictures. This is called **overfitting**.

# %%
step, train_loss, test_loss = (np.asarray(run.history[name]) for name in ("step", "loss", "test_loss"))
best = test_loss.argmin()

with ls.plotting.style("doodle"):
    fig, ax = plt.subplots(figsize=(5.4, 3.4))
    ax.plot(step, train_loss, color="black", label="training data")
    ax.plot(step, test_loss, color="orangered", label="test data")
    ax.plot(step[best], test_loss[best], "*", color="orangered", markersize=13)
    ax.set(xlabel="step", ylabel="loss", ylim=(-0.1, None))
    ax.legend()

print(f"at the end: training {train_loss[-1]:.4f}, test {test_loss[-1]:.3f}, gap {test_loss[-1] - train_loss[-1]:.3f}")
right = {name: float(run.history[f"{name}_accuracy"][-1]) for name in ("train", "test")}
print(f"rightly read: training {right['train']:.1%}, test {right['test']:.1%}")

# %% [markdown]
# ## Two dartboards
#
# The dartboard of [page 1](01_reality_vs_prediction.py), once for each heap. A dart is one picture; its distance from
# the middle is 100 % minus the probability that the network gave to the truth.

# %%
turn = np.random.default_rng(0)

with ls.plotting.style("doodle"):
    fig, axes = plt.subplots(1, 2, figsize=(7, 3.7), subplot_kw={"projection": "polar"})
    for ax, name, objective in zip(axes, ("training", "reality"), (train, test)):
        miss = 1 - np.exp(-np.asarray(objective.per_example(run.params)))[:90]
        ax.plot(turn.uniform(0, 2 * np.pi, len(miss)), miss, ".", color="orangered", markersize=6)
        ax.set(xticks=[], yticks=[0.25, 0.5, 0.75, 1.0], yticklabels=[], ylim=(0, 1.05))
        ax.set_title(f"{name}\naverage miss {miss.mean():.0%}")

# %% [markdown]
# On the left all 90 darts lie on top of each other. On the right some are far out. (The right board shows 90 of the
# test pictures, so that both have the same number of darts.)
#
# ## Two landscapes, one on top of the other
#
# The landscape of [page 6](06_landscape.py) is made of data. Other data, another landscape. We draw both over the
# same knobs: on a **plane** through the trained network, which is in the middle. Left and right turns all knobs at
# once in one way, up and down in another. Both ways were drawn by lot, and scaled to the size of the knobs.

# %%
directions = ls.subspace.random_directions(jax.random.key(4), run.params)
directions = ls.subspace.filter_normalize(directions, run.params)
plane = ls.Subspace(run.params, directions)
surface = ls.sweep(ls.LossSurface(plane, {"train": train, "test": test}), ls.Grid.square(1.0, 31))
surface = surface.assign(gap=ls.analysis.generalization_gap(surface))

with ls.plotting.style("doodle"):
    fig, axes = plt.subplots(1, 3, figsize=(11, 4.2))
    for ax, name in zip(axes, ("train_loss", "test_loss", "gap")):
        title = name.replace("_", " ") if name != "gap" else "test loss minus train loss"
        ls.plotting.contours(surface, name, ax=ax, levels=9, scale="linear", minimum=name != "gap", label=title)
        ax.plot(0, 0, "o", color="black", markersize=4)

for name in ("train_loss", "test_loss"):
    print(name, "is lowest at", np.round(surface.coords(surface.argmin(name)), 2), "on this plane")

# %% [markdown]
# The two landscapes look alike, and that is why learning from examples works at all. But they are not the same. The
# lowest place of the test landscape lies somewhere else, and it is higher. Training aims at the star of the left
# picture; the black dot is the trained network. What we want is the star of the middle picture. Nobody can see it while
# training.

# %% [markdown]
# ## How sure is that?
#
# A test with 1,707 pictures is itself only a sample of the world. Another 1,707 would give another number. The
# **standard error** says how much a mean typically changes from one sample to another.

# %%
for name, objective in (("train", train), ("test", test)):
    each = np.asarray(objective.per_example(run.params))
    error = each.std(ddof=1) / np.sqrt(len(each))
    print(f"{name:>5} loss at the end of training: {each.mean():.4f}, standard error {error:.4f}")

# %% [markdown]
# The gap is many standard errors wide. It is real. Beware of the error of the training loss: it looks tiny, but those
# are the very examples that the knobs were fitted to, so it says nothing about new ones.

# %% [markdown]
# ## The same in symbols
#
# We want a small loss on all examples that the world could hold, the *risk* $R(\theta)$. We can only see the mean
# over the $n$ training examples, $L_n(\theta)$. For knobs that were chosen *without* looking at those examples,
# $L_n(\theta)$ is right on average, and typically off by $s / \sqrt{n}$, where $s$ is how much single losses vary.
# That is the standard error. Training breaks the condition: it picks the knobs with the smallest $L_n$, and so picks,
# among other things, lucky errors. Hence $L_n$ after training is too small, and a second heap is needed.

# %% [markdown]
# ## What these pictures do not show
#
# - *The test heap is only as good as its origin.* These digits were all collected by the same people in the same way.
#   Your own handwriting may do worse.
# - *Whoever picks the step with the best test loss has used the test.* The star in the first picture is too good to
#   be true, a little. For such choices keep a third heap.
# - *More knobs do not always mean more overfitting.* For very large networks the test loss can
#   [fall again](../experiments/double_descent.py).
# - *A wide, flat ditch is no proof of a small gap.* [Page 10](10_trust_your_slice.py) shows how to make a ditch
#   look as narrow as you like without changing a single answer of the network.
#
# Next: [what if marbles could talk?](08_culture.py)
