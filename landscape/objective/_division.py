"""Whether what an objective measures divides into examples, so that its mean is one however the batches are cut."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from landscape import _tree
from landscape.checks import warn
from landscape.objective._batches import Batches
from landscape.objective._inputs import is_float, promote, tree_as_jax
from landscape.objective._objective import Objective, shared

UNLIKE, LIKE = 0.25, 0.02  # of a loss: how far from a mean, and how near to a sum, what is no mean has to be
MAX_KNOWN = 256
WEIGHT = "weight (of weight_fn)"

_DIVIDE: dict[Any, None] = {}  # what was found to divide into examples, the oldest first


def check_means(
    objective: Objective, params: Callable[[], PyTree], name: str = "objective", *, per_example: bool = False
) -> None:
    """Warn where the mean of what an objective measures depends on `batch_size`, since rows of a batch interact.

    Looks once, before anything is compiled, at a few batches of the objective's own size: two halves of one are
    exchanged for others, by one program, so what is added up over examples adds up again to the last digits. What
    cannot be looked at, for it is traced, not finite or raises, is let pass.

    Args:
        objective: a checked objective.
        params: gives parameters to look at it; called only where there is something to find.
        name: the objective's name in messages.
        per_example: whether what is asked for needs the loss of each example.

    Raises:
        ValueError: `per_example`, and examples interact; or a metric has the shape `(n,)` of per-example numbers by
            chance, as it keeps it for another number of examples.
    """
    if isinstance(objective.data, Batches):
        _check_block_means(objective, params, name, per_example)
        return
    count, size = objective._count_and_size()
    if count is None or count < 2:
        return
    batched = size is not None and size < count
    if not batched and not per_example and not objective.has_aux:
        return
    rows = max(2, min(size or count, count))
    at = params()
    _check_axes(objective, at, rows, name)
    if not (batched or per_example) or any(map(_tree.is_traced, jax.tree.leaves((objective, at)))):
        return
    for said, of_rows in _interactions(objective, at, rows):
        if per_example and of_rows:
            raise ValueError(f"{name}: {said}, so there are no independent examples to measure; {_INSTEAD}")
        if batched:
            warn(f"{name}: {said}, so the answer depends on batch_size={size}; leave it away, or {_INSTEAD}")


def _check_block_means(objective: Objective, params: Callable[[], PyTree], name: str, per_example: bool) -> None:
    """The same for `Batches`, by halves of the first one."""
    first = objective.data.first()
    rows = len(jax.tree.leaves(first)[0]) // 2
    at = params()
    if rows < 2 or any(map(_tree.is_traced, jax.tree.leaves((objective, at)))):
        return
    block = objective.over(first)
    _check_axes(block, at, rows, name)
    for said, of_rows in _interactions(block, at, rows):
        if per_example and of_rows:
            raise ValueError(f"{name}: {said}, so there are no independent examples to measure; {_INSTEAD}")
        warn(f"{name}: {said}, so the answer depends on how the data are cut into batches; {_INSTEAD}")


_INSTEAD = (
    "use what does not depend on the batch (stored statistics of batch norm, Objective(state=..)), or make batches the "
    "examples, as under 'Batches as examples' in docs/your_own_model.md; a loss of all data at once is batched=False"
)


def _check_axes(objective: Objective, params: PyTree, rows: int, name: str) -> None:
    """Raise where a result of `rows` numbers keeps that number for half as many examples."""

    def shapes(num: int) -> dict[str, Any]:
        data = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((num, *jnp.shape(x)[1:]), jnp.result_type(x)), objective.data
        )
        values = jax.eval_shape(objective._returned, params, data)
        return {metric: getattr(value, "shape", None) for metric, value in values.items()}

    try:
        whole, half = shapes(rows), shapes(rows // 2)
    except Exception:  # for one batch size only; what the loss itself raises, it will raise again
        return
    for metric, shape in whole.items():
        if shape == half[metric] == (rows,):
            raise ValueError(
                f"{name}: loss_fn returns {rows} numbers as its {metric} for {rows} examples and for {rows // 2}: one "
                "for each class or output, not for each example; average them, or return one scalar metric for each"
            )


def _interactions(objective: Objective, params: PyTree, rows: int) -> list[tuple[str, bool]]:
    """What is no mean over examples, and why; and whether there is a number for each row. Remembers what is one."""
    bare = dataclasses.replace(objective, data=None, batch_size=None)
    shapes = [jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), tree) for tree in (params, objective.data)]
    key = jax.tree.structure((bare, params)), str(shapes), rows
    if key in _DIVIDE:
        return []
    count = int(objective.num_examples or 0)
    few = np.random.default_rng(0).choice(count, min(count, 2 * rows), replace=False)
    pool = np.resize(np.concatenate([few, few[::-1]]), 2 * rows)
    try:
        said = _compare(bare, params, jax.tree.map(lambda x: x[pool], objective.data), rows)
    except Exception:  # what is wrong with the loss, it will raise where it is used
        return []
    if not said:
        _DIVIDE[key] = None
        while len(_DIVIDE) > MAX_KNOWN:
            del _DIVIDE[next(iter(_DIVIDE))]
    return said


def _compare(bare: Objective, params: PyTree, data: PyTree, rows: int) -> list[tuple[str, bool]]:
    """Exchange rows of two batches in several ways, then take the halves of one as batches of their own."""

    def measure(index: np.ndarray, nudge: float = 0.0) -> dict[str, np.ndarray]:
        values = _measured(bare, params, data, index, nudge)
        return {name: np.asarray(value) for name, value in values.items()}

    x, y, half = *np.split(np.arange(2 * rows), 2), rows // 2
    masks = [x < half, x % 2 == 0, x == 0]
    mixed = [(measure(np.where(mask, y, x)), measure(np.where(mask, x, y))) for mask in masks]
    both, nudged = (measure(x), measure(y)), measure(x, nudge=2.0)
    low = _lowest_precision(jax.make_jaxpr(_measured)(bare, params, data, x, 0.0))
    try:
        halves = measure(x[:half]), measure(x[half:])
    except Exception:  # a loss for batches of one size
        halves = None
    said = []
    with np.errstate(all="ignore"):
        for name, value in nudged.items():
            first, second = both[0][name], both[1][name]
            off = max(_mismatch(m, first, second, u[name], v[name]) for m, (u, v) in zip(masks, mixed))
            if off > _rounding(first, second, value, low):
                text = f"the {name} of an example depends on the others of its batch, as by batch norm in training mode"
                said.append((text, bool(value.ndim)))
            elif halves and _is_other(half / rows, *(float(np.mean(z[name])) for z in (both[0], *halves))):
                text = f"the {name} of a batch is not the mean over its examples (is it a sum, or a maximum?)"
                said.append((text, bool(value.ndim)))
    return [(text, of_rows) for text, of_rows in said if WEIGHT in text] or said  # which spoils everything else


@jax.jit
def _measured(bare: Objective, params: PyTree, data: PyTree, index: Array, nudge: Any) -> dict[str, Array]:
    """What is measured on some rows, with parameters off by `nudge` units in the last place."""

    def nudged(x: Any) -> Any:
        return x * (1 + nudge * jnp.finfo(x.dtype).eps).astype(x.dtype) if is_float(x) else x

    batch = jax.tree.map(lambda x: x[index], data)
    values = bare._named(jax.tree.map(nudged, tree_as_jax(params)), batch)
    return _weighted(bare, batch, jax.tree.map(jnp.asarray, values))


def _weighted(bare: Objective, batch: PyTree, values: dict[str, Array]) -> dict[str, Array]:
    """Values times weights, which are plain means over examples where the values are weighted ones."""
    if bare.weight_fn is None:
        return values
    weights = bare._weights(batch)
    times = {name: shared(weights if x.ndim else jnp.mean(weights), promote(x)) for name, x in values.items()}
    return times | {WEIGHT: weights}


def _mismatch(mask: np.ndarray, first: np.ndarray, second: np.ndarray, mixed: np.ndarray, rest: np.ndarray) -> float:
    """By how much what two batches give does not add up when the rows of a mask change sides.

    Each row keeps its place in the batch, so in one and the same program it is rounded alike.
    """
    first, second, mixed, rest = (np.asarray(x, np.float64) for x in (first, second, mixed, rest))
    off = mixed - np.where(mask, second, first) if first.ndim else (first - mixed) + (second - rest)
    return float(np.max(np.abs(off)))


def _rounding(first: np.ndarray, second: np.ndarray, nudged: np.ndarray, low: float) -> float:
    """What sums over a batch may lose to rounding: by the type, and by what the last places of the parameters do."""
    eps = float(jnp.finfo(first.dtype).eps) if jnp.issubdtype(first.dtype, jnp.floating) else 0.0
    first, second, nudged = (np.asarray(x, np.float64) for x in (first, second, nudged))
    share = max(eps**0.5 / 4, 0.0 if first.ndim else 4 * low)
    return max(share * float(np.max(np.abs([first, second]))), 8 * float(np.max(np.abs(nudged - first))))


def _is_other(share: float, whole: float, first: float, second: float) -> bool:
    """Whether a batch gives the sum or the largest of what its parts give, or each example over their number.

    Coarsely, as the parts are computed by another program, which rounds otherwise, and that may be all of a small loss.
    """
    size = max(abs(whole), abs(first), abs(second))
    mean, over_number = share * first + (1 - share) * second, share**2 * first + (1 - share) ** 2 * second
    if not abs(whole - mean) > UNLIKE * size:
        return False
    return any(abs(whole - other) <= LIKE * size for other in (first + second, over_number, max(first, second)))


def _lowest_precision(program: Any) -> float:
    """The coarsest rounding in a program, as far as it is below single precision."""
    kinds = set(re.findall(r"\b(bf16|f16|f8_\w+)\[", str(program)))
    steps = {"bf16": 2.0**-7, "f16": 2.0**-10}
    return max((steps.get(kind, 0.25) for kind in kinds), default=0.0)
