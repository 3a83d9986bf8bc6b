"""From a PyTorch module to a `Graph`: what `torch.export` gives, in core ATen, written down as plain data."""

import contextlib
import io
import operator
import warnings
from collections.abc import Generator, Mapping, Sequence
from typing import Any

import torch

from landscape.bridges import _aten
from landscape.bridges._graph import Graph, Instruction, Ref

KEPT = (  # operators that are computed as they are and not taken apart
    "linear.default", "scaled_dot_product_attention.default", "lstm.input", "gru.input", "rnn_tanh.input",
    "rnn_relu.input",
)  # fmt: skip
DROPPED = {"device", "layout", "pin_memory", "memory_format", "generator", "non_blocking", "sorter"}
RANDOM = ("rand", "bernoulli", "native_dropout", "normal", "multinomial", "uniform", "exponential")


class UnsupportedOperator(NotImplementedError):
    """A model holds operators that the table does not have."""


def export(wrapper: torch.nn.Module, leaves: Sequence[torch.Tensor], names: Mapping[str, str]) -> Graph:
    """The graph of a module that takes tensors and returns a list of them.

    Args:
        wrapper: the module.
        leaves: examples of its inputs, whose shapes become part of the graph.
        names: what parameters and buffers are called, by their names in the wrapper; others become constants.

    Raises:
        UnsupportedOperator: an operator is not in the table.
        ValueError: `torch.export` cannot trace the module.
    """
    with torch.no_grad(), _in_silence():
        try:
            program = torch.export.export(wrapper, tuple(leaves), strict=False)
            program = program.run_decompositions(_decompositions())
        except Exception as error:
            raise ValueError(_untraceable(error)) from error
    return _Writer(program, names).graph()


@contextlib.contextmanager
def _in_silence() -> Generator[None]:
    """PyTorch prints the whole graph of what it cannot trace; the error says it in a few lines."""
    nowhere = io.StringIO()
    with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _untraceable(error: Exception) -> str:
    said = str(error).strip().split("\n\n")[0][:600]
    return (
        f"torch.export cannot trace the module: {type(error).__name__}: {said} "
        "A forward pass whose course depends on values (if x.sum() > 0, .item(), .nonzero()) has no fixed graph: write "
        "it with torch.where, or move it out of the module and give its result in the data"
    )


def _decompositions() -> Any:
    table = torch.export.default_decompositions()
    for name in KEPT:
        packet, overload = name.split(".")
        table.pop(getattr(getattr(torch.ops.aten, packet), overload), None)
    return table


class _Writer:
    """Numbers the values of an exported program."""

    def __init__(self, program: Any, names: Mapping[str, str]) -> None:
        self.program, self.names = program, names
        self.numbers: dict[Any, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.unknown: dict[tuple[str, str], None] = {}

    def graph(self) -> Graph:
        weights, constants, inputs = self._inputs()
        nodes = [node for node in self.program.graph.nodes if node.op == "call_function" and node.users]
        instructions = tuple(self._instruction(node) for node in nodes)
        if self.unknown:
            raise UnsupportedOperator(_unsupported(list(self.unknown)))
        outputs, updates = self._outputs()
        return Graph(weights, self.shapes, constants, inputs, instructions, outputs, updates)

    def _number(self, node: Any) -> int:
        return self.numbers.setdefault(node, len(self.numbers))

    def _inputs(self) -> tuple[dict[str, int], dict[int, Any], tuple[int | None, ...]]:
        weights: dict[str, int] = {}
        constants, inputs = {}, []
        placeholders = {node.name: node for node in self.program.graph.nodes if node.op == "placeholder"}
        for spec in self.program.graph_signature.input_specs:
            node = placeholders[spec.arg.name]
            if spec.target is None:
                inputs.append(self._number(node) if node.users else None)
            elif node.users and spec.target in self.names:
                number = weights.setdefault(self.names[spec.target], self._number(node))
                self.numbers[node], self.shapes[self.names[spec.target]] = number, tuple(node.meta["val"].shape)
            elif node.users:
                constants[self._number(node)] = to_numpy(self._constant(spec.target))
        return weights, constants, tuple(inputs)

    def _constant(self, target: str) -> Any:
        program = self.program
        return program.state_dict[target] if target in program.state_dict else program.constants[target]

    def _outputs(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        (result,) = next(node for node in self.program.graph.nodes if node.op == "output").args
        outputs, updates = [], {}
        for spec, value in zip(self.program.graph_signature.output_specs, result):
            if spec.kind.name == "USER_OUTPUT":
                outputs.append(self._value(value))
            elif spec.kind.name == "BUFFER_MUTATION" and spec.target in self.names:
                updates[self.names[spec.target]] = self._value(value)
        return tuple(outputs), updates

    def _instruction(self, node: Any) -> Instruction:
        where = _module_path(node)
        if node.target is operator.getitem:
            return Instruction("getitem", tuple(map(self._value, node.args)), {}, self._number(node), where)
        name = str(node.target).removeprefix("aten.")
        arguments, options = _by_schema(node)
        if name.startswith("_to_copy") and _keeps_type(node):
            name, options = "alias.default", {}
        if _aten.find(name) is None:
            self.unknown[str(node.target), where] = None
        options = {key: self._value(value) for key, value in options.items()}
        return Instruction(name, tuple(map(self._value, arguments)), options, self._number(node), where)

    def _value(self, value: Any) -> Any:
        """An argument as plain data."""
        if isinstance(value, torch.fx.Node):
            return Ref(self._number(value))
        if isinstance(value, list | tuple):
            return [self._value(part) for part in value]
        if isinstance(value, torch.dtype):
            return str(value).removeprefix("torch.")
        return value


def _by_schema(node: Any) -> tuple[list[Any], dict[str, Any]]:
    """Arguments in the order of the operator's schema with defaults filled in; those by keyword where given."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return list(node.args), dict(node.kwargs)
    arguments, options = [], {}
    for place, argument in enumerate(schema.arguments):
        given = node.args[place] if place < len(node.args) else node.kwargs.get(argument.name)
        if argument.name in DROPPED:
            continue
        if argument.kwarg_only:
            options |= {} if given is None else {argument.name: given}
        elif place >= len(node.args) and argument.name not in node.kwargs:
            arguments.append(argument.default_value)
        else:
            arguments.append(given)
    return arguments, options


def _keeps_type(node: Any) -> bool:
    """Whether a conversion changes nothing: computed in a wider type than PyTorch's, it shall not narrow either."""
    before, after = node.args[0].meta.get("val"), node.meta.get("val")
    return before is not None and after is not None and before.dtype == after.dtype


def _module_path(node: Any) -> str:
    """Where in the model a node comes from, as `encoder.layers.0 (Conv2d)`."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    if not stack:
        return "the loss"
    path, kind = stack[-1]
    path = path.removeprefix("module").removeprefix(".")
    kind = kind if isinstance(kind, str) else kind.__qualname__
    return f"{path or 'the module itself'} ({kind.rpartition('.')[2]})"


def _unsupported(found: list[tuple[str, str]]) -> str:
    listed = "; ".join(f"{name} in {where}" for name, where in found[:8])
    more = f" and {len(found) - 8} more" if len(found) > 8 else ""
    if any(name.removeprefix("aten.").startswith(RANDOM) for name, _ in found):
        advice = "random numbers must be the same at all points of a picture: draw them once and put them into the data"
    else:
        advice = (
            'write what it computes in JAX and enter it by @ls.bridges.torch.operator("name") (without "aten."), or '
            "compute this part in other operators (transformers: attn_implementation='eager', experts_implementation="
            "'eager')"
        )
    return f"the bridge from PyTorch has no operator {listed}{more}; {advice}"


def to_numpy(tensor: torch.Tensor) -> Any:
    """A copy of the values, so that what PyTorch does in place later does not reach them; bfloat16 too."""
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        import ml_dtypes

        return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16).copy()
    return tensor.numpy().copy()
