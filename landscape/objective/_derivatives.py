"""Derivatives that JAX does not have, refused by what needs them, with what helps."""

from collections.abc import Callable
from typing import Any

import jax

BACKWARDS = (
    "give loops a length that is known beforehand (jax.lax.scan or fori_loop in place of while_loop), and functions "
    "that JAX cannot see into a jax.custom_vjp"
)


class NoDerivative(ValueError):
    """JAX can evaluate a function, and not differentiate it."""


def differentiated(take: Callable[[], Any], plain: Callable[[], Any], need: str, remedy: str = BACKWARDS) -> Any:
    """What `take()` gives, by differentiating what `plain()` evaluates.

    Raises:
        NoDerivative: JAX has no such derivative; the message begins with the `need` and ends with the `remedy`. What
            `plain()` itself raises comes through as it is.
    """
    try:
        return take()
    except (TypeError, ValueError, NotImplementedError) as error:
        if not (isinstance(error, NoDerivative) or _can(plain)):
            raise
        cause = error.__cause__ if isinstance(error, NoDerivative) else error
        said = str(cause).strip().splitlines()[0]
        raise NoDerivative(f"{need}, and JAX has none: {said} What helps: {remedy}") from cause


def _can(plain: Callable[[], Any]) -> bool:
    try:
        jax.eval_shape(plain)
    except Exception:
        return False
    return True
