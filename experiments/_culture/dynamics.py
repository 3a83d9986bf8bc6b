r"""Populations of learners that pass ideas on: the dynamics behind `culture.py`, as one pure point function.

Each learner is a ReLU student of the student-teacher problem and goes down by gradient descent. After every `period`
blocks of evaluations the learners of a population talk: `bandwidth` units of each are replaced by, or led towards,
those of another. What a talk costs is taken from the steps of the block that follows, so every learner of every arm
makes the same number of gradient evaluations: a comparison of losses costs one, a step of imitation costs one.

The gradient is the closed form of Brutzkus & Globerson 2017 (arXiv 1702.07966) and Safran & Shamir 2018 (arXiv
1712.08968), written out: with the angles $\theta_{ij}$ between a student's unit $w_i$ and all other units $v_j$, those
of the teacher counted negatively,

$\nabla_i L = w_i / 2 + \frac{1}{2\pi} \sum_j \pm (|v_j| \sin\theta_{ij} \hat w_i + (\pi - \theta_{ij}) v_j)$.

Differentiating the loss of `landscape.problems` gives the same and takes three times as long.
"""

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

import landscape as ls
from landscape.point import as_number
from landscape.problems.students import kernel

BAD = 1e-3  # loss of a learner that is stuck (Safran & Shamir 2018), and half mean squared difference of two networks
RATE = 0.1  # of gradient descent, of a student and of a whole network that imitates
UNIT_RATE = 0.5  # of one unit that imitates: its loss has curvature 1/2

BLUR = 0.01  # usual noise of what is passed on
PASSED = ("units", "behaviour", "outputs", "fresh")
TOPOLOGIES = ("isolated", "ring", "pair", "star", "all", "best")
SELECTIONS = ("none", "better", "accept")

# arccos(x) / sqrt(1 - x) on [0, 1] to 2e-8: Abramowitz & Stegun 1964, 4.4.46
_ARCCOS = (
    1.5707963050, -0.2145988016, 0.0889789874, -0.0501743046, 0.0308918810, -0.0170881256, 0.0066700901, -0.0012624911,
)  # fmt: skip


@dataclass(frozen=True)
class Rules:
    """How the learners of a population talk.

    Attributes:
        passed: what arrives in a chosen place. `units`: the weights of the other's unit; `behaviour`: what the other's
            unit answers on shared inputs, which one's own unit learns to imitate; `outputs`: only what the other's
            whole network answers, which one's own learns to imitate; `fresh`: a new random unit, so nobody's idea.
        topology: from whom. `isolated`: nobody; `ring`: the neighbour on one side or the other; `pair`: a partner in a
            random matching; `star`: learner 0, which itself hears a random other; `all`: for each place a random other;
            `best`: the learner of lowest loss.
        selection: `none`; `better`: hear only who has a lower loss; `accept`: go back to what one was if the loss is
            not lower at the next talk.
        bandwidth: units per talk and learner.
        period: blocks between talks.
        noise: what is passed on is blurred by N(0, noise^2 / d) in each weight, N(0, noise^2) in each answer.
    """

    passed: str = "units"
    topology: str = "pair"
    selection: str = "accept"
    bandwidth: int = 6
    period: int = 10
    noise: float = BLUR

    def numbers(self) -> dict[str, Any]:
        """The same as numbers: leaves of the point function, so that all rules run through one compiled program."""
        names = {"passed": PASSED, "topology": TOPOLOGIES, "selection": SELECTIONS}
        coded = {name: np.int32(choices.index(getattr(self, name))) for name, choices in names.items()}
        counts = {"bandwidth": np.int32(self.bandwidth), "period": np.int32(self.period)}
        return coded | counts | {"noise": np.float32(self.noise)}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False, kw_only=True)
class Population:
    """Point function: the number of a population -> how its learners fare.

    Population `p` is made of the rows `p * size ... p * size + size - 1` of `starts`, whatever the rules.

    Attributes:
        objective: of the student-teacher problem.
        starts: all learners, `(learners, n, d)`; they set the precision.
        key: random key of the talks; population `p` has `fold_in(key, p)`.
        rules: `Rules.numbers()`.
        talks_until: no talk after this block.
        size: learners of a population.
        blocks: recorded stretches of the run.
        evaluations: gradient evaluations of each learner in a block.
        imitation: steps of imitation at a talk.
        inputs: shared inputs at a talk.
    """

    objective: ls.Objective
    starts: Array
    key: Array
    rules: dict[str, Any]
    talks_until: Any
    size: int = field(metadata={"static": True})
    blocks: int = field(metadata={"static": True})
    evaluations: int = field(metadata={"static": True})
    imitation: int = field(default=50, metadata={"static": True})
    inputs: int = field(default=128, metadata={"static": True})

    def __call__(self, coords: Float[Array, " 1"]) -> dict[str, Array]:
        """Of each learner the loss after every block, `(blocks + 1, size)`, and its weights at the end.

        Loss and weights are those a learner answers with: under `accept`, the better of what it tries and what it was.
        `alive` counts different networks, `(blocks + 1,)`; `evaluations` were made by each learner.
        """
        number = as_number(coords[0])
        key = jax.random.fold_in(self.key, number)
        w = jax.lax.dynamic_slice_in_dim(self.starts, number * self.size, self.size)
        none = jnp.full(self.size, jnp.inf, w.dtype)
        state = {"w": w, "loss": none, "kept": w, "kept_loss": none, "spent": jnp.int32(0)}

        def block(state: dict[str, Array], index: Array) -> Any:
            due = (index > 1) & ((index - 1) % self.rules["period"] == 0) & (index <= self.talks_until)
            talk = partial(self._talk, jax.random.fold_in(key, index))
            state, cost = jax.lax.cond(due, talk, lambda state: (state, jnp.int32(0)), state)
            steps = jnp.where(index > 0, self.evaluations - cost, 0)  # block 0 only records
            w = self._practised(state["w"], steps)
            state |= {"w": w, "loss": self._losses(w), "spent": state["spent"] + cost + steps}
            answer, loss = self._answering(state)
            return state, {"loss": loss, "alive": num_different(answer)}

        state, history = jax.lax.scan(block, state, jnp.arange(self.blocks + 1))
        return history | {"w": self._answering(state)[0], "evaluations": state["spent"]}

    def check_grid(self, grid: ls.Grid) -> None:
        """Raise `ValueError` for populations that there are no starts for."""
        numbers, count = grid.axes[0].values, len(self.starts) // self.size
        if grid.ndim != 1 or np.any((numbers < 0) | (numbers >= count) | (numbers != np.rint(numbers))):
            raise ValueError(f"Population needs a grid of one axis of numbers from 0 to {count - 1}, got {grid}")

    def _practised(self, w: Array, steps: Any) -> Array:
        """After so many steps of gradient descent."""
        teacher = jnp.asarray(self.objective.data["teacher"][0], w.dtype)

        def step(_: Any, w: Array) -> Array:
            return w - RATE * jax.vmap(gradient, in_axes=(0, None))(w, teacher)

        return jax.lax.fori_loop(0, steps, step, w)

    def _losses(self, w: Float[Array, "size n d"]) -> Float[Array, " size"]:
        return jax.vmap(lambda one: self.objective({"w": one}))(w)

    def _answering(self, state: dict[str, Array]) -> tuple[Array, Array]:
        """Networks and losses that count now."""
        loss = state["loss"]
        stays = (self.rules["selection"] != SELECTIONS.index("accept")) | (loss < state["kept_loss"])
        w = jnp.where(stays[:, None, None], state["w"], state["kept"])
        return w, jnp.where(stays, loss, state["kept_loss"])

    # ---------------------------------------------------------------------------------------------------- talking

    def _talk(self, key: Array, state: dict[str, Array]) -> tuple[dict[str, Array], Array]:
        """Everybody hears somebody, all at once; and the evaluations that each learner spent on it."""
        rules, dice = self.rules, self._dice(key, state["w"])
        w, loss = self._answering(state)
        others = senders(dice, rules["topology"], loss)
        chosen = _choose(dice["place"], rules["bandwidth"]) & (rules["topology"] != 0)
        fresh, better = rules["passed"] == PASSED.index("fresh"), rules["selection"] == SELECTIONS.index("better")
        chosen &= ~better | fresh | (loss[others] < loss[:, None])
        ways = (self._units, self._behaviour, self._outputs, _renewed)
        heard = jax.lax.switch(rules["passed"], ways, dice, w, others, chosen)
        imitates = (rules["passed"] == PASSED.index("behaviour")) | (rules["passed"] == PASSED.index("outputs"))
        compares = (rules["selection"] != 0) | (rules["topology"] == TOPOLOGIES.index("best"))
        cost = jnp.where(imitates, self.imitation, 0) + jnp.where(compares, 1, 0)
        return state | {"w": heard, "kept": w, "kept_loss": loss}, cost.astype(jnp.int32)

    def _dice(self, key: Array, w: Array) -> dict[str, Array]:
        """All that a talk leaves to chance, drawn in two calls, since each takes seconds to compile.

        Uniform: `place` and `who` for each place of each learner, `order` of the learners, `side` of the ring. Normal:
        `units`, `inputs`, `answers`.
        """
        size, n, d = w.shape
        even = {"place": (size, n), "who": (size, n), "order": (size,), "side": ()}
        normal = {"units": (size, n, d), "inputs": (self.inputs, d), "answers": (size, n, self.inputs)}
        first, second = jax.random.split(key)
        drawn = _parts(jax.random.uniform(first, (_total(even),), w.dtype), even)
        return drawn | _parts(jax.random.normal(second, (_total(normal),), w.dtype), normal)

    def _units(self, dice: dict[str, Array], w: Array, others: Array, chosen: Array) -> Array:
        noise = dice["units"] * self.rules["noise"] / math.sqrt(w.shape[-1])
        return jnp.where(chosen[..., None], _units_of(w, others) + noise, w)

    def _behaviour(self, dice: dict[str, Array], w: Array, others: Array, chosen: Array) -> Array:
        """Each chosen unit goes down on half its mean squared difference from the other's answers."""
        x = dice["inputs"]
        shown = jax.nn.relu(_units_of(w, others) @ x.T) + self.rules["noise"] * dice["answers"]

        def step(_: Any, w: Array) -> Array:
            sums = w @ x.T
            pull = jnp.where(sums > 0, sums - shown, 0.0) @ x / len(x)
            return jnp.where(chosen[..., None], w - UNIT_RATE * pull, w)

        return jax.lax.fori_loop(0, self.imitation, step, w)

    def _outputs(self, dice: dict[str, Array], w: Array, others: Array, chosen: Array) -> Array:
        """The whole network goes down on half its mean squared difference from the other's answers."""
        x = dice["inputs"]
        shown = jnp.sum(jax.nn.relu(w[others[:, 0]] @ x.T), axis=1) + self.rules["noise"] * dice["answers"][:, 0]

        def step(_: Any, w: Array) -> Array:
            sums = w @ x.T
            error = jnp.sum(jax.nn.relu(sums), axis=1) - shown
            pull = jnp.where(sums > 0, error[:, None], 0.0) @ x / len(x)
            return jnp.where(jnp.any(chosen, axis=1)[:, None, None], w - RATE * pull, w)

        return jax.lax.fori_loop(0, self.imitation, step, w)


def _renewed(dice: dict[str, Array], w: Array, others: Array, chosen: Array) -> Array:
    return jnp.where(chosen[..., None], dice["units"] / math.sqrt(w.shape[-1]), w)


def _total(shapes: dict[str, tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def _parts(flat: Array, shapes: dict[str, tuple[int, ...]]) -> dict[str, Array]:
    ends = np.cumsum([math.prod(shape) for shape in shapes.values()])
    return {name: part.reshape(shapes[name]) for name, part in zip(shapes, jnp.split(flat, ends[:-1]))}


def senders(dice: dict[str, Array], topology: Any, loss: Float[Array, " size"]) -> Int[Array, "size n"]:
    """Whose unit each learner hears in each of its places."""
    size, n = dice["who"].shape
    me = jnp.arange(size)
    someone = 1 + jnp.floor(dice["who"] * (size - 1)).astype(me.dtype)  # so far along a circle; never all around
    order = jnp.argsort(dice["order"])
    ring = (me + jnp.where(dice["side"] < 0.5, 1, -1)) % size
    pair = jnp.zeros(size, me.dtype).at[order].set(order[_partner(size)])
    star = jnp.where(me == 0, someone[0, 0] % size, 0)
    best = jnp.full(size, jnp.argmin(loss))
    one_for_all = [jnp.broadcast_to(one[:, None], (size, n)) for one in (me, ring, pair, star, best)]
    return jnp.stack([*one_for_all[:4], (me[:, None] + someone) % size, one_for_all[4]])[topology]


def _partner(size: int) -> np.ndarray:
    """Places 0 and 1 are partners, 2 and 3, ...; the last of an odd number is its own."""
    place = np.arange(size)
    return np.where((place ^ 1) < size, place ^ 1, place)


def _choose(numbers: Float[Array, "size n"], num: Any) -> Bool[Array, "size n"]:
    """`num` random places of each learner."""
    return jnp.argsort(jnp.argsort(numbers, axis=1), axis=1) < num


def _units_of(w: Float[Array, "size n d"], others: Int[Array, "size n"]) -> Float[Array, "size n d"]:
    """The unit in the same place of another learner."""
    return w[others, jnp.arange(w.shape[1])]


# -------------------------------------------------------------------------------------------------- in closed form


def gradient(w: Float[Array, "n d"], teacher: Float[Array, "k d"]) -> Float[Array, "n d"]:
    """Gradient of the student's population loss, to 2e-8 for each angle: below the rounding of single precision."""
    (norms, units), (teacher_norms, teacher_units) = _polar(w), _polar(teacher)
    cosines = jnp.clip(units @ jnp.concatenate([units, teacher_units]).T, -1.0, 1.0)
    pairs = np.concatenate([1 - np.eye(len(w)), -np.ones((len(w), len(teacher)))], axis=1)
    signs = jnp.asarray(pairs, w.dtype)
    sines = signs * jnp.sqrt((1 - cosines) * (1 + cosines))
    along = sines @ jnp.concatenate([norms, teacher_norms])
    across = (signs * _arccos(-cosines)) @ jnp.concatenate([w, teacher])
    return w / 2 + (along * units + across) / (2 * math.pi)


def _polar(w: Float[Array, "n d"]) -> tuple[Float[Array, "n 1"], Float[Array, "n d"]]:
    norms = jnp.sqrt(jnp.sum(w**2, axis=1, keepdims=True))
    return norms, w / jnp.where(norms > 0, norms, 1.0)


def _arccos(x: Float[Array, "..."]) -> Float[Array, "..."]:
    size = jnp.abs(x)
    series = jnp.full_like(size, _ARCCOS[-1])
    for coefficient in _ARCCOS[-2::-1]:
        series = series * size + coefficient
    angle = jnp.sqrt(1 - size) * series
    return jnp.where(x < 0, math.pi - angle, angle)


def differences(w: Float[Array, "size n d"]) -> Float[Array, "size size"]:
    """Half the mean squared difference of the outputs of any two networks under Gaussian input."""
    size, n, d = w.shape
    norms, units = _polar(w.reshape(-1, d))
    table = norms * norms.T * kernel(units @ units.T) / (2 * math.pi)
    products = jnp.sum(table.reshape(size, n, size, n), axis=(1, 3))
    squares = jnp.diagonal(products)
    return (squares[:, None] + squares) / 2 - products


def num_different(w: Float[Array, "size n d"]) -> Int[Array, ""]:
    """Different networks among some: those that are not like one before them, by the threshold that parts the stuck."""
    alike = differences(w) < BAD
    return jnp.sum(~jnp.any(jnp.tril(alike, -1), axis=1))
