"""Early exits on a net: heads at named points of it, and the net in parts between them (see ``exit_criteria.policy``).

The edit ``{"exits": {"points": {module: head}, "side": [...], "dtypes": {module: name}, "inputs": 2}}`` puts them there
(of one input ``inputs`` is left out); the net keeps its class's forward and all its names. In training its outputs carry
each exit's logits as taps ``exit0``, ``exit1`` …; in evaluation it answers by its last layer, as before. That rows
really leave is a matter of the parts, cut out of the traced graph.

A head whose class has ``TAKES``, e.g. ``(1,)``, is called with the value and those of the net's inputs too, counted from
0: a mask. A net that can't be traced may have a method ``in_layers()``, see ``Layers``.
"""

from __future__ import annotations

import contextlib
import copy
import fnmatch
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from compressbench import specs
from compressbench.errors import UserError, nearest
from compressbench.exit_criteria.policy import POLICY, Part, compacted, everything, policy_of
from compressbench.inputs import rows
from compressbench.models.tracing import Tracer
from compressbench.outputs import Outputs, forward, tensors_of
from compressbench.state import State

EXIT = "exit"
EXITS = "exits"
AGREE = 1e-3
DTYPES = {"float64": torch.float64, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""Of a head, where it isn't float32, by the name that an edit has."""


class Layers(NamedTuple):
    """How a net that can't be traced is cut: what its method ``in_layers()`` gives; all share the net's modules.

    What is carried, e.g. a mask that is prepared once, are tensors with a row for each example.

    Attributes:
        before: the net's inputs to (hidden, *carried).
        layers: by their paths in the net, (hidden, *carried) to hidden.
        after: (hidden, *carried) to logits.
    """

    before: Callable[..., Sequence[Tensor]]
    layers: Mapping[str, Callable[..., Tensor]]
    after: Callable[..., Tensor]


class Exiting(nn.Module):
    """What a net with exits is beside its own class; ``attach`` makes one of any module."""

    exits: nn.ModuleList

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The net's own answer; in training, or inside ``every_exit``, ``Outputs`` with each exit's logits too.

        What else the net returns, as heads of its training, is among the taps as ``beside0`` …
        """
        if not (self.training or self.__dict__.get("_every")):
            return super().forward(*args, **kwargs)
        said: dict[str, Tensor] = {}

        given = (*args, *kwargs.values())

        def answer(place: int, value: Any) -> None:
            head = self.exits[place]
            said[f"{EXIT}{place}"] = head(_hidden(value), *(given[k] for k in takes(head)))

        handles = [
            self.get_submodule(point).register_forward_hook(lambda _, __, value, k=k: answer(k, value))
            for k, point in enumerate(self.__dict__["_points"])
        ]
        try:
            result = super().forward(*args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()
        found = forward(lambda _: result, args[0])
        heads = (
            [] if isinstance(result, Outputs) else [t for t in tensors_of(result) if t is not found.logits]
        )
        return Outputs(found.logits, {**found.taps, **{f"beside{k}": t for k, t in enumerate(heads)}, **said})

    def parts(self) -> list[nn.Module]:
        """The net between its exits, in evaluation mode; they share its layers."""
        layers, points = layers_of(self), self.__dict__["_points"]
        if layers is not None:
            return _cut_layers(self.exits, layers, points)
        graph, gave = _traced(self, self.__dict__["_inputs"])
        return _cut(self, graph, gave, points, self.__dict__["_side"])

    def exit_names(self) -> list[str]:
        """What each exit is called, the last one too."""
        return [*self.__dict__["_points"], "last"]


_KINDS: dict[type[nn.Module], type[nn.Module]] = {}


def attach(module: nn.Module, content: Mapping[str, Any]) -> nn.Module:
    """The same module, with heads as an edit says; drawn from torch's generator, in order.

    Raises:
        UserError: malformed content, no such point, or exits are there already.
    """
    points, side, inputs = content.get("points"), content.get("side", []), content.get("inputs", 1)
    # In a composite's spec the edits are arguments, and the heads were built with the members.
    if (
        not isinstance(points, Mapping)
        or not points
        or not all(isinstance(h, nn.Module) or specs.is_spec(h) for h in points.values())
    ):
        raise UserError("edits: exits.points is a mapping of modules to heads")
    if not isinstance(side, list | tuple) or not all(isinstance(s, str) for s in side):
        raise UserError("edits: exits.side is a list of names")
    if type(inputs) is not int or inputs < 1:
        raise UserError("edits: exits.inputs is how many inputs the forward takes")
    dtypes = content.get("dtypes", {})
    if not isinstance(dtypes, Mapping) or not set(dtypes.values()) <= set(DTYPES):
        raise UserError(f"edits: exits.dtypes is a mapping of points to {', '.join(DTYPES)}")
    if isinstance(module, Exiting):
        raise UserError("exits: the net has exits already")
    if hasattr(module, EXITS):
        raise UserError(f"exits: {type(module).__name__} has something called {EXITS!r} of its own")
    for point in points:
        _known(module, point)
    heads = [
        head if isinstance(head, nn.Module) else specs.build(head, f"edits.exits.{point}")
        for point, head in points.items()
    ]
    for head, point in zip(heads, points, strict=True):
        if any(not 0 <= k < inputs for k in takes(head)):
            raise UserError(
                f"exits: the head at {point} reads input {max(takes(head)) + 1} of the net, a mask, and it has "
                f"{inputs}; heads for texts go with nets for texts"
            )
        if point in dtypes:
            head.to(DTYPES[dtypes[point]])
    kind = type(module)
    if kind not in _KINDS:
        _KINDS[kind] = type(f"Exiting{kind.__name__}", (Exiting, kind), {})
    module.__class__ = _KINDS[kind]
    module.exits = nn.ModuleList(heads)
    module.__dict__["_points"], module.__dict__["_side"] = tuple(points), tuple(side)
    module.__dict__["_inputs"] = inputs
    return module


def takes(head: nn.Module) -> tuple[int, ...]:
    """Which of the net's inputs a head reads beside the value at its point."""
    return tuple(getattr(head, "TAKES", ()))


def layers_of(module: nn.Module) -> Layers | None:
    """How a net says that it is cut; None where it is traced."""
    make = getattr(module, "in_layers", None)
    return None if make is None else Layers(*make())


def _hidden(value: Any) -> Any:
    """What a point's module gave; of layers that give a tuple the first."""
    return value[0] if isinstance(value, tuple) and value else value


def alone(module: nn.Module) -> nn.Module:
    """The same module, without the exits that it may have: what answers by its last layer."""
    if isinstance(module, Exiting):
        module.__class__ = type(module).__bases__[1]
        del module.exits
    return module


def last_alone(state: State) -> State:
    """The state without its exits: the net that answers by its last layer, and no weight beside it."""
    if not any(EXITS in edit for edit in state.edits):
        return state

    def others(named: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in named.items() if not name.startswith(f"{EXITS}.")}

    edits = []
    for edit in state.edits:
        ((kind, content),) = edit.items()
        if kind == EXITS:
            continue
        whole = others(content) if isinstance(content, Mapping) else list(others(dict.fromkeys(content)))
        if whole:
            edits.append({kind: whole})
    tensors = {group: others(named) for group, named in state.tensors.items()}
    policies = {name: value for name, value in state.policies.items() if name != POLICY}
    made = replace(state, edits=tuple(edits), policies=policies, key="").with_groups(**tensors)
    return made.with_facts(prunable=others(state.facts.get("prunable", {})))


@contextlib.contextmanager
def every_exit(module: nn.Module) -> Iterator[None]:
    """Inside, a net with exits, or a cascade, computes all of them in evaluation mode too; others are as they are."""
    if not hasattr(module, "parts"):
        yield
        return
    before = module.__dict__.get("_every", False)
    module.__dict__["_every"] = True
    try:
        yield
    finally:
        module.__dict__["_every"] = before


def deep_loss(task: Any, module: nn.Module, run: Any, inputs: Sequence[Tensor], labels: Any) -> Tensor:
    """The task's loss, of a net with exits the mean over all of them; ``run`` is the module, or what stands for it."""
    with every_exit(module):
        found = forward(run, *inputs)
    early = [tensor for name, tensor in found.taps.items() if name.startswith(EXIT)]
    losses = [task.loss(Outputs(logits), labels) for logits in (found.logits, *early)]
    total: Tensor = sum(losses[1:], losses[0]) / len(losses)
    return total


class ByPolicy(nn.Module):
    """A net that answers by its policy, its parts prepared for speed; rows that are done leave the batch."""

    def __init__(self, parts: Sequence[Part], policies: Mapping[str, Any]) -> None:
        super().__init__()
        policy = policy_of(policies)
        assert policy is not None
        self.parts, self.policy = list(parts), policy
        self.training = False

    def forward(self, *inputs: Tensor) -> Tensor:
        """The net's inputs to logits (n, classes)."""
        return compacted(self.parts, self.policy, *inputs).logits


def parts_of(module: nn.Module) -> list[nn.Module]:
    """A module's parts.

    Raises:
        UserError: it has none: no exits, and it is no cascade.
    """
    made = getattr(module, "parts", None)
    if made is None:
        raise UserError(
            f"exits: {type(module).__name__} has no exits; put an exits/attach or exits/cascade stage before this one"
        )
    found: list[nn.Module] = made()
    return found


def exit_names(module: nn.Module) -> list[str]:
    """What each exit of a net or cascade is called."""
    found: list[str] = module.exit_names()  # type: ignore[operator]
    return found


def prepared_parts(module: nn.Module, *sample: Tensor) -> list[nn.Module]:
    """The parts, each made ready for inference on what reaches it of a sample."""
    from compressbench.models.prepared import prepared

    ready: list[nn.Module] = []
    live: tuple[Tensor, ...] = sample
    with torch.no_grad():
        for part in parts_of(module):
            ready.append(prepared(part, *live))
            live = tuple(part(*live)[1:])
    return ready


def places(
    module: nn.Module, points: Sequence[str], side: Sequence[str], sample: Sequence[Tensor]
) -> dict[str, Tensor]:
    """The value at each point, of the sample's rows, in the order in which a forward comes by.

    Args:
        side: names, or globs of names, of values that may be alive beside the point's own and are compacted along;
            inputs beside the first, and what is computed of these alone, need no name.

    Raises:
        UserError: the net can't be traced; a point isn't there, is no cut, or lies after the output layer.
    """
    for point in points:
        _known(module, point)
    layers = layers_of(module)
    if layers is not None:
        return _places_of(layers, points, sample)
    graph, gave = _traced(module, len(sample))
    for point in points:
        if point not in gave:
            raise UserError(f"exits: {point} gives no single tensor in the forward, or runs more than once")
    order = {node: k for k, node in enumerate(graph.nodes)}
    ordered = sorted(points, key=lambda p: order[gave[p]])
    for one, other in itertools.pairwise(ordered):
        if gave[one] is gave[other]:
            raise UserError(f"exits: {one} and {other} are the same place of the net; name one of them")
    seen: dict[fx.Node, Any] = {}
    _Values(fx.GraphModule(module, graph), seen).run(*sample)
    values: dict[str, Tensor] = {}
    for point in ordered:
        value = seen.get(gave[point])
        if not isinstance(value, Tensor) or not value.ndim or len(value) != len(sample[0]):
            raise UserError(f"exits: the value at {point} is no tensor with a row for each example")
        if not value.is_floating_point():
            raise UserError(
                f"exits: the value at {point} is {str(value.dtype).removeprefix('torch.')}, no float"
            )
        values[point] = value
    for pattern in side:
        if not any(_named(node, gave, [pattern]) for node in graph.nodes):
            raise UserError(f"exits: side: {pattern} is the name of no value in the net")
    _segments(graph, gave, ordered, [*side, *_of_side_inputs(graph, len(sample))])
    return values


def _places_of(layers: Layers, points: Sequence[str], sample: Sequence[Tensor]) -> dict[str, Tensor]:
    for point in points:
        if point not in layers.layers:
            known = ", ".join(list(layers.layers)[:3])
            raise UserError(f"exits: {point} is no layer of this net; points are {known} …")
    if points and list(layers.layers)[-1] in points:
        raise UserError(
            f"exits: {list(layers.layers)[-1]} is the last layer: the net itself answers after it"
        )
    values = {}
    hidden, *carried = layers.before(*sample)
    for name, layer in layers.layers.items():
        hidden = layer(hidden, *carried)
        if name in points:
            values[name] = hidden
    return values


def check(module: nn.Module, drawn: Sequence[Tensor]) -> None:
    """Runs the parts on random rows, all of them and some, against the module itself.

    Args:
        drawn: three random examples, encoded.

    Raises:
        UserError: they don't agree: what is carried over an exit isn't one row for each example.
    """
    kept = torch.tensor([2, 0])
    with torch.no_grad():
        parts = parts_of(module.eval())
        own = forward(module, *drawn).logits
        wrong = _apart(everything(parts, *drawn)[-1], own)
        live = tuple(drawn)
        for place, part in enumerate(parts[:-1]):
            live = tuple(part(*live)[1:])
            wrong |= any(not t.ndim or len(t) != len(drawn[0]) for t in live)
            if wrong:
                break
            some = rows(live, kept)
            for later in parts[place + 1 :]:
                logits, *rest = later(*some)
                some = tuple(rest)
            wrong |= _apart(logits, own[kept])
    if wrong:
        raise UserError(
            "exits: the net in parts doesn't compute what it computes whole; what is carried over an exit must have one "
            "row for each example, and nothing may be changed in place after it"
        )


def _apart(one: Tensor, other: Tensor) -> bool:
    return float((one - other).abs().max()) > AGREE * float(other.abs().max())


def trainable(module: nn.Module, drawn: Sequence[Tensor]) -> None:
    """Takes one gradient of all exits, on a copy.

    Args:
        drawn: four random examples, encoded.

    Raises:
        UserError: there is none: what a head reads is changed in place afterwards.
    """
    probe = copy.deepcopy(module).train()
    try:
        with torch.enable_grad(), torch.random.fork_rng(devices=[]):
            found = probe(*drawn)
            sum(t.sum() for t in (found.logits, *found.taps.values())).backward()
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"exits: the net with exits has no gradient: {reason[:120]}; where a point's value is changed in place by "
            "what follows, name the module that follows"
        ) from error


def _known(module: nn.Module, point: str) -> None:
    names = [n for n, _ in module.named_modules() if n]
    if point not in names:
        raise UserError(f"exits: the model has no module {point!r}; {nearest(str(point), names)}")


class _Recording(Tracer):
    """A tracer that notes what each module gave, also of those that it looks into."""

    def __init__(self) -> None:
        super().__init__()
        self.gave: dict[str, fx.Node] = {}
        self.twice: set[str] = set()

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        result = super().call_module(m, forward, args, kwargs)
        name = self.path_of_module(m)
        if name in self.gave:
            self.twice.add(name)
        elif isinstance(result, fx.Proxy):
            self.gave[name] = result.node
        return result


def _traced(module: nn.Module, inputs: int) -> tuple[fx.Graph, dict[str, fx.Node]]:
    tracer = _Recording()
    kind = type(module)
    bare = kind.__bases__[1] if isinstance(module, Exiting) else kind
    own = list(inspect.signature(bare.forward).parameters.values())[1:]  # type: ignore[attr-defined]
    fixed = {p.name: p.default for p in own[inputs:] if p.default is not p.empty}
    module.__class__ = bare  # tracing goes by the class's forward
    try:
        graph = tracer.trace(module, concrete_args=fixed or None)
    except Exception as error:  # a user's forward may fail to trace in any way at all
        reason = [*str(error).splitlines(), type(error).__name__][0]
        raise UserError(
            f"exits: {kind.__name__} can't be traced: {reason[:160]}; a net with exits may not branch on its data, "
            "nor loop over a size of them; give the size in __init__"
        ) from error
    finally:
        module.__class__ = kind
    return graph, {name: node for name, node in tracer.gave.items() if name not in tracer.twice}


class _Values(fx.Interpreter):
    """Notes every node's value."""

    def __init__(self, module: fx.GraphModule, seen: dict[fx.Node, Any]) -> None:
        super().__init__(module)
        self.seen = seen

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        self.seen[n] = result
        return result


def _logits_node(graph: fx.Graph) -> fx.Node:
    """What the forward returns, or the logits in it (see ``outputs.forward``)."""
    value = next(n for n in reversed(graph.nodes) if n.op == "output").args[0]
    if isinstance(value, fx.Node) and value.op == "call_function" and isinstance(value.target, type):
        fields = getattr(value.target, "_fields", ())  # a named tuple's; a dataclass is given names
        value = {**dict(zip(fields, value.args, strict=False)), **value.kwargs} or value.args
        if isinstance(value, Mapping) and "logits" not in value and fields:
            value = tuple(value.values())
    if isinstance(value, Mapping):
        value = value.get("logits", value.get("out"))
    elif isinstance(value, tuple | list) and value:
        value = value[0]
    if not isinstance(value, fx.Node):
        raise UserError("exits: the net's logits can't be found in what it returns; return a tensor")
    return value


def _segments(
    graph: fx.Graph,
    gave: Mapping[str, fx.Node],
    points: Sequence[str],
    side: Sequence[str],
    reads: Sequence[Sequence[fx.Node]] = (),
) -> tuple[list[list[fx.Node]], list[list[fx.Node]]]:
    """(nodes of each part, in order; what is alive after each but the last, the point's own value first).

    Args:
        reads: inputs that the head at each point reads.

    Raises:
        UserError: a point is no cut, or lies after the output layer.
    """
    ends = [*(gave[p] for p in points), _logits_node(graph)]
    part: dict[fx.Node, int] = {}
    for place, end in enumerate(ends):
        todo = [end]
        while todo:
            node = todo.pop()
            if node not in part:
                part[node] = place
                todo += node.all_input_nodes
    bodies = [
        [n for n in graph.nodes if part.get(n) == k and n.op not in ("placeholder", "get_attr")]
        for k in range(len(ends))
    ]
    inputs = [n for n in graph.nodes if n.op == "placeholder"]
    alive: list[list[fx.Node]] = []
    for place, point in enumerate(points):
        needed = {i for n, k in part.items() if k > place for i in n.all_input_nodes}
        needed |= {n for later in reads[place + 1 :] for n in later}
        found = [
            n for n in graph.nodes if n in needed and n.op != "get_attr" and (n in inputs or part[n] <= place)
        ]
        own = gave[point]
        if own not in found:
            raise UserError(f"exits: {point} lies after the output layer: nothing of the net comes after it")
        others = [n for n in found if n is not own and not _named(n, gave, side)]
        if others:
            told = ", ".join(_told(n, gave) for n in others[:3])
            more = f" and {len(others) - 3} more" if len(others) > 3 else ""
            raise UserError(
                f"exits: {point} is no cut of the net: what comes after it needs {told}{more} too; choose a point "
                "between blocks, or name such values in side, to be compacted along"
            )
        alive.append([own, *(n for n in found if n is not own)])
    return bodies, alive


def _names(node: fx.Node, gave: Mapping[str, fx.Node]) -> list[str]:
    own = [name for name, n in gave.items() if n is node and name]
    return [*own, str(node.target) if node.op == "placeholder" else node.name]


def _of_side_inputs(graph: fx.Graph, inputs: int) -> list[str]:
    """Names of the inputs beside the first, and of what is computed of these alone, by no layer and no weight."""
    found = [n for n in graph.nodes if n.op == "placeholder"][1:inputs]
    for node in graph.nodes:
        made = node.op in ("call_function", "call_method") and node.all_input_nodes
        if made and all(n in found for n in node.all_input_nodes):
            found.append(node)
    return [str(n.target) if n.op == "placeholder" else n.name for n in found]


def _told(node: fx.Node, gave: Mapping[str, fx.Node]) -> str:
    """A value's name, and what it is where no module and no input is called so."""
    name = _names(node, gave)[0]
    own = node.op in ("call_function", "call_method") and name == node.name
    return f"{name} (what {getattr(node.target, '__name__', node.target)} gives)" if own else name


def _named(node: fx.Node, gave: Mapping[str, fx.Node], side: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for name in _names(node, gave) for pattern in side)


def _cut(
    module: nn.Module,
    graph: fx.Graph,
    gave: Mapping[str, fx.Node],
    points: Sequence[str],
    side: Sequence[str],
) -> list[nn.Module]:
    given = [n for n in graph.nodes if n.op == "placeholder"][: module.__dict__["_inputs"]]
    reads = [[given[k] for k in takes(head)] for head in module.exits]  # type: ignore[union-attr]
    own = [*side, *_of_side_inputs(graph, len(given))]
    bodies, alive = _segments(graph, gave, points, own, reads)
    last = _logits_node(graph)
    made: list[nn.Module] = []
    for place, body in enumerate(bodies):
        part = fx.Graph()
        env: dict[fx.Node, fx.Node] = {}

        def there(node: fx.Node, part: fx.Graph = part, env: dict[fx.Node, fx.Node] = env) -> fx.Node:
            if node not in env:
                env[node] = part.node_copy(node)  # a parameter that the forward reads outside of any layer
            return env[node]

        for node in given:
            env[node] = part.placeholder(node.name)
        for node in body:
            env[node] = part.node_copy(node, there)
        if place == len(alive):
            part.output((there(last),))
        else:
            read = (alive[place][0], *reads[place])
            head = part.call_module(f"{EXITS}.{place}", tuple(map(there, read)))
            part.output((head, *map(there, alive[place])))
            given = alive[place]
        made.append(fx.GraphModule(module, part).eval())
    return made


class _Stretch(nn.Module):
    """A part of a net in layers: the ones from one exit to the next, and the head there or the net's own.

    Args:
        before: what comes before the first layer, in the first part.
        reads: inputs that the head reads; None for the net's own.
        given: how many of the net's inputs beside its first come in after what is carried.
        passed: how many of these go on.
    """

    def __init__(
        self,
        before: Callable[..., Sequence[Tensor]] | None,
        layers: Sequence[Callable[..., Tensor]],
        head: Callable[..., Tensor],
        reads: Sequence[int] | None,
        given: int,
        passed: int,
    ) -> None:
        super().__init__()
        self.before, self.head, self.reads = before, head, reads
        self.given, self.passed = given, passed
        modules = [layer for layer in layers if isinstance(layer, nn.Module)]
        self.layers = nn.ModuleList(modules) if len(modules) == len(layers) else list(layers)

    def forward(self, *live: Tensor) -> tuple[Tensor, ...]:
        """Inputs, or (hidden, *carried, *inputs that heads read), to (logits, what goes on)."""
        if self.before is None:
            hidden, *carried = live[: len(live) - self.given]
            inputs = live[len(live) - self.given :]
        else:
            hidden, *carried = self.before(*live)
            inputs = live[1:]
        for layer in self.layers:
            hidden = layer(hidden, *carried)
        if self.reads is None:
            return (self.head(hidden, *carried),)
        said = self.head(hidden, *(inputs[k - 1] for k in self.reads))
        return (said, hidden, *carried, *inputs[: self.passed])


def _cut_layers(heads: nn.ModuleList, layers: Layers, points: Sequence[str]) -> list[nn.Module]:
    """The parts; inputs beside the first go along as far as a head reads them."""
    made: list[nn.Module] = []
    own: list[Callable[..., Tensor]] = []
    before: Callable[..., Sequence[Tensor]] | None = layers.before
    needed = [
        max((k for head in heads[place:] for k in takes(head)), default=0) for place in range(len(heads) + 1)
    ]
    for name, layer in layers.layers.items():
        own.append(layer)
        if name in points:
            place = len(made)
            head, passed = heads[place], needed[place + 1]
            made.append(_Stretch(before, own, head, takes(head), needed[place], passed).eval())
            before, own = None, []
    made.append(_Stretch(before, own, layers.after, None, 0, 0).eval())
    return made
