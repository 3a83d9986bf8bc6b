"""`Batches`: data that come in blocks, read anew for each pass, and the proof that every pass saw the same."""

import hashlib
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from landscape import _tree
from landscape.checks import short
from landscape.objective._inputs import check_data

_AGAIN = "every pass must give the same batches in the same order (shuffle=False, no augmentation, one seed)"


@dataclass(frozen=True)
class Survey:
    """What the first pass saw.

    Attributes:
        sizes: examples of each batch.
        digests: a checksum of the bytes of each batch.
        seconds: that reading took, the checksums included.
    """

    sizes: tuple[int, ...]
    digests: tuple[int, ...]
    seconds: float

    @property
    def num_examples(self) -> int:
        """Of all batches."""
        return sum(self.sizes)

    @property
    def digest(self) -> str:
        """Of all data and the way that they are cut."""
        return hashlib.sha256(repr((self.sizes, self.digests)).encode()).hexdigest()[:16]


class Batches:
    """Data larger than memory, for `Objective(loss_fn, Batches(...))`: batches of examples, read anew for each pass.

    `sweep` reads them once for each tile of points, in the order given, the same for all points; the curvature
    functions once for each product. A first pass notes their number, shapes and checksums, every later one is held
    against it. In memory is one batch at a time, and its copy on the device.

    >>> import numpy as np
    >>> from landscape import Batches, Objective
    >>> def read():
    ...     for start in range(0, 6, 4):                      # batches of 4 and 2 examples
    ...         yield {"x": np.arange(6.0)[start : start + 4]}
    >>> objective = Objective(lambda w, batch: (batch["x"] - w) ** 2, Batches(read))
    >>> float(objective(2.5))
    2.9166667461395264

    Args:
        source: a function without arguments that gives the batches anew, as a generator function does; or something
            that can be iterated over again and again, such as a `DataLoader` of PyTorch without shuffling or a list.
            A batch is a pytree of arrays whose first axis counts the examples; all have one structure, the same types
            and, but for the first axis, shapes. All but the last have as many examples.

    Raises:
        TypeError: `source` is neither, or an iterator, which can be read only once.
    """

    def __init__(self, source: Callable[[], Iterable[PyTree]] | Iterable[PyTree]) -> None:
        _check_source(source)
        self._source = source
        self._survey: Survey | None = None
        self._shapes: PyTree = None
        self.weights: dict[Any, tuple[Any, ...]] = {}  # of each batch, by the function that gives them

    def __repr__(self) -> str:
        return f"Batches({short(self._source)})"

    @property
    def survey(self) -> Survey:
        """What the first pass saw; reads the data where there was none yet."""
        if self._survey is None:
            for _ in self.blocks():
                pass
        assert self._survey is not None
        return self._survey

    def first(self) -> PyTree:
        """The first batch."""
        return next(iter(self.blocks()))

    def blocks(self) -> Iterator[PyTree]:
        """The batches in order, in NumPy, each held against what the first pass saw.

        Raises:
            TypeError: a batch is no pytree of arrays of numbers.
            ValueError: there are none, a batch looks unlike the first one, or the data are not those of the first pass.
        """
        known, sizes, digests, spent = self._survey, [], [], 0.0
        blocks = self._iterator()
        while True:
            start = time.perf_counter()
            block = next(blocks, self)
            if block is self:
                break
            block, index = _as_numpy(block, len(sizes)), len(sizes)
            self._check_shapes(block, index, sizes)
            sizes.append(len(jax.tree.leaves(block)[0]))
            digests.append(_checksum(block))
            if known is not None:
                _check_same(known, index, sizes[index], digests[index])
            spent += time.perf_counter() - start
            yield block
            del block
        if known is None:
            self._survey = Survey(tuple(sizes), tuple(digests), spent)
        _check_number(known, len(sizes))

    def _iterator(self) -> Iterator[PyTree]:
        source: Any = self._source
        given = source if hasattr(source, "__iter__") else source()
        try:
            return iter(given)
        except TypeError:
            raise TypeError(
                f"the function given to Batches must give an iterator of batches, got {short(given)}: let it yield them"
            ) from None

    def _check_shapes(self, block: PyTree, index: int, sizes: list[int]) -> None:
        """Hold a batch against the first one."""
        shapes = _shapes(block)
        if index == 0 and self._survey is None:
            self._shapes = shapes
        if shapes != self._shapes:
            raise ValueError(
                f"batch {index} holds {_listed(shapes)}, and the first one {_listed(self._shapes)}: batches of one "
                "structure, type and shape go through one program; pad rows to one length, and count them by weight_fn="
            )
        if len(sizes) > 1 and sizes[-1] != sizes[0]:
            raise ValueError(
                f"batch {index - 1} of {sizes[-1]} examples is not the last one, and the first has {sizes[0]}: all but "
                "the last must be of one size"
            )


jax.tree_util.register_pytree_node(Batches, lambda batches: ((), batches), lambda batches, _: batches)


def batches_in(tree: PyTree) -> list[Batches]:
    """The different `Batches` in a tree."""
    found = [x for x in jax.tree.leaves(tree, is_leaf=_is_batches) if _is_batches(x)]
    return list({id(x): x for x in found}.values())


def filled(tree: PyTree, block: PyTree = None) -> PyTree:
    """The tree with a block of data for its `Batches`, by default the first of each."""
    firsts: dict[int, PyTree] = {}

    def fill(leaf: Any) -> Any:
        if not _is_batches(leaf):
            return leaf
        if block is None and id(leaf) not in firsts:
            firsts[id(leaf)] = leaf.first()
        return firsts[id(leaf)] if block is None else block

    return jax.tree.map(fill, tree, is_leaf=_is_batches)


def _is_batches(value: Any) -> bool:
    return isinstance(value, Batches)


def _check_source(source: Any) -> None:
    if isinstance(source, Iterator):
        raise TypeError(
            f"Batches reads the data many times, and {short(source)} can be read only once: pass the function "
            "that makes it, Batches(read) in place of Batches(read())"
        )
    if isinstance(source, str | bytes | Mapping) or hasattr(source, "dtype"):
        raise TypeError(
            f"Batches takes a function that yields batches, got {short(source)}; cut arrays into batches by "
            "Batches(lambda: (data[i : i + size] for i in range(0, len(data), size)))"
        )
    if not callable(source) and not hasattr(source, "__iter__"):
        raise TypeError(f"Batches takes a function that yields batches, or what gives them anew, got {short(source)}")
    if not hasattr(source, "__iter__"):
        _tree.check_takes(source, "make_iterator")


def _as_numpy(block: PyTree, index: int) -> PyTree:
    """A batch in NumPy, without a copy where it is there already."""

    def leaf(path: Any, x: Any) -> np.ndarray:
        if _tree.is_of_torch(x):
            x = x.detach().cpu().numpy()
        check_data(f"batch {index}{'.' if path else ''}{_tree.key_name(path) if path else ''}", x)
        x = np.asarray(x)
        if x.ndim == 0:
            raise ValueError(f"batch {index}.{_tree.key_name(path)} is one number: its first axis counts the examples")
        return x

    block = jax.tree_util.tree_map_with_path(leaf, block)
    lengths = {len(x) for x in jax.tree.leaves(block)}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            f"the leaves of batch {index} need one number of examples, at least 1, on their first axes, got "
            f"{sorted(lengths) or 'no leaves'}"
        )
    return block


def _shapes(block: PyTree) -> Any:
    named = [(_tree.key_name(p), (x.shape[1:], str(x.dtype))) for p, x in jax.tree_util.tree_leaves_with_path(block)]
    return named, jax.tree.structure(block)


def _listed(shapes: Any) -> str:
    return ", ".join(f"{name} {dtype}[n, {', '.join(map(str, shape))}]" for name, (shape, dtype) in shapes[0])


def _checksum(block: PyTree) -> int:
    """Of the bytes of all leaves; a changed batch goes unnoticed once in four billion times."""
    value = 0
    for x in jax.tree.leaves(block):
        value = zlib.crc32(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data, value)
    return value


def _check_same(known: Survey, index: int, size: int, digest: int) -> None:
    if index >= len(known.sizes):
        raise ValueError(f"the data have more than the {len(known.sizes)} batches of the first pass; {_AGAIN}")
    if size != known.sizes[index] or digest != known.digests[index]:
        raise ValueError(f"batch {index} is not the one that the first pass saw; {_AGAIN}")


def _check_number(known: Survey | None, number: int) -> None:
    if known is not None and number < len(known.sizes):
        raise ValueError(
            f"the data ended after {number} of {len(known.sizes)} batches; {_AGAIN}: does the function make a new "
            "iterator each time?"
        )
    if number == 0:
        raise ValueError("Batches gave no batch at all: there is nothing to take a mean over")
