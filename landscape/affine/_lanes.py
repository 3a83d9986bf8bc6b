"""Branches and loops under `vmap` that do no more than the points of a batch ask for.

`jax.vmap` turns a `cond` whose index differs from point to point into a selection: every branch runs for every point,
with the loops in it. It runs an inner `while_loop` on for points whose outer loop has ended. A loop that stops for
every point that comes to it may then never stop, for what stands in the other lanes: the whole batch hangs.

`lanewise` rewrites a function so that a branch runs only where some point takes it, and a loop turns only for points
that run it. Then `n` points together cost at most `n` times what they cost one after another, and end if those do.
Nothing else is rewritten, so the values stay the same; `affine.distribute` takes the result as it is.

>>> import jax, jax.numpy as jnp
>>> from landscape.affine._lanes import lanewise
>>> def steps(c):          # never ends for c <= 1, where it is not run
...     return jax.lax.cond(c > 1, lambda: jax.lax.while_loop(lambda x: x < 9, lambda x: c * x, 1.0), lambda: 0.0)
>>> [float(x) for x in jax.vmap(lanewise(steps))(jnp.array([0.5, 3.0]))]
[0.0, 9.0]
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import jax.core
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from landscape.affine._program import is_program, num_consts_and_carry

T = TypeVar("T")
Equation = Any  # jax.extend.core.JaxprEqn, whose avals are not typed
Program = Any  # a jaxpr, closed or not

_LOOPS = {"while", "scan"}
_HEAVY = _LOOPS | {"conv_general_dilated", "dot_general", "pure_callback", "io_callback"}
_CALLS = {"jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint"}
_CALLS |= {"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"}  # no derivative is taken any more
_ONE_EQUATION = jex.DebugInfo("lanewise", "equation", None, None)


@jax.custom_batching.custom_vmap
def anyone(going: Bool[Array, ""]) -> Bool[Array, ""]:
    """`going`, and under `vmap` whether it holds for any lane of the batch: one boolean for all."""
    return going


@anyone.def_vmap
def _anyone_of_batch(_: int, in_batched: list[bool], going: Array) -> tuple[Array, bool]:
    return anyone(jnp.any(going, axis=0) if in_batched[0] else going), False


def lanewise(fn: Callable[[Any], T]) -> Callable[[Any], T]:
    """The same function of one point, whose `vmap` runs branches and loops only where points ask for them.

    Args:
        fn: maps an array to a pytree of arrays; is not differentiated any more.
    """

    @functools.wraps(fn, updated=())
    def apart(coords: Any) -> T:
        closed, shapes = jax.make_jaxpr(fn, return_shape=True)(coords)
        if not _wastes(closed, fn, coords):
            return fn(coords)
        leaves = _run(closed, jax.tree.leaves(coords), None)
        return jax.tree.unflatten(jax.tree.structure(shapes), leaves)

    return apart


# ------------------------------------------------------------------------------------------- what has to be rewritten


def _wastes(closed: jex.ClosedJaxpr, fn: Callable[[Any], Any], coords: Any) -> bool:
    """Whether `vmap` makes a selection of a heavy branch, or runs loops in a loop that has ended for some."""
    branches = sum(map(_is_heavy_branch, _equations(closed)))
    if not branches and not any(map(_is_nested, _equations(closed))):
        return False
    pair = jax.ShapeDtypeStruct((2, *coords.shape), coords.dtype)
    together = list(_equations(jax.make_jaxpr(jax.vmap(fn))(pair)))
    return sum(map(_is_heavy_branch, together)) < branches or any(_is_nested(e) and _asks_any(e) for e in together)


def _is_heavy_branch(eqn: Equation) -> bool:
    if eqn.primitive.name != "cond" or any(jnp.issubdtype(v.aval.dtype, jax.dtypes.extended) for v in eqn.outvars):
        return False
    return any(inner.primitive.name in _HEAVY for body in _bodies(eqn) for inner in _equations(body))


def _is_nested(eqn: Equation) -> bool:
    """Whether this is a loop that ends by a condition and has another such one in it."""
    return eqn.primitive.name == "while" and _branches(eqn.params["body_jaxpr"])


def _asks_any(eqn: Equation) -> bool:
    """Whether a vmapped loop goes on until the last point has ended: its condition is then one of each point."""
    return _open(eqn.params["cond_jaxpr"])[0].outvars[0].aval.ndim > 0


def _branches(body: Program) -> bool:
    """Whether there is anything whose run a point decides."""
    return any(eqn.primitive.name == "while" or _is_heavy_branch(eqn) for eqn in _equations(body))


def _equations(body: Program) -> Iterator[Equation]:
    """All equations, also the inner ones."""
    for eqn in _open(body)[0].eqns:
        yield eqn
        for inner in _bodies(eqn):
            yield from _equations(inner)


def _bodies(eqn: Equation) -> list[Program]:
    leaves = jax.tree.leaves(list(eqn.params.values()), is_leaf=is_program)
    return [value for value in leaves if is_program(value)]


def _open(body: Program) -> tuple[Any, Sequence[Any]]:
    """The jaxpr and the values of its constants; versions of JAX differ in whether the two are kept together."""
    return getattr(body, "jaxpr", body), getattr(body, "consts", ())


# ------------------------------------------------------------------------------------------------------ the rewriting


def _run(body: Program, inputs: Sequence[Any], active: Any) -> list[Any]:
    """The outputs of a jaxpr. `active` is whether the point runs it at all, `None` where it surely does."""
    jaxpr, consts = _open(body)
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *inputs]))

    def read(atom: Any) -> Any:
        return np.asarray(atom.val, atom.aval.dtype) if isinstance(atom, jex.Literal) else env[atom]

    for eqn in jaxpr.eqns:
        env.update(zip(eqn.outvars, _equation(eqn, [read(atom) for atom in eqn.invars], active)))
    return [read(atom) for atom in jaxpr.outvars]


def _equation(eqn: Equation, inputs: list[Any], active: Any) -> Sequence[Any]:
    if eqn.primitive.name == "while":
        return _while(eqn, inputs, active)
    if _is_heavy_branch(eqn):
        return _cond(eqn, inputs, active)
    if eqn.primitive.name in _CALLS and any(map(_branches, _bodies(eqn))):
        return _run(_bodies(eqn)[0], inputs, active)
    if eqn.primitive.name == "scan" and _branches(eqn.params["jaxpr"]):
        return _scan(eqn, inputs, active)
    invars, outvars = ([jex.Var(atom.aval) for atom in atoms] for atoms in (eqn.invars, eqn.outvars))
    eqn = eqn.replace(invars=invars, outvars=outvars)
    return jax.core.eval_jaxpr(jex.Jaxpr((), invars, outvars, [eqn], eqn.effects, _ONE_EQUATION), (), *inputs)


def _and(active: Any, condition: Any) -> Any:
    return condition if active is None else active & condition


def _while(eqn: Equation, inputs: list[Any], active: Any) -> Sequence[Any]:
    """A loop that does not begin where the point does not run it; what is in it learns who still runs."""
    condition, body = eqn.params["cond_jaxpr"], eqn.params["body_jaxpr"]
    first = eqn.params["cond_nconsts"]
    second = first + eqn.params["body_nconsts"]
    asking, using, start = inputs[:first], inputs[first:second], inputs[second:]

    def goes_on(carry: Sequence[Any]) -> Any:
        return _and(active, _run(condition, [*asking, *carry], active)[0])

    def advance(state: tuple[Any, Sequence[Any]]) -> tuple[Any, Sequence[Any]]:
        carry = _run(body, [*using, *state[1]], state[0])
        return goes_on(carry), carry

    return jax.lax.while_loop(lambda state: state[0], advance, (goes_on(start), start))[1]


def _cond(eqn: Equation, inputs: list[Any], active: Any) -> Sequence[Any]:
    """Each branch where some point takes it, then the selection."""
    index, *operands = inputs
    cases = []
    for number, branch in enumerate(eqn.params["branches"]):
        taken = _and(active, index == number)

        def run(branch: Program = branch, taken: Any = taken) -> list[Any]:
            return [jnp.asarray(x, v.aval.dtype) for x, v in zip(_run(branch, operands, taken), eqn.outvars)]

        def skip() -> list[Any]:
            return [jnp.zeros(v.aval.shape, v.aval.dtype) for v in eqn.outvars]

        cases.append(jax.lax.cond(anyone(taken), run, skip))
    return [jax.lax.select_n(index, *values) for values in zip(*cases)]


def _scan(eqn: Equation, inputs: list[Any], active: Any) -> Sequence[Any]:
    """A loop of fixed length, over a body that knows who runs it."""
    body = eqn.params["jaxpr"]
    num_consts, num_carry = num_consts_and_carry(eqn)
    consts, values = inputs[:num_consts], inputs[num_consts:]
    carry, xs = values[:num_carry], values[num_carry:]

    def step(carry: Sequence[Any], xs: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
        outs = _run(body, [*consts, *carry, *xs], active)
        return outs[:num_carry], outs[num_carry:]

    options = {name: eqn.params[name] for name in ("length", "reverse", "unroll")}
    carry, ys = jax.lax.scan(step, carry, xs, **options)
    return [*carry, *ys]
