"""A loss surface of a residual network and of a small convolutional one, beside PyTorch in channels_last.

ResNet-20 (He et al. 2016: 16, 32 and 64 channels, nine blocks) with frozen batch norm on 512 images of 32 x 32, and
two convolutions with a dense layer on 512 images of 28 x 28; real MNIST digits, the larger ones padded. Same weights,
statistics, directions, points and data in float32, every program on all cores. Time is per point, since one takes
about half a second:

- *landscape*: `sweep(LossSurface(plane, objective), grid)`, which on a CPU chooses one point at a time.
- *torch channels_last*: a Python loop that writes origin + a d1 + b d2 into the parameters in place.
- *torch.compile*: the same loop over a compiled evaluation, which uses oneDNN's convolutions. XLA's on a CPU do not
  reach these.

Target for the residual network, exact: no slower than torch in channels_last. For 101 x 101 points at a tolerance of
1e-2 the evaluations that `sweep(tolerance=)` needs are counted, which takes minutes, and their time set against that of
all 10,201 points compiled: at most a sixth is asked. With few images the surface is rough and every point is needed.
"""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import landscape as ls
from benchmarks._harness import Report, Times, settle
from benchmarks.batching import classify

AGREEMENT = 1e-3
STAGES = (16, 32, 64)
EPS = 1e-5
SIDE, TOLERANCE, SIXTH = 101, 1e-2, 1 / 6
OURS, PEERS = "landscape", ("torch channels_last", "torch.compile")

Params = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Case:
    """A network in both libraries; `kernels` are HWIO or (in, out), in the order in which torch holds its own."""

    name: str
    predict: Callable[[Params, Any], Any]
    kernels: Params
    directions: Params
    data: dict[str, Any]
    torch_module: Callable[[], Any]
    target: float | None

    def surface(self, count: int | None = None) -> ls.LossSurface:
        """Mean cross-entropy over the plane, on all examples or the first `count`."""
        plane = ls.Subspace(self.kernels, self.directions)
        data = jax.tree.map(lambda x: x[:count], self.data)
        return ls.LossSurface(plane, ls.Objective(classify(self.predict), data))


def convolve(x: Any, kernel: Any, stride: int = 1) -> Any:
    """With PyTorch's padding, which at stride 2 is not that of XLA's "SAME"."""
    pad = [(kernel.shape[0] // 2,) * 2] * 2
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), pad, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def resnet_layers() -> list[tuple[str, int, int, int]]:
    """Name, channels in, channels out and stride of each convolution before a batch norm."""
    layers, width = [("stem", 1, STAGES[0], 1)], STAGES[0]
    for stage, channels in enumerate(STAGES):
        for block in range(3):
            stride = 2 if stage and not block else 1
            layers += [(f"{stage}{block}a", width, channels, stride), (f"{stage}{block}b", channels, channels, 1)]
            width = channels
    return layers


def shortcut(x: Any, channels: int, stride: int) -> Any:
    """Identity, with fewer pixels and further channels of 0 (option A)."""
    x = x[:, ::stride, ::stride]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, channels - x.shape[-1])))


def resnet(params: Params, x: Any, norm: Callable[[str, Any], Any]) -> Any:
    """Logits; `norm(name, x)` is the batch norm of a layer."""
    strides = {name: stride for name, _, _, stride in resnet_layers()}
    x = jax.nn.relu(norm("stem", convolve(x, params["stem"])))
    for name in [name[:-1] for name in strides if name.endswith("a")]:
        stride = strides[name + "a"]
        inner = jax.nn.relu(norm(name + "a", convolve(x, params[name + "a"], stride)))
        inner = norm(name + "b", convolve(inner, params[name + "b"]))
        x = jax.nn.relu(inner + shortcut(x, inner.shape[-1], stride))
    return jnp.mean(x, axis=(1, 2)) @ params["dense"]


def torch_resnet(params: Params, statistics: dict[str, tuple[Any, Any]]) -> Any:
    """The same as a torch module in evaluation mode."""
    import torch
    from torch import nn

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolutions = nn.ModuleDict(
                {n: nn.Conv2d(i, o, 3, s, 1, bias=False) for n, i, o, s in resnet_layers()}
            )
            self.dense = nn.Linear(STAGES[-1], 10, bias=False)
            self.norms = nn.ModuleDict({n: nn.BatchNorm2d(o, EPS, affine=False) for n, _, o, _ in resnet_layers()})
            for name, (mean, variance) in statistics.items():
                self.norms[name].running_mean.copy_(torch.tensor(np.asarray(mean)))
                self.norms[name].running_var.copy_(torch.tensor(np.asarray(variance)))

        def layer(self, name: str, x: Any) -> Any:
            return self.norms[name](self.convolutions[name](x))

        def forward(self, x: Any) -> Any:
            x = torch.relu(self.layer("stem", x))
            for name in [name[:-1] for name in self.convolutions if name.endswith("a")]:
                inner = self.layer(name + "b", torch.relu(self.layer(name + "a", x)))
                stride = self.convolutions[name + "a"].stride[0]
                x = x[:, :, ::stride, ::stride]
                x = nn.functional.pad(x, (0, 0, 0, 0, 0, inner.shape[1] - x.shape[1]))
                x = torch.relu(inner + x)
            return self.dense(x.mean(dim=(2, 3)))

    return Residual()


def he(key: Any, shapes: dict[str, tuple[int, ...]]) -> Params:
    """Gaussian weights of variance 2 / fan-in."""
    keys = jax.random.split(key, len(shapes))
    return {n: jax.random.normal(k, s) * np.sqrt(2 / np.prod(s[:-1])) for k, (n, s) in zip(keys, shapes.items())}


def directions_of(params: Params) -> Params:
    directions = ls.subspace.random_directions(jax.random.key(1), params)
    return ls.subspace.filter_normalize(directions, params, filter_axis=-1)


def digits(count: int, side: int) -> dict[str, Any]:
    """MNIST with a margin of 0, `(count, side, side, 1)`."""
    train, _ = ls.problems.mnist5k()
    margin = (side - 28) // 2
    x = np.pad(train["x"][:count], ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    return {"x": jnp.asarray(x), "y": jnp.asarray(train["y"][:count])}


def resnet_case(count: int) -> Case:
    """Its batch norms keep the statistics of the first weights on the data."""
    data = digits(count, 32)
    shapes: dict[str, tuple[int, ...]] = {n: (3, 3, i, o) for n, i, o, _ in resnet_layers()}
    params = he(jax.random.key(0), shapes | {"dense": (STAGES[-1], 10)})
    statistics: dict[str, tuple[Any, Any]] = {}

    def measure(name: str, x: Any) -> Any:
        statistics[name] = (jnp.mean(x, axis=(0, 1, 2)), jnp.var(x, axis=(0, 1, 2)))
        return frozen(name, x)

    def frozen(name: str, x: Any) -> Any:
        mean, variance = statistics[name]
        return (x - mean) * jax.lax.rsqrt(variance + EPS)

    resnet(params, data["x"], measure)
    return Case("ResNet-20, frozen batch norm", lambda p, x: resnet(p, x, frozen), params, directions_of(params), data,
                lambda: torch_resnet(params, statistics), 1.0)  # fmt: skip


def small_case(count: int) -> Case:
    """Two 3 x 3 convolutions of 16 and 32 channels, each with 2 x 2 mean pooling, and a dense layer."""
    shapes = {"first": (3, 3, 1, 16), "second": (3, 3, 16, 32), "dense": (32, 10)}
    params = he(jax.random.key(0), shapes)

    def pooled(x: Any) -> Any:
        return jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4

    def predict(p: Params, x: Any) -> Any:
        for name in ("first", "second"):
            x = pooled(jax.nn.relu(convolve(x, p[name])))
        return jnp.mean(x, axis=(1, 2)) @ p["dense"]

    def module() -> Any:
        from torch import nn

        layers: list[Any] = []
        for i, o in ((1, 16), (16, 32)):
            layers += [nn.Conv2d(i, o, 3, 1, 1, bias=False), nn.ReLU(), nn.AvgPool2d(2)]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10, bias=False))

    return Case("two convolutions", predict, params, directions_of(params), digits(count, 28), module, None)


def to_torch(tree: Params, order: Any, index: Any = ()) -> list[Any]:
    """Kernels as torch lays them out."""
    import torch

    arrays = [np.asarray(tree[name])[index] for name in order]
    turned = [a.transpose(3, 2, 0, 1) if a.ndim == 4 else a.T for a in arrays]
    return [torch.tensor(np.ascontiguousarray(a)) for a in turned]


def torch_losses(case: Case, points: np.ndarray, compiled: bool) -> Callable[[], np.ndarray]:
    """A loop over the points."""
    import torch

    model = case.torch_module().eval().requires_grad_(False).to(memory_format=torch.channels_last)
    x = torch.tensor(np.asarray(case.data["x"]).transpose(0, 3, 1, 2)).to(memory_format=torch.channels_last)
    y = torch.tensor(np.asarray(case.data["y"]), dtype=torch.long)
    order = list(case.kernels)
    origin, one, two = (to_torch(case.kernels, order), *(to_torch(case.directions, order, i) for i in range(2)))
    weights = list(model.parameters())

    def evaluate(a: Any, b: Any) -> Any:
        for p, o, d, e in zip(weights, origin, one, two):
            p.copy_(o + a * d + b * e)
        return torch.nn.functional.cross_entropy(model(x), y)

    program = torch.compile(evaluate) if compiled else evaluate
    pairs = torch.tensor(points, dtype=torch.float32)

    def losses() -> np.ndarray:
        with torch.no_grad():
            return torch.stack([program(a, b) for a, b in pairs]).cpu().numpy()

    return losses


def our_losses(case: Case, grid: ls.Grid) -> Callable[[], np.ndarray]:
    """The sweep."""
    surface = case.surface()
    return lambda: ls.sweep(surface, grid, progress=False)["loss"].ravel()


def run(report: Report) -> None:
    """Both networks, then the residual one at a tolerance."""
    import psutil
    import torch

    torch.set_num_threads(psutil.cpu_count())
    count = 16 if report.quick else 512
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache  # nothing compiled by an earlier run
        compare(report, small_case(count), ls.Grid.square(0.5, 2 if report.quick else 6))
        case = resnet_case(count)
        times = compare(report, case, ls.Grid.square(0.5, 2 if report.quick else 3))
    at_tolerance(report, case, times)


def compare(report: Report, case: Case, grid: ls.Grid) -> Any:
    """One network: agreement, then times in turn."""
    report.section(f"convolutions: {case.name}, {len(case.data['y'])} images, {grid.size} points")
    points = grid.points()
    programs = {OURS: our_losses(case, grid)}
    programs |= {peer: torch_losses(case, points, peer == PEERS[1]) for peer in PEERS}
    found = {name: report.once(f"{name}, first call", program) for name, program in programs.items()}
    for peer in PEERS:
        difference = float(np.max(np.abs(found[peer] / found[OURS] - 1)))
        report.note(f"  {peer} and {OURS} differ by at most {difference:.1e} relative", differs=difference)
        if not difference <= AGREEMENT:
            raise SystemExit(f"the surfaces differ by more than {AGREEMENT:g}: nothing to compare")
    settle(programs[OURS])
    times = report.compare(programs, repeats=5)
    for name in programs:
        report.finding(f"{name}, ms a point", times, lambda t, n=name: 1e3 * t[n] / grid.size, "{:.1f}")
    for peer, target in zip(PEERS, (case.target, None)):
        report.finding(f"{OURS} / {peer}", times, _ratio(peer), target=target)
    return times


def _ratio(peer: str) -> Callable[[Times], float]:
    return lambda times: times[OURS] / times[peer]


def at_tolerance(report: Report, case: Case, times: Any) -> None:
    """Evaluations for a plane of 101 x 101 points, at the times measured."""
    side, count = (17, 8) if report.quick else (SIDE, None)
    report.section(f"convolutions: {case.name}, {side}x{side} points at a tolerance of {TOLERANCE:g}")
    grid = ls.Grid.square(0.5, side)
    landscape = ls.sweep(case.surface(count), grid, tolerance=TOLERANCE, progress=False)
    evaluated = int(landscape.computed.sum())
    report.note(f"  {evaluated:,} of {grid.size:,} points evaluated", evaluated=evaluated)
    label = f"{OURS} at the tolerance / {PEERS[1]} on every point"
    report.finding(label, times, lambda t: _ratio(PEERS[1])(t) * evaluated / grid.size, "{:.3f}", SIXTH)
