# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # 1. Reality and prediction
#
# A program that learns does one thing all day: it guesses, and then it is told the truth.
#
# - The **truth** is what really happened: this picture shows a 7.
# - A **prediction** is a guess at the truth: "I think it is a 7, but it could be a 1."
# - The **miss** is how far the guess is from the truth.
#
# Think of a dartboard. The bull's-eye is the truth. Every guess is a dart. The distance from the dart to the
# bull's-eye is the miss. Learning means: throw again, and land nearer.
#
# This page looks at misses, first of a straight line, then of a small network that reads handwritten digits.

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np
import optax

import landscape as ls

# %matplotlib inline

# %% [markdown]
# ## A line that guesses
#
# Someone sells ice cream. On six days they wrote down how many hours the sun shone and how many cones they sold. (The
# numbers are made up.)
#
# A **model** is a rule that makes predictions. The simplest one here is a straight line: so many cones on a dark day,
# and so many more for each hour of sun. `np.polyfit` finds the best such line. What "best" means is the subject of
# pages 3 and 4.

# %%
hours_of_sun = np.array([1.0, 2.0, 4.0, 5.0, 7.0, 9.0])
cones_sold = np.array([21.0, 38.0, 40.0, 66.0, 71.0, 97.0])

more_per_hour, on_a_dark_day = np.polyfit(hours_of_sun, cones_sold, 1)
predicted = on_a_dark_day + more_per_hour * hours_of_sun
misses = cones_sold - predicted

for sun, truth, guess, miss in zip(hours_of_sun, cones_sold, predicted, misses):
    print(f"{sun:.0f} hours of sun: sold {truth:.0f}, predicted {guess:5.1f}, off by {miss:+5.1f}")

# %% [markdown]
# The dots are reality. The line is the prediction. The red bars are the misses. Some dots are above the line, some
# below: no straight line goes through all six.

# %%
with ls.plotting.style("doodle"):
    fig, ax = plt.subplots(figsize=(5, 3.4))
    ax.vlines(hours_of_sun, predicted, cones_sold, color="orangered", label="the miss")
    ax.plot(hours_of_sun, predicted, color="gray", label="prediction")
    ax.plot(hours_of_sun, cones_sold, "o", color="black", label="truth")
    ax.set(xlabel="hours of sun", ylabel="cones sold")
    ax.legend()

# %% [markdown]
# ## A network that guesses
#
# Now something with no formula. Below are pictures of handwritten digits, 8 by 8 dots each. They are real; they come
# with scikit-learn, a Python package. Nobody can write down a rule that turns 64 dots into the right digit. So we let a
# **network** find one.
#
# For us, a network is a machine with many **knobs**. Put a picture in. Out come ten numbers between 0 and 1, one for
# each digit. They add up to 1. The network says with them how sure it is: 0.9 for "7" means "I am 90 % sure that it
# is a 7". Such a number is called a **probability**. What the machine says depends on how the knobs are turned. A
# knob's setting is a number too; the proper word for it is **parameter**.

# %%
problem = ls.problems.digits_mlp(hidden=(16,))
pictures = problem.objectives["test"].data["x"]
truths = np.asarray(problem.objectives["test"].data["y"])

untrained = problem.init(jax.random.key(0))
print("knobs:", sum(knob.size for knob in jax.tree.leaves(untrained)))

# %% [markdown]
# **Training** turns the knobs, a little at a time, so that the misses shrink on a set of practice pictures. How it
# knows which way to turn them is page 5. Here it takes one line.

# %%
trained = ls.train(problem.objectives["train"], optax.adam(0.02), untrained, num_steps=60, record_every=60).params


def sureness(knobs):
    """How sure the network is of each digit, for each picture: the ten numbers that add up to 1."""
    return np.asarray(jax.nn.softmax(problem.predict(knobs, pictures)))


before, after = sureness(untrained), sureness(trained)

# %% [markdown]
# Here are eight pictures that the network has never seen. Above each: what it says before training, and what it says
# after.

# %%
with ls.plotting.style("doodle"):
    fig, axes = plt.subplots(1, 8, figsize=(8.4, 1.9))
    for ax, picture, old, new in zip(axes, pictures, before, after):
        ax.imshow(np.reshape(picture, (8, 8)), cmap="gray_r")
        ax.set(xticks=[], yticks=[])
        ax.set_title(f"{old.argmax()} ({old.max():.0%})\n→ {new.argmax()} ({new.max():.0%})", fontsize=8)

# %% [markdown]
# ## The dartboard
#
# A guess like "7, with 90 %" is off by 10 %, if it is a 7. If it is a 1, and the network gave the 1 only 5 %, the
# guess is off by 95 %. So the miss is: 100 % minus the probability that the network gave to the truth.
#
# Each dart is one picture. Its distance from the middle is the miss. The angle means nothing: the darts are only spread
# around the board so that they do not cover each other.

# %%
rows = np.arange(len(truths))
angles = np.random.default_rng(0).uniform(0, 2 * np.pi, len(truths))

with ls.plotting.style("doodle"):
    fig, axes = plt.subplots(1, 2, figsize=(7, 3.6), subplot_kw={"projection": "polar"})
    for ax, name, sure in zip(axes, ("before training", "after training"), (before, after)):
        miss = 1 - sure[rows, truths]
        ax.plot(angles, miss, ".", color="orangered", markersize=4)
        ax.plot(0, 0, "*", color="black", markersize=9)
        ax.set(xticks=[], yticks=[0.25, 0.5, 0.75, 1.0], yticklabels=[], ylim=(0, 1.05))
        ax.set_title(f"{name}\ntypical miss {np.median(miss):.0%}")

# %% [markdown]
# Before training the network knows nothing: it gives each digit about one chance in ten, so the miss is about 90 %, and
# the darts form a ring. After training most darts sit in the middle. Some do not: those are the pictures that it gets
# wrong, and the next page looks at them.

# %% [markdown]
# ## The same in symbols
#
# Skip this if you like; nothing later needs it.
#
# Number the examples $i = 1, 2, \dots, n$. Example $i$ has an input $x_i$ (hours of sun, or 64 dots) and a truth
# $y_i$. All knobs together are called $\theta$, the Greek letter theta. The model is a function $f$: it takes the
# knobs and the input and gives the prediction $f(\theta, x_i)$. The miss, or **residual**, of a number is
#
# $$r_i = y_i - f(\theta, x_i) .$$
#
# The best line has a property that can be checked. Its misses add up to zero, and they have nothing in common with
# the input: $\sum_i r_i = 0$ and $\sum_i r_i \, x_i = 0$, where $\sum_i$ means "add up over all examples".
# Mathematicians say that the residuals are *orthogonal* to the input. If they were not, a slightly steeper or higher
# line would do better.

# %%
print(f"sum of the misses:                {np.sum(misses):.1e}")
print(f"sum of the misses times the sun:  {np.sum(misses * hours_of_sun):.1e}")

# %% [markdown]
# Both are zero, up to the sixteen digits with which a computer counts.

# %% [markdown]
# ## What these pictures do not show
#
# - *The distance is a choice.* We measured the miss as "100 % minus the probability of the truth". Other choices are
#   possible, and they lead to other models. That is page 4.
# - *Small misses do not make a model right.* The line misses little between one and nine hours of sun. It also predicts
#   that cones are sold in the middle of the night.
# - *The board does not show which way a dart missed.* For the network there are nine wrong digits to choose from. One
#   distance cannot say which of them it was.
#
# Next: [one number for each miss](02_per_sample_error.py).
