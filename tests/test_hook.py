import jax, jax.numpy as jnp, numpy as np, optax
import landscape as ls
from landscape import subspace


def test_all(x64):
    p = ls.problems.digits_mlp((7,))
    params = p.init(jax.random.key(0))
    d = subspace.filter_normalize(subspace.random_directions(jax.random.key(1), params), params)
    at = ls.Subspace(params, d)
    m = ls.LossSurface(at, p.objectives, outputs=("sem", "gradient", "gradient_norm", "off_plane"))
    ls.sweep(m, ls.Grid.square(1.0, 3), progress=False)
    out = jax.jit(jax.vmap(m))(jnp.ones((3, 2)))
    run = ls.train(p.objectives["train"], optax.adam(0.1), params, num_steps=3, snapshots=True)
    subspace.pca_directions(run.snapshots, 2)
    jax.vmap(lambda q: ls.train(p.objectives["train"], optax.adam(0.1), q, num_steps=3, snapshots=True))(
        jax.tree.map(lambda x: jnp.stack([x, x]), params)
    )
    at(np.zeros(2))
