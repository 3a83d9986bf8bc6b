r"""Training as a pure function: one run of an optax optimizer, recorded as it goes, or thousands of them side by side.

$\theta_{t+1} = \theta_t + u(\nabla L(\theta_t))$ for an optimizer's update $u$. Numerics never raise: a run says by
its `Outcome` how it ended, and a diverged run is frozen where it was last finite. A run that has ended costs nothing
more; a batch of runs ends with its last one.

>>> import jax, jax.numpy as jnp, optax
>>> from landscape import Objective, train, train_many
>>> bowl = Objective(lambda p, _: jnp.sum((p - 3.0) ** 2))
>>> run = train(bowl, optax.sgd(0.25), jnp.zeros(2), num_steps=60, record_every=20, tol=1e-4)
>>> run.outcome.name, [round(float(p), 3) for p in run.params]
('CONVERGED', [3.0, 3.0])
>>> rates = jnp.array([0.25, 0.9, 1.1])                          # beyond 1 the iteration grows
>>> runs = train_many(bowl, optax.sgd, jnp.zeros((3, 2)), num_steps=200, hyper=rates, tol=1e-4, max_loss=1e6)
>>> {outcome.name: count for outcome, count in runs.counts.items()}
{'CONVERGED': 2, 'MAX_STEPS': 0, 'DIVERGED': 1}
"""

from landscape.training._descent import Outcome
from landscape.training._many import Runs, train_many
from landscape.training._one import CHECK_EVERY as CHECK_EVERY
from landscape.training._one import Run, train
from landscape.training._one import check_all_means as check_all_means
from landscape.training._one import check_optimizer as check_optimizer
from landscape.training._one import check_run as check_run
from landscape.training._one import run as run
from landscape.training._one import the_ends as the_ends
from landscape.training._one import tracked as tracked

__all__ = ["Outcome", "Run", "Runs", "train", "train_many"]
