"""What operators of PyTorch mean in JAX: one table, by the names of core ATen."""

from landscape.bridges._aten import _arithmetic as _arithmetic
from landscape.bridges._aten import _layers as _layers
from landscape.bridges._aten import _recurrent as _recurrent
from landscape.bridges._aten import _reductions as _reductions
from landscape.bridges._aten import _shapes as _shapes
from landscape.bridges._aten import _windows as _windows
from landscape.bridges._aten._table import OPERATORS as OPERATORS
from landscape.bridges._aten._table import as_dtype as as_dtype
from landscape.bridges._aten._table import find as find
from landscape.bridges._aten._table import operator as operator
