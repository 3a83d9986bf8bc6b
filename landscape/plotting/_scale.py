"""Which colour a value gets: the kind of scale, its limits, its contour levels, and its name on a colour bar.

The kind is `linear`, `log` or `symlog`; `auto` is log for positive values over more than `LOG_DECADES` decades and
linear otherwise. Values of both signs are centred on zero, so that equal colours mean equal magnitudes. Where both
limits are given they alone decide, so that panels with the same limits have the same colours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.colors import CenteredNorm, LogNorm, Normalize, SymLogNorm
from matplotlib.ticker import LogFormatterSciNotation, LogLocator, MaxNLocator

from landscape.plotting import _style
from landscape.plotting._checks import LARGEST, NARROWEST

KINDS = ("auto", "linear", "log", "symlog")
LOG_DECADES = 1.5
# A sign that is wrong by rounding alone does not make a loss a signed quantity.
SIGN_SHARE = 1e-3
ROBUST_PERCENTILES = (2.0, 98.0)
LINEAR_SHARE = 1e-2  # half-width of the linear part of a symlog scale, as a share of its larger end
# Contours a decade: 10^(k/n) for whole k has the powers of ten among its levels.
PER_DECADE = (10, 5, 4, 3, 2, 1, 1 / 2, 1 / 3, 1 / 5, 1 / 10, 1 / 20, 1 / 50, 1 / 100)


class FlooredLogNorm(LogNorm):
    """A logarithmic norm under which zero and negative values lie below the scale rather than nowhere."""

    def __call__(self, value: Any, clip: bool | None = None) -> Any:
        """Map values to [0, 1]; masked ones stay masked."""
        value = np.ma.asanyarray(value)
        return super().__call__(np.ma.where(value > 0, value, np.finfo(np.float64).tiny), clip)

    def inverse(self, value: Any) -> Any:
        """Values at places of the colour map; a colour bar with tips asks for some beyond its ends."""
        with np.errstate(over="ignore"):
            return np.minimum(super().inverse(value), np.finfo(np.float64).max)


class Clipped:
    """A norm that shows a range only: what lies outside has the colour of the nearer end."""

    low: float
    high: float

    def __call__(self, value: Any, clip: bool | None = None) -> Any:
        """Map values to [0, 1]; masked ones stay masked."""
        norm: Any = super()
        return norm.__call__(np.ma.asanyarray(value).clip(self.low, self.high), clip)

    def inverse(self, value: Any) -> Any:
        """Values at places of the colour map; a colour bar with tips asks for some beyond its ends."""
        norm: Any = super()
        with np.errstate(over="ignore"):
            return np.clip(norm.inverse(value), -np.finfo(np.float64).max, np.finfo(np.float64).max)


class ClippedNorm(Clipped, Normalize):
    """Linear from end to end."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__(low, high)
        self.low, self.high = low, high


class ClippedCenteredNorm(Clipped, CenteredNorm):
    """Linear about a centre, which is mapped to 1/2, with one slope on both sides."""

    def __init__(self, center: float, low: float, high: float) -> None:
        super().__init__(center, max(abs(low - center), abs(high - center)))
        self.low, self.high = low, high


class ClippedSymLogNorm(Clipped, SymLogNorm):
    """The same on a symmetric logarithmic scale, about 0 where it is `centred`."""

    def __init__(self, linthresh: float, low: float, high: float, centred: bool) -> None:
        half = max(abs(low), abs(high))
        super().__init__(linthresh, vmin=-half if centred else low, vmax=half if centred else high)
        self.low, self.high = low, high


@dataclass(frozen=True, eq=False)
class Scale:
    """A resolved colour scale.

    Attributes:
        kind: `linear`, `log` or `symlog`.
        norm: maps values to [0, 1].
        low: lowest value that the scale shows.
        high: highest value that the scale shows.
        diverging: whether the norm is centred.
        extend: which ends clip values: `neither`, `min`, `max` or `both`, as a colour bar takes it.
        empty: whether there was no value to make a scale of.
    """

    kind: str
    norm: Normalize
    low: float
    high: float
    diverging: bool
    extend: str
    empty: bool

    @property
    def cmap(self) -> Any:
        """The colour map of the style that fits."""
        return _style.inks().diverging if self.diverging else _style.inks().sequential

    def text(self, label: str) -> str:
        """The label with the kind of the scale."""
        if self.empty:
            return f"{label} (no finite value)"
        within = f", linear within ±{self.norm.linthresh:.2g}" if isinstance(self.norm, SymLogNorm) else ""
        return f"{label} ({self.kind} scale{within})"

    def levels(self, num: int) -> np.ndarray:
        """About `num` round contour levels strictly inside the scale, equally spaced on it."""
        if self.empty:
            return np.empty(0)
        levels = np.asarray(self._levels(num))
        return levels[(levels > self.low) & (levels < self.high)]

    def _levels(self, num: int) -> np.ndarray:
        if self.kind == "log":
            return log_levels(self.low, self.high, num)
        if isinstance(self.norm, SymLogNorm):
            top = max(abs(self.low), abs(self.high))
            half = log_levels(self.norm.linthresh, top, max(1, num // 2))
            return np.unique(np.concatenate([-half[::-1], [0.0], half]))
        return linear_levels(self.low, self.high, num)


def linear_levels(low: float, high: float, num: int) -> np.ndarray:
    """About `num` equally spaced round numbers between two numbers."""
    # A locator takes `num` as an upper bound, and halves it where the next rounder step is just too small.
    locators = [MaxNLocator(n, steps=[1, 2, 2.5, 5, 10]) for n in (num + 1, num + num // 2)]
    choices = [np.asarray(locator.tick_values(low, high)) for locator in locators]
    inside = [ticks[(ticks > low) & (ticks < high)] for ticks in choices]
    return min(inside, key=lambda ticks: abs(len(ticks) - num))


def log_levels(low: float, high: float, num: int) -> np.ndarray:
    """About `num` levels in equal ratios between two positive numbers, anchored at the powers of ten."""
    span = np.log10([low, high])
    if span[1] - span[0] < 3 / PER_DECADE[0]:
        return np.geomspace(low, high, num + 2)[1:-1]
    density = min(PER_DECADE, key=lambda n: abs(n * (span[1] - span[0]) - num))
    return 10 ** (np.arange(np.ceil(span[0] * density), np.floor(span[1] * density) + 1) / density)


def number(value: float, digits: int = 3) -> str:
    """A number as it stands in print, in so many significant digits."""
    if value == 0 or not np.isfinite(value) or 1e-4 <= abs(value) < 1e6:
        text = np.format_float_positional(value, digits, fractional=False, trim="-")
        return text.replace("-", "\N{MINUS SIGN}")
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    factor = {"1": "", "-1": "-"}.get(mantissa, rf"{mantissa}\times ")
    return rf"${factor}10^{{{int(exponent)}}}$"


def level_texts(levels: Sequence[float]) -> dict[float, str]:
    """Each level in the fewest significant digits that place it among its neighbours (to 5 % of the distance)."""
    space = np.diff(levels, prepend=-np.inf, append=np.inf)
    return {level: _short(level, 0.05 * min(space[i : i + 2])) for i, level in enumerate(levels)}


def _short(value: float, error: float) -> str:
    for digits in range(1, 18):
        if abs(float(f"{value:.{digits}g}") - value) <= min(error, 0.02 * abs(value)):
            break
    return number(value, digits)


def resolve(
    values: np.ndarray,
    kind: str = "auto",
    *,
    vmin: float | None = None,
    vmax: float | None = None,
    robust: bool = False,
    center: float | str | None = "auto",
) -> Scale:
    """The scale for some finite values. Those beyond `LARGEST` are beyond its ends, unless all of them are.

    Args:
        values: finite values, shape `(n,)`.
        kind: one of `KINDS`.
        vmin: lowest value of the scale, from the values when None.
        vmax: highest value of the scale, from the values when None.
        robust: take missing limits from the 2nd and 98th percentile rather than the extremes.
        center: the value in the middle of the colour map. `"auto"` is 0 for values of both signs and none
            otherwise; None is no centre.

    Raises:
        ValueError: unknown kind, limits that are not in order, a log scale without positive limits or with a centre,
            or values that are all too large or too small to be drawn.
    """
    bounds = data_bounds(values, robust)
    fixed = vmin is not None and vmax is not None
    kind = _chosen_kind(kind, bounds, vmin, vmax, center)
    low, high = _limits(values, kind, vmin, vmax, bounds)
    center = _center(kind, low, high, center)
    low, high = (low, high) if low < high else _widened(low, kind)
    norm, low, high = _norm(values, kind, (low, high), center, asked=vmin is not None or vmax is not None, fixed=fixed)
    return Scale(kind, norm, low, high, center is not None, _extend(values, low, high), values.size == 0)


def check_scale(scale: str) -> None:
    """Raise `ValueError` unless curves and heights can have this scale."""
    if scale not in ("auto", "linear", "log"):
        raise ValueError(f"scale must be one of auto, linear, log, got {scale!r}")


def data_bounds(values: np.ndarray, robust: bool = False) -> tuple[float, float]:
    """The lowest and highest value, or the 2nd and 98th percentile; (0, 1) of nothing."""
    if not values.size:
        return 0.0, 1.0
    if not robust:
        return float(values.min()), float(values.max())
    low, high = 4 * np.percentile(values / 4, ROBUST_PERCENTILES)  # a quarter, since a range may exceed float64
    return float(low), float(high)


def _chosen_kind(
    kind: str, bounds: tuple[float, float], vmin: float | None, vmax: float | None, center: float | str | None
) -> str:
    """The kind asked for; an automatic one from the limits where both are given, and from the values otherwise."""
    if kind not in KINDS:
        raise ValueError(f"scale must be one of {', '.join(KINDS)}, got {kind!r}")
    centred = center is not None and center != "auto"
    if centred and (kind == "log" or (kind == "symlog" and center != 0)):
        middle = "no middle" if kind == "log" else "its middle at 0"
        raise ValueError(f"a {kind} scale has {middle}, got center={center}: use scale='linear', or leave center out")
    if kind != "auto" or centred:
        return "linear" if kind == "auto" else kind
    low, high = (bounds[i] if v is None else float(v) for i, v in enumerate((vmin, vmax)))
    positive = low > 0 and (bounds[0] > 0 or (vmin is not None and vmax is not None))
    if positive and high > low and np.log10(high) - np.log10(low) > LOG_DECADES:
        return "log"
    return "linear"


def _limits(
    values: np.ndarray, kind: str, vmin: float | None, vmax: float | None, bounds: tuple[float, float]
) -> tuple[float, float]:
    """The limits asked for, completed from the data; equal ones for a constant."""
    if kind == "log":
        bounds = _positive_bounds(values, bounds, vmin is not None and vmax is not None)
        for name, value in (("vmin", vmin), ("vmax", vmax)):
            if value is not None and value <= 0:
                raise ValueError(f"a log scale needs positive limits, got {name}={value}; use scale='symlog'")
    low, high = (bounds[i] if v is None else float(v) for i, v in enumerate((vmin, vmax)))
    if low > high or (low == high and vmin is not None and vmax is not None):
        raise ValueError(
            f"the colour scale is empty: it would go from {low:.6g} to {high:.6g} "
            f"(vmin={vmin}, vmax={vmax}, data {bounds[0]:.6g} to {bounds[1]:.6g})"
        )
    return _drawable(low, high, kind)


def _drawable(low: float, high: float, kind: str) -> tuple[float, float]:
    """The limits, within what matplotlib's arithmetic in float64 can draw."""
    least = 1 / LARGEST if kind == "log" else -LARGEST
    inside = float(np.clip(low, least, LARGEST)), float(np.clip(high, least, LARGEST))
    width = inside[1] - inside[0]
    if inside[0] != low if low == high else width <= (0 if kind == "log" else NARROWEST):
        raise ValueError(_too_far(low, high))
    return inside


def _too_far(low: float, high: float) -> str:
    exponent = int(np.clip(-np.floor(np.log10(max(abs(low), abs(high)))), -300, 300))
    return (
        f"the values, {low:.6g} to {high:.6g}, are too {'large' if exponent < 0 else 'close'} to be drawn in float64: "
        f"give them in other units, as in landscape.assign(loss=1e{exponent} * landscape['loss'])"
    )


def check_reach(values: np.ndarray, log: bool = False) -> None:
    """Raise `ValueError`, with advice, where an axis with all these values cannot be drawn."""
    values = values[np.isfinite(values)]
    low, high = data_bounds(values[values > 0] if log else values)
    if max(abs(low), abs(high)) > LARGEST or (low < high and not log and high - low < NARROWEST):
        raise ValueError(_too_far(low, high))


def _positive_bounds(values: np.ndarray, bounds: tuple[float, float], fixed: bool) -> tuple[float, float]:
    """Bounds for a log scale: those of the positive values. Zero and negative ones lie below the scale."""
    positive = values[values > 0]
    if not positive.size:
        if values.size and not fixed:
            raise ValueError("a log scale needs a positive value, and there is none; use scale='symlog'")
        return 0.1, 1.0
    return max(bounds[0], float(positive.min())), max(bounds[1], float(positive.min()))


def _widened(value: float, kind: str) -> tuple[float, float]:
    """A range around a constant, which has none of its own."""
    if kind == "log":
        return value / 1.1, value * 1.1
    margin = 0.1 * abs(value) if abs(value) > NARROWEST else 0.1
    return value - margin, value + margin


def _center(kind: str, low: float, high: float, center: float | str | None) -> float | None:
    if kind == "log":
        return None
    if center != "auto":
        return None if center is None else float(center)
    return 0.0 if low < 0 < high and min(-low, high) > SIGN_SHARE * max(-low, high) else None


def _norm(
    values: np.ndarray, kind: str, span: tuple[float, float], center: float | None, *, asked: bool, fixed: bool
) -> tuple[Normalize, float, float]:
    """The norm, and the range of it that a colour bar shows: where limits were `asked` for, those."""
    if kind == "log":
        return FlooredLogNorm(*span), *span
    if kind == "symlog":
        linthresh = _linthresh(span if fixed else values)
        if center is not None and not asked:
            span = -max(map(abs, span)), max(map(abs, span))
        return ClippedSymLogNorm(linthresh, *span, centred=center is not None), *span
    if center is None:
        far = np.any(np.abs(values) > LARGEST)  # would overflow in a narrow range
        return (ClippedNorm(*span) if far else Normalize(*span)), *span
    if asked:
        return ClippedCenteredNorm(center, *span), *span
    half = max(abs(span[0] - center), abs(span[1] - center))
    return CenteredNorm(center, half), *_occupied(values, span, (center - half, center + half))


def _occupied(values: np.ndarray, span: tuple[float, float], ends: tuple[float, float]) -> tuple[float, float]:
    """The part of a centred scale that the data use: the colour bar shows no colour that the picture lacks."""
    low, high = data_bounds(values)
    return min(span[0], max(low, ends[0])), max(span[1], min(high, ends[1]))


def _linthresh(values: Any) -> float:
    """Half-width of the linear part: the smallest magnitude, but at most two decades below the largest."""
    sizes = np.minimum(np.abs(values), LARGEST)
    sizes = sizes[sizes > NARROWEST]
    return float(max(sizes.min(), LINEAR_SHARE * sizes.max())) if sizes.size else 1.0


def _extend(values: np.ndarray, low: float, high: float) -> str:
    below, above = bool(np.any(values < low)), bool(np.any(values > high))
    return ("both" if above else "min") if below else ("max" if above else "neither")


def dress_log_ticks(axis: Any, low: float, high: float) -> None:
    """Readable ticks for a log axis: 1, 2 and 5 in plain digits over few decades, powers of ten over many."""
    if not 1e-4 < low < high < 1e5 or high / low > 2e3:
        axis.set_major_formatter(LogFormatterSciNotation())
        return
    subs = (1.0, 2.0, 5.0) if high / low > 5 else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(lambda value, _: "")
