# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # 8. What if marbles could talk?
#
# A marble that is stuck in a ditch stays there. It cannot see over the rim. People get stuck as well, but they have
# something that marbles lack: they talk. Somebody else is stuck in another place and has understood another half of the
# matter.
#
# Yoshua Bengio asked in 2012 whether that is what culture is for ("Evolving Culture vs Local Minima", arXiv
# 1203.2990). His guess, in short: one brain that learns alone is likely to get stuck; ideas that pass from mind to
# mind, and are mixed on the way, help everyone out of their ditches. This page tries a very small version of that
# guess: two learners that are stuck, and a child that gets half of its ideas from each.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import landscape as ls

# %matplotlib inline

# %% [markdown]
# ## A school with one teacher
#
# A network is made of small parts, the **neurons**. Each has its own knobs and looks for one thing in the input. Our
# teacher is a network with twelve neurons. A student is a network with twelve neurons of its own, set at random. It
# sees questions and the teacher's answers, never the teacher's knobs, and rolls downhill until its answers agree.
#
# A perfect student is possible: it would have to look for the same twelve things as the teacher. So the deepest ditch
# has height 0, and we can tell for sure who is stuck. We send 150 students to this school, each alone. (They roll
# with some speed, like the heavy marble of [page 6](06_landscape.py).)

# %%
NEURONS, STUDENTS = 12, 150
school = ls.problems.student_teacher(NEURONS)
rule = optax.sgd(0.05, momentum=0.9)


def taught(neurons):
    """Loss and neurons of students after school, who began with these neurons: (students, 12, 12)."""
    runs = ls.train_many(school.objectives["train"], rule, {"w": neurons}, num_steps=1000)
    return runs.history["loss"][:, -1], np.asarray(runs.params["w"])


beginners = jax.vmap(school.init)(jax.random.split(jax.random.key(0), STUDENTS))["w"]
loss, learned = taught(beginners)
stuck = np.flatnonzero(loss > 1e-3)
print(f"{len(stuck)} of {STUDENTS} students who learn alone get stuck")

# %% [markdown]
# Here is where they end. On the left the perfect students. The others do not end just anywhere: they gather at a few
# heights. These are the local minima, and they are well known (Safran and Shamir 2018).

# %%
with ls.plotting.style("doodle"):
    fig, ax = plt.subplots(figsize=(5.4, 3.2))
    ax.hist(loss, bins=np.linspace(0, 0.06, 61), color="orangered")
    ax.set(xlabel="loss at the end", ylabel="students", title="alone")

# %% [markdown]
# ## Half of the ideas from each
#
# Now take two students who are both stuck. A child gets six neurons of one, drawn by lot, and six of the other.
# Nobody checks which ones are good, or whether they fit together. Then the child goes to the same school, for the
# same time.
#
# A result like this means nothing without something to compare it with. Perhaps the child only profits from a fresh
# start? So there are two more groups, equally large and with the same time at school:
#
# - **alone again**: a stuck student forgets everything and starts anew;
# - **half forgotten**: a stuck student keeps six neurons and draws six new ones at random, from nobody.

# %%
lot = np.random.default_rng(1)


def half_of(parents):
    """Six neurons of each parent, drawn by lot."""
    return np.stack([learned[parent][lot.permutation(NEURONS)[: NEURONS // 2]] for parent in parents])


couples = np.stack([lot.choice(stuck, 2, replace=False) for _ in range(STUDENTS)])
new = np.asarray(jax.vmap(school.init)(jax.random.split(jax.random.key(2), STUDENTS))["w"])
starts = {
    "alone again": new,
    "half forgotten": np.concatenate([half_of(couples[:, 0]), new[:, : NEURONS // 2]], axis=1),
    "child of two": np.concatenate([half_of(couples[:, 0]), half_of(couples[:, 1])], axis=1),
}
freed = {name: int(np.sum(taught(jnp.asarray(start))[0] <= 1e-3)) for name, start in starts.items()}

# %%
shares = np.array(list(freed.values())) / STUDENTS
ranges = np.array([ls.analysis.wilson_interval(count, STUDENTS) for count in freed.values()])
for name, share, (low, high) in zip(freed, shares, ranges):
    print(f"{name:>15}: {share:.0%} become perfect (95 % interval {low:.0%} to {high:.0%})")

with ls.plotting.style("doodle"):
    fig, ax = plt.subplots(figsize=(5.4, 3.2))
    ax.bar(list(freed), 100 * shares, color=["lightgray", "lightgray", "orangered"], edgecolor="black")
    ax.vlines(range(len(freed)), *(100 * ranges.T), color="black")
    ax.set(ylabel="become perfect, %", ylim=(0, 100))

# %% [markdown]
# The black lines are **95 % intervals**: with only 150 students a share is not known exactly, and the true one lies
# within such a line in 19 of 20 cases.
#
# Both parents were stuck, and their child often is not. Half of one parent and half new is no better than starting
# anew. So it is not the shaking that helps. It is the other parent: someone who is stuck *elsewhere* has neurons that
# one lacks.

# %% [markdown]
# ## The same in symbols
#
# The input $x$ is a list of twelve random numbers, each from a bell curve. Neuron $i$ of the student has the knobs
# $w_i$, a list of the same length, and answers $\max(0, w_i \cdot x)$, where $w_i \cdot x$ multiplies the two lists
# number by number and adds up. The network's answer is the sum over its neurons; the teacher's neurons are called
# $v_j$. The loss is half the mean squared difference of the answers, over *all* inputs at once:
#
# $$L(w_1, \dots, w_{12}) = \frac{1}{2} \, \text{mean of} \left( \sum_i \max(0, w_i \cdot x)
# - \sum_j \max(0, v_j \cdot x) \right)^2 .$$
#
# This mean has an exact formula in the lengths of the $w_i$ and the angles between them, so no examples need to be
# drawn, and there is no overfitting: the only trouble is the landscape. A child of the students $w$ and $w'$ starts
# at $(w_{\pi(1)}, \dots, w_{\pi(6)}, w'_{\sigma(1)}, \dots, w'_{\sigma(6)})$, with two random orders $\pi$ and
# $\sigma$.

# %% [markdown]
# ## What these pictures do not show
#
# - *This is not culture.* There is no language here, no teaching, no choice of whom to listen to. It shows one part
#   of the guess: mixing halves of stuck solutions can beat starting anew.
# - *It works because parts can be swapped.* The answer of this network is a plain sum over its neurons, so a neuron
#   means the same in another head. In a deep network it does not.
# - *One task, one size, one way to roll.* [An experiment](../experiments/culture.py) tries other sizes, more ways to
#   talk, and more things to compare with. Two others look at [hints](../experiments/hints.py) and at
#   [learning that guides evolution](../experiments/hinton_nowlan.py).
#
# Next, for those who train networks themselves: [your own model](09_your_own_model.py).
