r"""A `vmap` that shares between points whatever is linear in the parameters: `affine_vmap`.

On a subspace every weight is $W(c) = W_0 + \sum_i c_i W_i$, and a layer whose input $x$ is the same at all points
needs only $k + 1$ products for all of them together, instead of one for each:

$$x\,W(c) = x W_0 + \sum_i c_i \, (x W_i).$$

`distribute` rewrites a function of the coordinates into one that computes in this order. It reads the function's
jaxpr and carries values that are affine in the coordinates as their *terms* through linear primitives; a non-linear
or unknown one gets the sum, and is bound as it was, with whatever derivatives were defined for it. Terms do not
depend on the coordinates, so a plain `jax.vmap` leaves them un-batched. Degree one only: a product of two affine
values is formed from their sums, since a loss expanded into powers of the coordinates cancels near its minimum.

What may stand in front of a term is any small value that depends on nothing but the coordinates: `c[0]`, but also
`(1 - t) ** 2`, so the weights along a Bezier curve are shared as well.

Equal to `vmap` to rounding. Only where something overflows can an infinity become NaN, or NaN an infinity.

>>> import jax, jax.numpy as jnp
>>> from landscape.affine import affine_vmap, num_hoisted
>>> x, w0, w1 = jnp.ones((50, 20)), jnp.ones((20, 8)), jnp.full((20, 8), 0.5)
>>> def mean_activation(c):
...     return jnp.mean(jnp.tanh(x @ (w0 + c[0] * w1) / 20))
>>> coords = jnp.array([[-2.0], [0.5], [3.0]])
>>> bool(jnp.allclose(affine_vmap(mean_activation)(coords), jax.vmap(mean_activation)(coords)))
True
>>> num_hoisted(mean_activation, coords[0])
1
"""

from landscape.affine._rewrite import affine_vmap, distribute, num_hoisted

__all__ = ["affine_vmap", "distribute", "num_hoisted"]
