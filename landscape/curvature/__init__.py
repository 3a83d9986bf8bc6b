r"""Curvature of a loss without its matrix: products, extreme eigenvalues, spectrum, trace, sharpness.

The Hessian of a mean is the mean of the Hessians, $H = \frac1n \sum_i \nabla^2 \ell(\theta; z_i)$, so a product
$Hv = \frac{d}{d\epsilon} \nabla L(\theta + \epsilon v)|_0$ is a forward derivative of the gradient, batch by batch
(Pearlmutter 1994). Everything else here is made of products, so it is there for the `GaussNewton` matrix, the `Fisher`
information and the `EmpiricalFisher` too: pass one in place of the objective. The spectral density and the trace rest
on matfree. A number is worth what its error says: a trace and a density carry standard errors, an eigenpair its
residual, for with a symmetric $H$ and $|v| = 1$ some eigenvalue lies within $|Hv - \lambda v|$ of $\lambda$ (Parlett
1998, theorem 4.5.1).

>>> import jax, jax.numpy as jnp
>>> from landscape import Objective, curvature
>>> bowl = Objective(lambda p, _: 0.5 * jnp.sum(jnp.array([2.0, 3.0, 7.0]) * p**2))
>>> curvature.hvp(bowl, jnp.ones(3), jnp.array([0.0, 2.0, 0.0]))
Array([0., 6., 0.], dtype=float32)
>>> pairs = curvature.eigenpairs(jax.random.key(1), bowl, jnp.ones(3), k=2)
>>> [round(float(x), 4) for x in pairs.values]
[7.0, 3.0]
>>> float(curvature.trace(jax.random.key(2), bowl, jnp.ones(3)).mean)
12.0
"""

from landscape.curvature._eigenpairs import Eigenpairs, Which, eigenpairs
from landscape.curvature._learning import LearningCoefficient, local_learning_coefficient
from landscape.curvature._noise import EigenspaceShare, GradientNoise, eigenspace_share, gradient_noise
from landscape.curvature._products import (
    MAX_DENSE,
    EmpiricalFisher,
    Fisher,
    Flat,
    GaussNewton,
    Operator,
    hessian,
    hvp,
    product,
)
from landscape.curvature._sharpness import Sharpness, ascent_sharpness, sharpness
from landscape.curvature._spectrum import SpectralDensity, spectral_density
from landscape.curvature._trace import Estimate, layer_traces, trace

__all__ = [
    "MAX_DENSE", "EigenspaceShare", "Eigenpairs", "EmpiricalFisher", "Estimate", "Fisher", "Flat", "GaussNewton",
    "GradientNoise", "LearningCoefficient", "Operator", "Sharpness", "SpectralDensity", "Which", "ascent_sharpness",
    "eigenpairs", "eigenspace_share", "gradient_noise", "hessian", "hvp", "layer_traces", "local_learning_coefficient",
    "product", "sharpness", "spectral_density", "trace",
]  # fmt: skip
