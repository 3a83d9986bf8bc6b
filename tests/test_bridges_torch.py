"""PyTorch modules through the bridge: outputs, losses and gradients beside PyTorch's own, which is the oracle."""

import dataclasses
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import landscape as ls

torch = pytest.importorskip("torch", reason="needs the extra [torch]")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

bridge = ls.bridges.torch
ROOT = Path(__file__).parents[1]
CLOSE = 1e-5  # single precision: sums of some hundred terms in another order


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(7)
    yield
    torch.manual_seed(0)


def noise(*shape):
    return torch.randn(*shape)


def to_first(outputs, targets):
    """The mean squared distance of the first output from targets that are broadcast; one number for each example."""
    first = outputs[0] if isinstance(outputs, tuple) else outputs
    squared = (first - targets.reshape(-1, *[1] * (first.ndim - 1))) ** 2
    return squared.reshape(len(squared), -1).mean(1)


def grads_of(module, loss, *batch):
    """PyTorch's own loss and gradients, in evaluation mode."""
    training = module.training
    module.eval().zero_grad()
    value = loss(module(*batch[:-1]), batch[-1]).mean()
    value.backward()
    module.train(training)
    return value.item(), {name: p.grad.numpy() for name, p in module.named_parameters() if p.grad is not None}


def assert_close(ours, theirs, tolerance=CLOSE):
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    assert np.max(np.abs(ours - theirs), initial=0.0) <= tolerance * max(1.0, np.max(np.abs(theirs), initial=0.0))


def check(module, x, loss=to_first, targets=None, **options):
    """A problem whose outputs, loss and gradients are those of PyTorch."""
    targets = torch.linspace(-0.7, 0.4, len(x)) if targets is None else targets
    problem = bridge.problem(module, loss, (x, targets), **options)
    assert problem.difference <= CLOSE
    value, grads = grads_of(module, loss, x, targets)
    with jax.default_matmul_precision("highest"):
        ours, slopes = jax.jit(lambda o, p: o.value_and_grad(p))(problem.objectives["train"], problem.params)
    assert_close(ours, value)
    for name, slope in slopes.items():
        assert_close(slope, grads.get(name, np.zeros(slope.shape)), 3e-5)
    return problem


# ------------------------------------------------------------------------------------------------------------- layers

IMAGES, LINES, BLOCKS, ROWS, WORDS = (3, 4, 7, 8), (3, 4, 11), (3, 4, 4, 5, 6), (3, 8), (3, 5, 8)


def after(layer, like=nn.Conv2d, channels=4):
    """A layer without parameters of its own behind one that has some."""
    return nn.Sequential(like(channels, channels, 1), layer)


LAYERS = {
    "linear": (lambda: nn.Linear(8, 3), ROWS),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1), LINES),
    "conv2d dilated, grouped": (lambda: nn.Conv2d(4, 6, 3, padding=2, dilation=2, groups=2), IMAGES),
    "conv2d depthwise, same": (lambda: nn.Conv2d(4, 8, (3, 5), padding="same", groups=4), IMAGES),
    "conv2d circular": (lambda: nn.Conv2d(4, 3, 3, padding=1, padding_mode="circular"), IMAGES),
    "conv2d reflecting": (lambda: nn.Conv2d(4, 3, 3, padding=1, padding_mode="reflect"), IMAGES),
    "conv3d": (lambda: nn.Conv3d(4, 2, 2, stride=(1, 2, 1)), BLOCKS),
    "transposed 1d": (lambda: nn.ConvTranspose1d(4, 6, 3, 2, 1, 1, groups=2, dilation=2), LINES),
    "transposed 2d": (lambda: nn.ConvTranspose2d(4, 6, (3, 2), (2, 3), (1, 0), (1, 2), groups=2), IMAGES),
    "transposed 3d": (lambda: nn.ConvTranspose3d(4, 2, 2, 2), BLOCKS),
    "max pool": (lambda: after(nn.MaxPool2d(3, 2, 1, ceil_mode=True)), IMAGES),
    "max pool dilated": (lambda: after(nn.MaxPool2d(2, 3, dilation=2)), IMAGES),
    "max pool 1d": (lambda: after(nn.MaxPool1d(3, 2, 1), nn.Conv1d), LINES),
    "max pool 3d": (lambda: after(nn.MaxPool3d(2), nn.Conv3d), BLOCKS),
    "average pool": (lambda: after(nn.AvgPool2d(3, 2, 1, ceil_mode=True)), IMAGES),
    "average pool, padding not counted": (lambda: after(nn.AvgPool2d(3, 2, 1, count_include_pad=False)), IMAGES),
    "average pool 1d": (lambda: after(nn.AvgPool1d(3, 2, 1), nn.Conv1d), LINES),
    "average pool 3d": (lambda: after(nn.AvgPool3d(2), nn.Conv3d), BLOCKS),
    "adaptive average": (lambda: after(nn.AdaptiveAvgPool2d((4, 3))), IMAGES),
    "adaptive average 1d": (lambda: after(nn.AdaptiveAvgPool1d(3), nn.Conv1d), LINES),
    "adaptive maximum": (lambda: after(nn.AdaptiveMaxPool2d((3, 4))), IMAGES),
    "power-average pool": (lambda: after(nn.LPPool2d(2, 2)), IMAGES),
    "batch norm": (lambda: nn.Sequential(nn.Conv2d(4, 3, 1), nn.BatchNorm2d(3)), IMAGES),
    "layer norm": (lambda: nn.LayerNorm((7, 8)), IMAGES),
    "group norm": (lambda: nn.GroupNorm(2, 4), IMAGES),
    "instance norm": (lambda: nn.InstanceNorm2d(4, affine=True), IMAGES),
    "instance norm with statistics": (lambda: nn.InstanceNorm1d(4, affine=True, track_running_stats=True), LINES),
    "RMS norm": (lambda: nn.RMSNorm(8), WORDS),
    "local response norm": (lambda: after(nn.LocalResponseNorm(3)), IMAGES),
    "LSTM": (lambda: nn.LSTM(8, 5, 2, batch_first=True, bidirectional=True, dropout=0.3), WORDS),
    "GRU": (lambda: nn.GRU(8, 5, 2, batch_first=True, bidirectional=True), WORDS),
    "RNN": (lambda: nn.RNN(8, 5, batch_first=True, nonlinearity="relu", bias=False), WORDS),
    "attention": (lambda: nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, activation="gelu"), WORDS),
    "PReLU": (lambda: nn.Sequential(nn.Linear(8, 8), nn.PReLU(8)), ROWS),
    "weight norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(8, 3)), ROWS),
}


QUICK = {
    "conv2d dilated, grouped", "transposed 2d", "max pool", "batch norm", "group norm", "GRU", "attention",
    "arithmetic", "reductions", "indexed", "set in place", "bilinear", "grouped attention, some rows masked",
}  # fmt: skip


def some_slow(names):
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", some_slow(LAYERS))
def test_layers_and_their_gradients_are_those_of_pytorch(name):
    make, shape = LAYERS[name]
    check(make(), noise(*shape))


class Applied(nn.Module):
    """A function of scaled inputs."""

    def __init__(self, fn):
        super().__init__()
        self.fn, self.scale = fn, nn.Parameter(torch.tensor(1.3))

    def forward(self, x):
        return self.fn(self.scale * x)


ACTIVATIONS = (
    F.gelu, F.silu, F.mish, F.elu, F.selu, F.celu, F.softplus, F.hardswish, F.hardsigmoid, F.hardtanh, F.leaky_relu,
    F.relu6, F.logsigmoid, F.softsign, F.tanhshrink, F.softshrink, F.hardshrink, torch.tanh, torch.sigmoid, torch.erf,
    torch.exp, torch.sin, torch.atan, torch.expm1, torch.sinh,
)  # fmt: skip
PLACES = torch.tensor([5, 0, 2, 5])


def set_item(x):
    x = x.clone()
    x[:, 1] = 3.0
    x[:, 2:4] += 1.5
    return x.add_(0.25)


FUNCTIONS = {
    "activations": (lambda x: torch.stack([fn(x) for fn in ACTIVATIONS], 1), ROWS),
    "tanh-gelu, glu, threshold": (lambda x: F.glu(F.gelu(x, approximate="tanh") + F.threshold(x, 0.1, 0.3)), ROWS),
    "softmax": (lambda x: F.softmax(x, -1) + F.log_softmax(x, 1) + F.normalize(x, dim=-1), ROWS),
    "arithmetic": (
        lambda x: (x // 2 + x % 0.7 + torch.fmod(x, 0.3) + x**3 + x.abs() ** 0.5 + 2**x + torch.lerp(x, x * 2, 0.3))
        / (3 + x.atan2(x + 3)) + torch.addcmul(x, x, x, value=2) - x.clamp(-0.5) + x.exp2() + (x > 0) * x,
        ROWS,
    ),
    "reductions": (
        lambda x: torch.stack([
            x.mean(1), x.std(1), x.var(1, unbiased=False), x.amax(1), x.min(1)[0], x.prod(1), x.logsumexp(1),
            x.norm(dim=1), x.norm(1, dim=1), x.sum(1), x.argmax(1).float(), (x > 0).any(1).float(), x.max(1)[0],
        ], 1),
        ROWS,
    ),
    "sorted": (
        lambda x: x.topk(3, 1)[0] + x.cumsum(1)[:, :3] + x.sort(1, descending=True)[0][:, 2:5] + x.flip(1)[:, :3]
        + x.gather(1, x.argsort(1)[:, :3]),
        ROWS,
    ),
    "cut and joined": (
        lambda x: torch.cat([x[:, 1:3], x[:, [0, 2]], x[..., ::2].repeat(1, 2)], 1)
        * torch.stack(x.split(2, 1)).sum((0, 2))[:, None]
        + x.unfold(1, 4, 4).flatten(1).repeat(1, 2)[:, :12].roll(3, 1),
        ROWS,
    ),
    "indexed": (
        lambda x: x.gather(1, PLACES.expand(len(x), 4)) + x[:, PLACES] + x.index_select(1, PLACES + 1)
        + torch.zeros_like(x).scatter_add(1, PLACES.expand(len(x), 4), x)[:, 2:6] + x.masked_fill(x > 0, 0.5)[:, :4],
        ROWS,
    ),
    "set in place": (set_item, ROWS),
    "padded": (
        lambda x: F.pad(x, (1, -1, 2, -2)) + F.pad(x, (1, 1, 1, 1), mode="replicate")[:, :, 1:-1, 1:-1]
        + x.triu().tril(1) + x.flip(2),
        IMAGES,
    ),
    "pixels": (lambda x: F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2) * F.unfold(x, 3)[:, :1, :1, None], IMAGES),
    "products": (lambda x: torch.einsum("bchw,bdhw->bcd", x, x) + x.flatten(2) @ x.mT.flatten(2).mT, IMAGES),
    "distances": (lambda x: F.cosine_similarity(x[:, :4], x[:, 4:]) + F.pairwise_distance(x, 1.5 * x + 2), ROWS),
    "nearest": (lambda x: F.interpolate(x, scale_factor=2)[..., :7, :8] + F.interpolate(x, size=(7, 8)), IMAGES),
    "nearest exact": (lambda x: F.interpolate(x, size=(5, 11), mode="nearest-exact"), IMAGES),
    "bilinear": (
        lambda x: F.interpolate(x, size=(11, 5), mode="bilinear")
        + F.interpolate(x, size=(11, 5), mode="bilinear", align_corners=True)
        + F.interpolate(x, size=(11, 5), mode="bilinear", antialias=True),
        IMAGES,
    ),
    "bilinear by a factor": (lambda x: F.interpolate(x, scale_factor=1.7, mode="bilinear"), IMAGES),
    "bicubic": (lambda x: F.interpolate(x, size=(11, 5), mode="bicubic"), IMAGES),
    "linear": (lambda x: F.interpolate(x, size=17, mode="linear"), LINES),
    "trilinear": (lambda x: F.interpolate(x, scale_factor=2, mode="trilinear"), BLOCKS),
    "causal attention": (lambda x: F.scaled_dot_product_attention(x, x.flip(1), x, is_causal=True, scale=0.4), IMAGES),
    "grouped attention, some rows masked": (
        lambda x: F.scaled_dot_product_attention(
            x.repeat(1, 2, 1, 1), x, x, attn_mask=torch.ones(7, 7, dtype=torch.bool).tril(-1), enable_gqa=True
        ),
        IMAGES,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", some_slow(FUNCTIONS))
def test_functions_are_those_of_pytorch(name):
    fn, shape = FUNCTIONS[name]
    module, x = Applied(fn), noise(*shape)
    problem = bridge.problem(module, to_first, (x, torch.linspace(-0.7, 0.4, len(x))))
    assert problem.difference <= CLOSE
    with torch.no_grad():
        expected = to_first(module(x), torch.linspace(-0.7, 0.4, len(x))).numpy()
    assert_close(problem.objectives["train"].per_example(problem.params), expected)


def test_the_table_tells_an_operator_that_is_computed_otherwise(monkeypatch):
    from landscape.bridges._aten import OPERATORS

    monkeypatch.setitem(OPERATORS, "relu", lambda x: jnp.maximum(x, 0.01))
    module, x = nn.Sequential(nn.Linear(8, 3), nn.ReLU()), noise(*ROWS)
    with pytest.raises(ValueError, match=r"differ from PyTorch's by .* more than tolerance=0.0001"):
        bridge.problem(module, to_first, (x, x[:, 0]))
    assert bridge.problem(module, to_first, (x, x[:, 0]), tolerance=0.5).difference > 1e-3


# ---------------------------------------------------------------------------------------------------------- a problem


def small_cnn():
    return nn.Sequential(
        nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.5), nn.Flatten(),
        nn.Linear(36, 3),
    )  # fmt: skip


def labelled(count=9):
    return noise(count, 4, 7, 8), torch.randint(0, 3, (count,))


@pytest.fixture(scope="module")
def cnn():
    """A network with batch norm whose statistics are not those of any batch, its data and its problem."""
    torch.manual_seed(3)
    module = small_cnn()
    module(noise(40, 4, 7, 8) * 1.7 + 0.4)  # in training mode, which leaves a running average
    x, y = labelled()
    return module, (x, y), bridge.problem(module, F.cross_entropy, (x, y), (x[:4], y[:4]), batch_size=4)


def as_torch(params):
    return {name: torch.tensor(np.asarray(value)) for name, value in params.items()}


def test_a_problem_has_pytorchs_names_and_values(cnn):
    module, (x, y), problem = cnn
    assert list(problem.params) == [name for name, _ in module.named_parameters()]
    assert set(problem.objectives["train"].state) == {"1.running_mean", "1.running_var"}
    assert problem.name == "Sequential"
    assert 0 < problem.difference <= CLOSE
    assert problem.frozen == ()
    problem.check()
    with torch.no_grad():
        module.eval()
        expected, part = F.cross_entropy(module(x), y), F.cross_entropy(module(x[:4]), y[:4])
        assert_close(problem.predict(problem.params, x.numpy()), module(x))
        module.train()
    assert_close(problem.objectives["train"](problem.params), expected)  # batches of 4, 4 and 1
    assert_close(problem.objectives["test"](problem.params), part)


def test_the_module_is_left_as_it_was(cnn):
    module, _, _ = cnn
    assert all(one.training for one in module.modules())
    assert module[1].momentum == 0.1


def test_what_pytorch_does_later_does_not_reach_the_problem():
    module, (x, y) = small_cnn(), labelled()
    problem = bridge.problem(module, F.cross_entropy, (x, y))
    before = jax.tree.map(np.array, (problem.params, problem.objectives["train"].data))
    with torch.no_grad():
        module[0].weight.add_(1.0)
        x.zero_()
    jax.tree.map(np.testing.assert_array_equal, before, (problem.params, problem.objectives["train"].data))


def test_a_surface_is_the_one_that_pytorch_computes(cnn):
    module, (x, y), problem = cnn
    directions = ls.subspace.random_directions(jax.random.key(5), problem.params)
    directions = ls.subspace.filter_normalize(directions, problem.params)
    plane, grid = ls.Subspace(problem.params, directions), ls.Grid.square(0.4, 3)
    found = ls.sweep(ls.LossSurface(plane, problem.objectives), grid, progress=False)
    for coords, loss in zip(grid.points(), found["train_loss"].ravel()):
        moved = as_torch(plane(jnp.asarray(coords, jnp.float32)))
        module.eval()
        with torch.no_grad():
            expected = F.cross_entropy(torch.func.functional_call(module, moved, (x,)), y)
        module.train()
        assert_close(loss, expected)


def test_filters_are_known_without_being_told():
    module = nn.Sequential(nn.Conv2d(3, 5, 2), nn.ConvTranspose2d(5, 5, 2), nn.Flatten(), nn.Linear(5 * 16, 7))
    problem = bridge.problem(module, F.cross_entropy, (noise(3, 3, 4, 4), torch.tensor([1, 0, 6])))
    dirs = ls.subspace.random_directions(jax.random.key(0), problem.params)
    scaled = ls.subspace.filter_normalize(dirs, problem.params)  # a layout that was not known would warn
    for name, others in (("0.weight", (1, 2, 3)), ("1.weight", (0, 2, 3)), ("3.weight", (1,))):
        ours, theirs = (np.asarray(x, np.float64) for x in (scaled[name][0], problem.params[name]))
        np.testing.assert_allclose(np.sum(ours**2, axis=others), np.sum(theirs**2, axis=others), rtol=1e-5)
    assert not any(np.any(scaled[name]) for name in ("0.bias", "1.bias", "3.bias"))


def test_tied_weights_are_one_leaf():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.head = nn.Embedding(11, 6), nn.Linear(6, 11, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, x):
            return self.head(self.embedding(x)).mean(1)

    problem = check(Tied(), torch.randint(0, 11, (4, 5)), F.cross_entropy, torch.tensor([3, 0, 10, 7]))
    assert list(problem.params) == ["embedding.weight"]


def test_weights_go_back(cnn):
    _, (x, y), problem = cnn
    moved = jax.tree.map(lambda w: 0.9 * w + 0.05, problem.params)
    copy = small_cnn()
    assert bridge.to_module({**moved, **problem.objectives["train"].state}, copy) is copy
    copy.eval()
    with torch.no_grad():
        assert_close(problem.objectives["train"](moved), F.cross_entropy(copy(x), y))


def test_curvature_through_convolutions_and_pools(cnn):
    module, (x, y), problem = cnn
    direction = jax.tree.map(lambda w: jnp.full_like(w, 0.3), problem.params)
    ours = ls.curvature.hvp(problem.objectives["train"], problem.params, direction)
    module.eval()
    weights = dict(module.named_parameters())
    slopes = torch.autograd.grad(F.cross_entropy(module(x), y), list(weights.values()), create_graph=True)
    along = sum((slope * vector).sum() for slope, vector in zip(slopes, as_torch(direction).values()))
    theirs = torch.autograd.grad(along, list(weights.values()))
    module.train()
    for name, expected in zip(weights, theirs):
        assert_close(ours[name], expected, 1e-4)


# ---------------------------------------------------------------------------------------------------------- batch norm


def test_recalibrated_statistics_are_those_of_the_data(cnn):
    _, (x, _), problem = cnn
    moved = jax.tree.map(lambda w: 1.2 * w - 0.03, problem.params)
    state = dataclasses.replace(problem.objectives["train"], batch_size=None).recalibrated(moved).state
    with torch.no_grad():
        before = F.conv2d(x, *map(torch.tensor, map(np.asarray, (moved["0.weight"], moved["0.bias"]))))
    assert_close(state["1.running_mean"], before.mean((0, 2, 3)))
    assert_close(state["1.running_var"], before.var((0, 2, 3), unbiased=True))
    surface = ls.LossSurface(ls.subspace.line(problem.params, moved), problem.objectives, recalibrate=True)
    assert np.all(np.isfinite(ls.sweep(surface, ls.Grid.line((0, 1), 2), progress=False)["train_loss"]))


def test_batch_statistics_make_batches_the_examples():
    module, (x, y) = small_cnn(), labelled(12)
    problem = bridge.problem(module, F.cross_entropy, (x, y), batch_statistics=4)
    objective = problem.objectives["train"]
    module[1].train()
    module[4].eval()
    with torch.no_grad():
        expected = [F.cross_entropy(module(x[i : i + 4]), y[i : i + 4]).item() for i in (0, 4, 8)]
    assert_close(objective.per_example(problem.params), expected)
    assert_close(dataclasses.replace(objective, batch_size=2)(problem.params), np.mean(expected))


# ------------------------------------------------------------------------------------------------------------- frozen


def test_only_what_is_trainable_moves_and_the_rest_is_no_constant(cnn):
    module, (x, y), whole = cnn
    problem = bridge.problem(module, F.cross_entropy, (x, y), trainable="6.*")
    assert list(problem.params) == ["6.weight", "6.bias"]
    assert problem.frozen == ("0.weight", "0.bias", "1.weight", "1.bias")
    objective = problem.objectives["train"]
    assert_close(objective(problem.params), whole.objectives["train"](whole.params))
    program = jax.make_jaxpr(lambda o, p: o(p))(objective, problem.params)
    assert all(np.size(constant) < 36 for constant in program.consts)


@pytest.mark.parametrize(
    ("trainable", "names"),
    [
        (re.compile(r"^[01]\."), ["0.weight", "0.bias", "1.weight", "1.bias"]),
        (["0.bias", "6.*"], ["0.bias", "6.weight", "6.bias"]),
        ({"0.weight": True, "6.bias": False}, ["0.weight"]),
        (lambda name, parameter: parameter.ndim > 1, ["0.weight", "6.weight"]),
    ],
    ids=["regex", "list", "mask", "function"],
)
def test_ways_to_say_what_moves(trainable, names):
    from landscape.moving import chosen

    parameters = dict(small_cnn().named_parameters())
    assert chosen(list(parameters), trainable, parameters.get) == names


# ---------------------------------------------------------------------------------------------------------------- data


def as_loader(x, y):
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=4)


@pytest.mark.parametrize(
    "form",
    [
        lambda x, y: (x.numpy().astype(np.float64), y.numpy().astype(np.int32)),
        lambda x, y: [jnp.asarray(x.numpy()), jnp.asarray(y.numpy())],
        as_loader,
        lambda x, y: ((a, b) for a, b in zip(x.split(4), y.split(4))),
        lambda x, y: ((x,), y),
        lambda x, y: ({"input": x}, y),
    ],
    ids=["numpy", "jax", "DataLoader", "generator", "tuple of inputs", "inputs by name"],
)
def test_forms_of_data(cnn, form):
    module, (x, y), problem = cnn
    found = bridge.problem(module, F.cross_entropy, form(x, y))
    assert_close(found.objectives["train"](problem.params), problem.objectives["train"](problem.params), 1e-6)


def test_a_dict_is_the_arguments_of_the_module_and_the_loss_sees_it_whole():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(3, 2), nn.Linear(4, 2)

        def forward(self, a, b):
            return {"logits": self.left(a) + self.right(b)}

    module, batch = Two(), {"a": noise(5, 3), "b": noise(5, 4), "y": torch.tensor([0, 1, 1, 0, 1])}
    problem = bridge.problem(module, lambda out, batch: F.cross_entropy(out["logits"], batch["y"]), batch)
    with torch.no_grad():
        expected = F.cross_entropy(module(batch["a"], batch["b"])["logits"], batch["y"])
    assert_close(problem.objectives["train"](problem.params), expected)


def test_new_weights_from_a_key():
    module = nn.Sequential(nn.Linear(8, 3), nn.BatchNorm1d(3))
    problem = bridge.problem(module, to_first, (noise(*ROWS), torch.zeros(3)))
    one, same, other = (problem.init(jax.random.key(i)) for i in (4, 4, 5))
    assert jax.tree.structure(one) == jax.tree.structure(problem.params)
    jax.tree.map(np.testing.assert_array_equal, one, same)
    assert not np.allclose(one["0.weight"], other["0.weight"])
    assert np.max(np.abs(one["0.weight"])) <= 8**-0.5  # as nn.Linear draws them


# ----------------------------------------------------------------------------------------------------- means, weights


def token_loss(outputs, targets):
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())


def padded_tokens():
    targets = torch.tensor([[1, 4, -100, -100], [2, 0, 3, 1], [4, 4, 2, -100], [0, 1, 1, 3], [3, -100, -100, -100]])
    return nn.Sequential(nn.Embedding(5, 6), nn.Tanh(), nn.Linear(6, 5)), torch.randint(0, 5, (5, 4)), targets


@pytest.mark.parametrize("batch_size", [1, 2, None])
def test_a_mean_over_tokens_is_exact_for_any_batch_size(batch_size):
    module, x, y = padded_tokens()
    problem = bridge.problem(module, token_loss, (x, y), batch_size=batch_size)
    with torch.no_grad():
        expected = token_loss(module(x), y)
    assert_close(problem.objectives["train"](problem.params), expected)


def test_class_weights_are_given_as_weights_of_examples():
    weight, (x, y), module = torch.tensor([0.3, 2.0, 0.7]), labelled(), small_cnn()
    loss = nn.CrossEntropyLoss(weight=weight)
    with pytest.raises(ValueError, match=r"depends on what else is in the batch.*weight_fn="):
        bridge.problem(module, loss, (x, y))
    factors = jnp.asarray(weight.numpy())
    problem = bridge.problem(module, loss, (x, y), weight_fn=lambda batch: factors[batch[1]], batch_size=2)
    module.eval()
    with torch.no_grad():
        assert_close(problem.objectives["train"](problem.params), loss(module(x), y))


# ------------------------------------------------------------------------------------------------------------- refused


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 3)

    def forward(self, x):
        return self.linear(x) if x.sum() > 0 else -self.linear(x)


class Histogram(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 3)

    def forward(self, x):
        return self.linear(x) + torch.histc(x, 3)


def refused(error, match, module=None, loss=F.cross_entropy, data=None, **options):
    module = nn.Linear(8, 3) if module is None else module
    data = (noise(4, 8), torch.tensor([0, 2, 1, 1])) if data is None else data
    with pytest.raises(error, match=match):
        bridge.problem(module, loss, data, **options)


def test_an_operator_that_is_not_in_the_table_is_named_with_its_module():
    inner = nn.Sequential(nn.Linear(8, 8), Histogram())
    refused(
        bridge.UnsupportedOperator, r"no operator aten\.histc\.default in 1 \(Histogram\); .*bridges\.torch\.operator",
        inner, to_first, (noise(1, 8), torch.zeros(1)),
    )  # fmt: skip


def test_an_operator_can_be_entered(monkeypatch):
    from landscape.bridges._aten import OPERATORS

    monkeypatch.setitem(OPERATORS, "histc", None)  # so that it is taken out again
    bridge.operator("histc")(lambda x, bins, low, high: jnp.histogram(x, bins)[0].astype(x.dtype))
    assert bridge.problem(Histogram(), to_first, (noise(1, 8), torch.zeros(1))).difference <= CLOSE


def test_random_numbers_are_refused_with_what_to_do():
    noisy = nn.Sequential(nn.Linear(8, 3), Applied(lambda x: x + torch.randn_like(x)))
    torch.manual_seed(0)
    refused((ValueError, NotImplementedError), "random numbers|depends on what else", noisy)


def test_a_course_that_depends_on_values_is_refused():
    refused(ValueError, r"torch\.export cannot trace the module.*torch\.where", Branching())


@pytest.mark.parametrize(
    ("loss", "error", "match"),
    [
        (lambda outputs, targets: None, TypeError, r"got NoneType None: is a `return` missing"),
        (lambda outputs, targets: 3, TypeError, r"loss must return a tensor.*got int 3"),
        (lambda outputs, targets: outputs.argmax(1), TypeError, r"floating-point tensor, got torch\.int64"),
        (lambda outputs, targets: outputs, ValueError, r"scalar or shape \(4,\).*got \(4, 3\)"),
        (lambda o, t: F.cross_entropy(o, t, reduction="sum"), ValueError, r"sum over its examples: take its mean"),
        (lambda o, t: o.std(0).mean(), ValueError, r"no finite loss alone|depends on what else"),
        ("cross_entropy", TypeError, r"loss must be a function loss\(outputs, targets\)"),
        (None, TypeError, r"returns its own loss, but its output \(Tensor\) has none"),
        (nn.PReLU(), ValueError, r"loss has parameters of its own"),
    ],
    ids=["None", "int", "integer tensor", "matrix", "sum", "over the batch", "text", "own", "with parameters"],
)
@pytest.mark.filterwarnings("ignore:std")
def test_wrong_losses(loss, error, match):
    refused(error, match, loss=loss)


@pytest.mark.parametrize(
    ("data", "error", "match"),
    [
        (None, TypeError, r"train must be a pair \(inputs, targets\)"),
        ([], ValueError, r"train gave no batches"),
        (3.0, TypeError, r"train must be a pair"),
        ((np.ones((4, 8), np.float32), np.ones(3, int)), ValueError, r"same first axis"),
        ((np.ones((0, 8), np.float32), np.ones(0, int)), ValueError, r"no examples"),
        ((np.ones((4, 8), np.float32), ["a", "b"]), TypeError, r"train\.1\.0 must be an array"),
        ((np.ones((2, 8), np.float32), np.array(["a", "b"])), TypeError, r"must hold numbers"),
        (torch.utils.data.TensorDataset(torch.ones(4, 8)), TypeError, r"pass a DataLoader over the data set"),
        ([(np.ones((2, 8)), np.ones(2)), (np.ones((2, 8)),)], ValueError, r"batch 1 is of another make"),
        ([(np.ones((2, 8)), np.ones(2)), (np.ones((2, 9)), np.ones(2))], ValueError, r"pad them to one length"),
    ],
    ids=["None", "empty", "number", "lengths", "no examples", "words", "text", "Dataset", "make", "ragged"],
)
def test_wrong_data(data, error, match):
    with pytest.raises(error, match=match):
        bridge.problem(nn.Linear(8, 3), F.cross_entropy, data)


def test_wrong_modules_and_options():
    data = (noise(4, 8), torch.tensor([0, 2, 1, 1]))
    refused(
        TypeError, r"must be a torch.nn.Module, got .*; pass the module, not its weights", nn.Linear(8, 3).state_dict()
    )
    refused(ValueError, r"no floating-point parameters", nn.ReLU())
    refused(ValueError, r"weight is on the meta device", nn.Linear(8, 3, device="meta"))
    refused(ValueError, r"weight has no shape yet: run the module once", nn.LazyLinear(3))
    refused(ValueError, r"weight is float64.*jax_enable_x64", nn.Linear(8, 3).double())
    refused(ValueError, r"test must be like train", test=(noise(4, 9), data[1]))
    refused(ValueError, r"batch_size must be at least 1", batch_size=0)
    refused(ValueError, r"tolerance must be positive", tolerance=-1.0)
    refused(ValueError, r"has no batch norm: leave it away", batch_statistics=2)
    refused(ValueError, r"whole batches", small_cnn(), data=labelled(), batch_statistics=3, weight_fn=lambda batch: 1)
    refused(ValueError, r"does not divide the 9 examples", small_cnn(), data=labelled(), batch_statistics=4)


@pytest.mark.parametrize(
    ("trainable", "error", "match"),
    [
        ("head.*", ValueError, r"'head\.\*' matches no parameter; they are called weight, bias"),
        (["weight", "other"], ValueError, r"'other' matches no parameter"),
        ([], ValueError, r"leaves nothing that moves"),
        (lambda name, p: False, ValueError, r"leaves nothing that moves"),
        ({"wieght": True}, ValueError, r"no parameters called wieght"),
        (3, TypeError, r"trainable must be a pattern"),
        ("*", UserWarning, r"chooses all 2 parameters, so nothing is frozen"),
    ],
)
def test_wrong_trainable(trainable, error, match):
    refused(error, match, trainable=trainable)


def test_parameters_of_another_model(cnn):
    _, _, problem = cnn
    other = {"0.weight": problem.params["0.weight"], "7.bias": problem.params["6.bias"]}
    with pytest.raises(ValueError, match=r"the parameters lack 0\.bias.*of another model"):
        problem.objectives["train"](other)
    wider = {**problem.params, "0.bias": np.ones(7, np.float32)}
    with pytest.raises(ValueError, match=r"other shapes than the module's: 0\.bias \(7,\) and not \(6,\): of another"):
        problem.objectives["train"](wider)
    with pytest.raises(ValueError, match=r"Sequential has no parameters called 7\.bias"):
        bridge.to_module(other, small_cnn())
    with pytest.raises(ValueError, match=r"0\.weight has shape \(2, 2\) in params and \(6, 4, 3, 3\)"):
        bridge.to_module({"0.weight": np.ones((2, 2))}, small_cnn())
    with pytest.raises(ValueError, match="nothing to copy"):
        bridge.to_module({}, small_cnn())
    with pytest.raises(TypeError, match="must be a dict"):
        bridge.to_module(None, small_cnn())
