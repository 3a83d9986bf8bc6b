"""PyTorch modules through the bridge: outputs, losses and gradients beside PyTorch's own, which is the oracle throughout."""

import dataclasses
import fnmatch
import inspect
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import landscape as ls

torch = pytest.importorskip("torch", reason="needs the extra [torch]")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

bridge = ls.bridges.torch
ROOT = Path(__file__).parents[1]
CLOSE = 1e-5  # single precision: sums of some hundred terms in another order
has_weights = "weight_fn" in {field.name for field in dataclasses.fields(ls.Objective)}


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


@pytest.mark.parametrize("name", LAYERS)
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
    "tanh-gelu, glu, threshold": (lambda x: F.glu(F.gelu(x, approximate="tanh")) + F.threshold(x, 0.1, 0.3)[:, :4], ROWS),
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
        * torch.stack(x.split(2, 1)).sum((0, 2))[:, None] + x.unfold(1, 4, 4).flatten(1).repeat(1, 2)[:, :12].roll(3, 1),
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
    "pixels": (lambda x: F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2) + F.unfold(x, 3).mean(1)[:, :1, None, None], IMAGES),
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


@pytest.mark.parametrize("name", FUNCTIONS)
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
