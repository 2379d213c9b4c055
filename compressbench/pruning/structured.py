"""Structured pruning: channels and whole blocks taken out of a net, not merely set to zero.

Which tensors lose what together is read by Torch-Pruning (Fang et al., CVPR 2023) from a traced copy in which every
tensor holds its own positions; what comes out is data (``models.cutting``), and the net itself is rebuilt from that.
"""

from __future__ import annotations

import copy
import fnmatch
import functools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from compressbench import specs
from compressbench.bench import Bench
from compressbench.criteria.given import Given, Saliency
from compressbench.errors import UserError
from compressbench.hardware.target import Lowered, Unsupported
from compressbench.inputs import Inputs
from compressbench.masks import masked
from compressbench.models.build import module_of, prunable, shortened
from compressbench.models.counting import count
from compressbench.models.cutting import Cut, Edit, cut_groups, cut_module
from compressbench.models.quantized import unrounded
from compressbench.models.reached import Ways, ways_of
from compressbench.outputs import forward
from compressbench.pruning.unstructured import saying_what_stays, scored
from compressbench.state import State

if TYPE_CHECKING:
    from compressbench.stages.shrink import Blocks, Channels

INSIDE = "inside: true removes channels only within blocks"
MACS_STEPS = 12
LATENCY_STEPS = 6
AGREE = 1e-3
ENDS = ("out", "in")

# Operations in which leaving a channel out differs from setting it to zero (a softmax over channels, a group norm), so
# that channels that reach them are never cut. Among them convolutions called as functions, whose kernels are computed.
_MIXING = ("Bmm", "Softmax", "NativeGroupNorm", "NativeLayerNorm", "ConvolutionBackward")
_PLAIN = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._NormBase, nn.PReLU)
_SUMS = ("AddBackward", "SubBackward", "ConstantPad")


class Unsound(UserError):
    """A net can't be cut in this way."""


# A user's net may fail to trace, or run, in any way at all; the answer is the same one line.
_ANYTHING = Exception


@dataclass(frozen=True)
class Coupled:
    """Channels that live and die together: those of a layer, and of all that are summed or concatenated with it.

    Attributes:
        root: module that produces them.
        channels: how many.
        scores: (units,); a unit is a channel or, where grouped convolutions read them, one of every group.
        others: further modules whose channels of the same numbers go with them, since they share a weight.
        readers: which layers read them: (module, its input channels, which of these channels each of them is).
    """

    root: str
    channels: int
    scores: Tensor
    others: tuple[str, ...] = ()
    readers: tuple[tuple[str, Tensor, Tensor], ...] = ()

    def places(self, units: Sequence[int]) -> list[int]:
        """The channels of some units."""
        step = len(self.scores)
        return sorted(place for unit in units for place in range(unit, self.channels, step))


Removed = tuple[tuple[int, ...], ...]


def channels(state: State, bench: Bench, settings: Channels) -> State:
    """Applies a ``stages.shrink.Channels``.

    Raises:
        UserError: the net can't be traced or has no channels that can go, the target is out of reach, or the
            net without them doesn't compute what it computes with them set to zero.
    """
    module, sample = module_of(state), _drawn(bench)
    given, saliency = scored(state, bench, specs.build(settings.criterion, "criterion"))
    ways = ways_of(module.eval(), sample)
    coupled, others = _coupled(module, sample, ways, _counted(given, saliency), settings.inside)
    flags = [f"channels left, {why}" for why in others]
    try:
        result, chosen = _cut(state, bench, settings, (given, saliency), module, ways, coupled)
    except Unsound:
        sound, why = _each_sound(module, sample, ways, coupled)
        if not sound or len(sound) == len(coupled):
            raise
        flags.append(f"channels left, {why}")
        result, chosen = _cut(state, bench, settings, (given, saliency), module, ways, sound)
    for flag in flags:
        bench.say(f"{bench.name}: {flag}")
    result = result.with_facts(flags=[*state.facts.get("flags", []), *flags, *chosen])
    return saying_what_stays(result, bench)


def _cut(
    state: State,
    bench: Bench,
    settings: Channels,
    judged: tuple[Given, Saliency],
    module: nn.Module,
    ways: Ways,
    coupled: Sequence[Coupled],
) -> tuple[State, list[str]]:
    """(the state without the lowest channels of some groups, what is to be said of how they were chosen)."""
    (given, saliency), sample, hint = judged, _drawn(bench), _hint(settings.inside)

    def edit_of(removed: Removed) -> Edit:
        return _edit(module, sample, ways, coupled, removed, hint)

    def macs_of(removed: Removed) -> float:
        small = _thinned(module, edit_of(removed), sample, hint)
        return count(small, bench.task.blank(1)).macs / state.facts["forward_macs"]

    base = state.settled()
    flags: list[str] = []
    if settings.macs is not None:
        removed = _reach(macs_of, coupled, settings.how, settings.macs, "MACs", MACS_STEPS, refine=True)
    elif settings.latency is not None:
        assert settings.target is not None
        ratio, runtime = _timed(base, bench, settings.target, module, edit_of, hint)
        removed = _reach(ratio, coupled, settings.how, settings.latency, "latency", LATENCY_STEPS)
        flags = [f"channels chosen by a measured latency ({runtime}): another measurement may choose others"]
    else:
        assert settings.fraction is not None
        removed = lowest(coupled, settings.how, settings.fraction)
    edit = edit_of(removed)
    if saliency.compensate is not None:
        masks = {n: m & _kept(edit["cut"].get(n, {}), m) for n, m in given.masks.items()}
        base = base.with_groups(weights={**base.weights, **saliency.compensate(masks)})
        module = module_of(base)
    _verify(module, _thinned(module, edit, sample, hint), edit["cut"], sample, hint)
    return (edited(base, [edit], bench) if edit["cut"] else base), flags


def separate(module: nn.Module, sample: Inputs) -> tuple[list[Coupled], list[str]]:
    """(groups of channels of which any can be left out of a net, with what reads them; why others can't).

    Args:
        module: in evaluation mode.
        sample: inputs of two examples.

    Raises:
        UserError: the net can't be traced, or has no such channels.
    """
    ways = ways_of(module, sample)
    alike = {name: torch.ones(w.shape, dtype=torch.float64) for name, w in prunable(module).items()}
    coupled, why = _coupled(module, sample, ways, alike, inside=False)
    if _are_sound(module, sample, ways, coupled):
        return coupled, why
    sound, others = _each_sound(module, sample, ways, coupled)
    if not sound:
        raise Unsound(f"{type(module).__name__} has no channels that can be removed: without them it differs")
    return sound, [*why, others]


def _each_sound(
    module: nn.Module, sample: Inputs, ways: Ways, coupled: Sequence[Coupled]
) -> tuple[list[Coupled], str]:
    """(those of some groups that can each be thinned while all else stays; why the others can't)."""
    sound = [c for c in coupled if _are_sound(module, sample, ways, [c])]
    left = [c.root for c in coupled if c not in sound]
    return sound, f"without them the net would differ or not run: {shortened(left)}"


def _are_sound(module: nn.Module, sample: Inputs, ways: Ways, groups: Sequence[Coupled]) -> bool:
    """Whether half of the channels of some groups can go, all else staying."""
    try:
        edit = _edit(module, sample, ways, groups, lowest(groups, "uniform", 0.5), "")
        _verify(module, _thinned(module, edit, sample, ""), edit["cut"], sample, "")
    except Unsound:
        return False
    return True


def _hint(inside: bool) -> str:
    """What to do where a net can't be cut like this; not what was done already."""
    return "prune single weights of such a net" if inside else INSIDE


def blocks(state: State, bench: Bench, settings: Blocks) -> State:
    """Applies a ``stages.shrink.Blocks``.

    Raises:
        UserError: nothing can be left out, or the net doesn't run without it.
    """
    module, sample = module_of(state), _drawn(bench)
    given, saliency = scored(state, bench, specs.build(settings.criterion, "criterion"))
    scores = _counted(given, saliency)
    found = candidates(module, sample, settings.blocks)
    if not found:
        where = f" that {settings.blocks!r} fits" if settings.blocks else ""
        raise UserError(
            f"blocks: no layer or block{where} gives back the shape that it takes; none can be left out"
        )
    rank = {
        path: float(torch.cat([scores[n].reshape(-1) for n in inner]).mean()) for path, inner in found.items()
    }
    gone = sorted(found, key=lambda path: rank[path])[: round(settings.fraction * len(found))]
    if len({n for path in gone for n in found[path]}) == len(given.weights):
        raise UserError(
            f"fraction: {settings.fraction} would leave no weight at all; a smaller one is wanted"
        )
    base = state.settled()
    if not gone:
        return base
    edit = {"drop": [path for path in found if path in gone]}
    _thinned(module, edit, sample, "choose others by blocks: PATTERN")
    return edited(base, [edit], bench)


def edited(state: State, edits: Sequence[Edit], bench: Bench) -> State:
    """The state with edits made to its module and to all its tensors; sizes, MACs and density among its facts."""
    new = replace(
        state, tensors=cut_groups(state.tensors, edits), edits=(*state.edits, *edits), key=""
    ).with_groups()
    module = module_of(new)
    new = new.with_facts(
        prunable={name: p.numel() for name, p in prunable(module).items()},
        forward_macs=count(module, bench.task.blank(1)).macs,
    )
    return masked(new, new.masks)


def lowest(coupled: Sequence[Coupled], how: str, fraction: float) -> Removed:
    """The units that go from each group; at least one stays. More of a fraction takes the same ones and more.

    Args:
        how: ``uniform``, the same share of each group; or ``global``, one pool, each group's scores divided by
            their mean.
    """
    orders = [torch.sort(c.scores, stable=True).indices.tolist() for c in coupled]
    if how == "uniform":
        counts = [min(round(fraction * len(o)), len(o) - 1) for o in orders]
    else:
        pool = sorted(
            (float(_normal(c)[unit]), group, rank)
            for group, (c, order) in enumerate(zip(coupled, orders, strict=True))
            for rank, unit in enumerate(order[:-1])
        )
        total = sum(map(len, orders))
        counts = [0] * len(orders)
        for _, group, _ in pool[: round(fraction * total)]:
            counts[group] += 1
    return tuple(tuple(sorted(o[:n])) for o, n in zip(orders, counts, strict=True))


def candidates(module: nn.Module, sample: Inputs, pattern: str | None) -> dict[str, list[str]]:
    """Outermost parts that give back the shape they take and hold prunable weights, with the names of these.

    A ``Sequential`` that is a row of such parts is looked into: its parts are the blocks.

    Args:
        pattern: a glob over module names, None for all.
    """
    same: dict[nn.Module, bool] = {}

    def note(part: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        alike = len(inputs) == 1 and isinstance(inputs[0], Tensor) and isinstance(output, Tensor)
        same[part] = alike and inputs[0].shape == output.shape and part not in same

    handles = [part.register_forward_hook(note) for part in module.modules() if part is not module]
    try:
        with torch.no_grad():
            forward(module.eval(), *sample)
    finally:
        for handle in handles:
            handle.remove()
    weights = list(prunable(module))
    fit = {
        name: inner
        for name, part in module.named_modules()
        if same.get(part)
        and (pattern is None or fnmatch.fnmatchcase(name, pattern))
        and (inner := [w for w in weights if w.startswith(f"{name}.")])
    }
    rows = {
        name
        for name in fit
        if isinstance(part := module.get_submodule(name), nn.Sequential)
        and all(f"{name}.{child}" in fit for child, _ in part.named_children())
    }
    fit = {name: inner for name, inner in fit.items() if name not in rows}
    return {n: inner for n, inner in fit.items() if not any(n.startswith(f"{other}.") for other in fit)}


def _counted(given: Given, saliency: Saliency) -> dict[str, Tensor]:
    """Scores as float64, what is masked already counting nothing."""
    scores = {n: torch.where(given.masks[n], s.double(), 0.0) for n, s in saliency.scores.items()}
    for name, score in scores.items():
        if not bool(score.isfinite().all()):
            raise UserError(f"criterion: a score of {name} is no finite number")
    return scores


def _coupled(
    module: nn.Module, sample: Inputs, ways: Ways, scores: Mapping[str, Tensor], inside: bool
) -> tuple[list[Coupled], list[str]]:
    """(the groups of channels of a net that may be thinned, in the order of the tracing; why others may not)."""
    traced = copy.deepcopy(module)
    groups: list[_Group] = []
    shared = _sharing(traced)
    for layers in shared:  # layers with one weight have one score, under the first one's name
        known = {f"{layer}.weight": scores.get(f"{layers[0]}.weight") for layer in layers}
        scores = {**scores, **{name: score for name, score in known.items() if score is not None}}
    graph = _graph(traced, sample, ways)
    endless: list[str] = []
    made_up: list[str] = []
    with _telling("can't be followed", _hint(inside)):
        names = {part: name for name, part in traced.named_modules()}
        for root, group in _followed(graph):
            if group is None:
                endless.append(names[root])
                continue
            made = None
            parts = [item.dep.target.module for item in group]
            own = [names[p] for p in parts if p in names and parametrize.is_parametrized(p)]
            made_up += [n for n in own if n not in made_up]
            if not own and _separable(group, graph, inside):
                size = len(group[0].idxs)
                units = _scored(group, graph, names, scores, size)
                if units is not None and len(units) > 1:
                    made = Coupled(names[root], size, units, readers=_readers(group, graph, names))
            groups.append(_Group(made, _sides(group, graph, names)))
    found, apart = _tied(groups, shared)
    why = ([f"their layers share a weight that can't be cut alike: {shortened(apart)}"] if apart else []) + (
        [f"what depends on them can't be followed: {shortened(endless)}"] if endless else []
    )
    if made_up:
        why += [
            f"a weight that they meet is computed: {shortened(made_up)}; "
            "+model.remove_parametrizations=true makes it plain"
        ]
    if not found:
        raise UserError(
            f"{type(module).__name__} has no channels that can be removed"
            + (" inside its blocks" if inside else "")
            + (f": {'; '.join(why)}" if why else "; prune single weights of such a net")
        )
    return found, why


def _followed(graph: Any) -> Iterator[tuple[nn.Module, Any]]:
    """Each layer whose channels were in no group before, and the group of all that depend on them.

    None for a group where the tracing fails, or goes round for ever: Torch-Pruning takes a rearranging of values (a
    window, a roll) for one of channels, and counts other channels each time that it comes by.
    """
    seen: set[nn.Module] = set()
    for root in [part for part in graph.module2node if isinstance(part, _PLAIN[:2])]:
        if root in seen:
            continue
        prune = graph.get_pruner_of_module(root).prune_out_channels
        try:
            with _bounded(graph):
                group = graph.get_pruning_group(root, prune, range(graph.get_out_channels(root)))
        except _ANYTHING:  # it fails in many ways on layers that it doesn't know, as recurrent ones
            yield root, None
            continue
        seen |= {
            item.dep.target.module for item in group if graph.is_out_channel_pruning_fn(item.dep.handler)
        }
        yield root, group


class _Endless(RuntimeError):
    """A walk through a graph that doesn't end."""


@contextmanager
def _bounded(graph: Any) -> Iterator[None]:
    """Inside, a walk ends when it met more channels than all parts would have, were each as wide as the widest."""
    from torch_pruning.dependency.group import Group

    add, widest = Group.add_dep, max(max(p.shape) for p in graph.model.parameters() if p.numel() and p.ndim)
    most, met = len(graph.module2node) * widest, 0

    def adding(group: Any, dep: Any, idxs: Any) -> None:
        nonlocal met
        met += len(idxs)
        if met > 2 * most:  # Torch-Pruning adds each member twice: walking a group, and merging
            raise _Endless
        add(group, dep, idxs)

    Group.add_dep = adding
    try:
        yield
    finally:
        Group.add_dep = add


@dataclass(frozen=True)
class _Group:
    """A group of the tracing: what may be thinned of it, and the weights it cuts, (module, ``out`` or ``in``).

    Each with whether its channels have the group's own numbers.
    """

    coupled: Coupled | None
    sides: Mapping[tuple[str, str], bool]


def _sides(group: Any, graph: Any, names: Mapping[nn.Module, str]) -> dict[tuple[str, str], bool]:
    found = {}
    whole = list(range(len(group[0].idxs)))
    for item in group:
        part = item.dep.target.module
        if isinstance(part, _PLAIN[:2]) and part in names:
            side = "out" if graph.is_out_channel_pruning_fn(item.dep.handler) else "in"
            found[names[part], side] = list(item.idxs) == whole == list(item.root_idxs)
    return found


def _readers(
    group: Any, graph: Any, names: Mapping[nn.Module, str]
) -> tuple[tuple[str, Tensor, Tensor], ...]:
    """The layers that read a group's channels; a depthwise convolution hands them on and isn't counted as one."""
    found = []
    for item in group:
        part = item.dep.target.module
        if isinstance(part, _PLAIN[:2]) and not graph.is_out_channel_pruning_fn(item.dep.handler):
            found.append((names[part], torch.tensor(item.idxs), torch.tensor(item.root_idxs)))
    return tuple(found)


def _sharing(module: nn.Module) -> list[list[str]]:
    """Names of convolutions and linear layers that have one weight, together."""
    owners: dict[int, list[str]] = {}
    for name, part in module.named_modules():
        weight = part._parameters.get("weight")
        if isinstance(part, _PLAIN[:2]) and weight is not None:
            owners.setdefault(id(weight), []).append(name)
    return [names for names in owners.values() if len(names) > 1]


def _tied(groups: Sequence[_Group], shared: Sequence[Sequence[str]]) -> tuple[list[Coupled], list[str]]:
    """(what may be thinned, layers that stay as they are because they share a weight that can't be cut alike).

    Groups that cut the same dimension of one weight become one: the same channels go from all of them.
    """
    place = {side: k for k, group in enumerate(groups) for side in group.sides}
    one = list(range(len(groups)))
    bad: dict[int, Sequence[str]] = {}
    for names in shared:
        for end in ENDS:
            cut = [place[name, end] for name in names if (name, end) in place]
            alike = len(cut) == len(names) and all(groups[place[n, end]].sides[n, end] for n in names)
            for k in cut:
                if not alike:
                    bad[k] = names
                one = [one[cut[0]] if o == one[k] else o for o in one]
    found, apart = [], []
    for first in dict.fromkeys(one):
        own = [k for k, o in enumerate(one) if o == first]
        made = [c for k in own if (c := groups[k].coupled) is not None]
        if len(own) == 1 and own[0] not in bad:
            found += made
        elif any(k in bad for k in own) or len(made) < len(own) or len({len(c.scores) for c in made}) > 1:
            apart += [
                n
                for names in shared
                for n in names
                if any((n, e) in groups[k].sides for k in own for e in ENDS)
            ]
        else:
            scores = torch.stack([c.scores for c in made]).mean(0)
            roots = [c.root for c in made]
            readers = tuple(reader for c in made for reader in c.readers)
            found.append(Coupled(roots[0], made[0].channels, scores, tuple(roots[1:]), readers))
    return found, list(dict.fromkeys(apart))


def _graph(module: nn.Module, sample: Inputs, ways: Ways) -> Any:
    try:
        import torch_pruning
    except ImportError as error:
        raise UserError(
            f"channels: can't import torch_pruning: {error}; install it with: pip install 'compressbench[structured]'"
        ) from error
    module.eval()
    for p in module.parameters():
        p.requires_grad_(p.is_floating_point())
    hint = "prune single weights of such a net"
    with _telling("can't be traced", hint), torch.enable_grad():
        return torch_pruning.DependencyGraph().build_dependency(
            module,
            sample,
            forward_fn=functools.partial(_answers, ways),
            verbose=False,
        )


def _answers(ways: Ways, module: nn.Module, inputs: Inputs) -> list[Tensor]:
    """All outputs, each as a node of its own, whatever made it."""
    found = [tensor for tensor in ways.outputs(module, inputs) if tensor.requires_grad]
    if not found:
        raise UserError("its output has no gradient")
    return [tensor * 1.0 for tensor in found]


@contextmanager
def _telling(what: str, hint: str) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except _ANYTHING as error:
        reason = [*str(error).splitlines(), type(error).__name__][0] or type(error).__name__
        raise Unsound(f"channels: the net's graph {what}: {reason[:120]}{_after(hint)}") from error


def _separable(group: Any, graph: Any, inside: bool) -> bool:
    """Is a channel here gone when it is zero, and the group (if ``inside``) one layer's own?"""
    from torch_pruning import ops

    producers = 0
    for dep, _ in group:
        part = dep.target.module
        if isinstance(part, ops._ElementWiseOp):
            name = str(part._grad_fn)
            if any(x in name for x in _MIXING) or (inside and name.startswith(_SUMS)):
                return False
        elif isinstance(part, ops._OutputOp | nn.Parameter):
            return False
        elif type(part).__module__.startswith("torch_pruning"):
            if inside and not isinstance(part, ops._ReshapeOp):
                return False
        elif not isinstance(part, _PLAIN):
            return False
        elif graph.is_out_channel_pruning_fn(dep.handler) and isinstance(part, _PLAIN[:2]):
            producers += not (isinstance(part, _PLAIN[0]) and part.groups == part.out_channels > 1)
    return producers == 1 or (producers > 1 and not inside)


def _scored(
    group: Any, graph: Any, names: Mapping[nn.Module, str], scores: Mapping[str, Tensor], size: int
) -> Tensor | None:
    """(units,) mean score of the weights that produce each unit; None where no scored layer produces them.

    Grouped convolutions must keep their groups alike: a unit then is the same channel of every group.
    """
    sums, weights = torch.zeros(size).double(), torch.zeros(size).double()
    share = 1
    for item in group:
        part = item.dep.target.module
        if isinstance(part, _PLAIN[0]) and part.groups > 1 and part.groups != part.out_channels:
            share = max(share, part.groups)
        if not (graph.is_out_channel_pruning_fn(item.dep.handler) and isinstance(part, _PLAIN[:2])):
            continue
        score = scores.get(f"{names[part]}.weight")
        if score is None:
            continue
        if isinstance(part, _PLAIN[0]) and part.transposed and part.groups == 1:
            score = score.transpose(0, 1)
        filters = score.flatten(1)
        roots = torch.tensor(item.root_idxs)
        sums.index_add_(0, roots, filters.sum(1)[torch.tensor(item.idxs)])
        weights.index_add_(0, roots, torch.full((len(roots),), float(filters.shape[1])).double())
    if size % share or not bool((weights > 0).all()):
        return None
    return (sums / weights).view(share, -1).mean(0)


def _normal(group: Coupled) -> Tensor:
    scale = group.scores.abs().mean()
    return group.scores / scale if scale > 0 else group.scores


def _edit(
    module: nn.Module,
    sample: Inputs,
    ways: Ways,
    coupled: Sequence[Coupled],
    removed: Removed,
    hint: str,
) -> Edit:
    """What stays of every tensor, read from a pruned copy whose tensors hold their own positions."""
    traced = copy.deepcopy(module)
    graph = _graph(traced, sample, ways)
    with _telling("can't be thinned", hint):
        with torch.no_grad():
            for tensor in _floats(traced).values():
                tensor.data = torch.arange(tensor.numel(), dtype=torch.float64).view(tensor.shape)
        for group, units in zip(coupled, removed, strict=True):
            for name in (group.root, *group.others) if units else ():
                root = traced.get_submodule(name)
                prune = graph.get_pruner_of_module(root).prune_out_channels
                graph.get_pruning_group(root, prune, group.places(units)).prune()
    after = _floats(traced)
    cut = {
        name: kept
        for name, tensor in _floats(module).items()
        if (kept := _places(name, after[name].detach(), tensor.shape, hint))
    }
    return {"cut": cut}


def _floats(module: nn.Module) -> dict[str, Tensor]:
    named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    return {name: tensor for name, tensor in named if tensor.is_floating_point()}


def _places(name: str, left: Tensor, shape: Sequence[int], hint: str) -> dict[str, list[int]]:
    """{dimension: kept indices} of the dimensions that lost any, from the flat positions that are left."""
    if tuple(left.shape) == tuple(shape):
        return {}
    flat = left.long()
    kept, rebuilt = {}, torch.zeros((), dtype=torch.long)
    for dim, size in enumerate(shape):
        stride = math.prod(shape[dim + 1 :])
        row = flat[tuple(slice(None) if d == dim else 0 for d in range(flat.ndim))]
        index = row // stride % size
        rebuilt = rebuilt.unsqueeze(-1) + index * stride
        if len(index) < size:
            kept[str(dim)] = index.tolist()
    if not torch.equal(rebuilt, flat):
        raise Unsound(f"channels: what stays of {name} is no whole rows and columns{_after(hint)}")
    return kept


def _kept(dims: Mapping[str, Sequence[int]], like: Tensor) -> Tensor:
    """Bool, of the tensor's shape before the cut: True where it stays."""
    out = torch.ones(like.shape, dtype=torch.bool)
    for dim, kept in dims.items():
        line = torch.zeros(like.shape[int(dim)], dtype=torch.bool)
        line[list(kept)] = True
        out &= line.view([-1 if d == int(dim) else 1 for d in range(like.ndim)])
    return out


def _reach(
    measure: Callable[[Removed], float],
    coupled: Sequence[Coupled],
    how: str,
    target: float,
    what: str,
    steps: int,
    refine: bool = False,
) -> Removed:
    """The removal that first brings ``measure`` (1 for the whole net) down to the target: bisected over the fraction.

    With ``refine``, units that the last step would remove together go one by one.
    """
    low, high = lowest(coupled, how, 0.0), lowest(coupled, how, 1.0)
    least = measure(high)
    if least > target:
        raise UserError(
            f"{what.lower()}: {target:g} of the net's {what} can't be reached; with one channel left in each "
            f"group it is {least:.3g}"
        )
    below, above = 1.0, 0.0
    for _ in range(steps):
        middle = 0.5 * (above + below)
        removed = lowest(coupled, how, middle)
        if removed == high or (removed != low and measure(removed) <= target):
            below, high = middle, removed
        else:
            above, low = middle, removed
    if refine:
        more = [
            (float(_normal(c)[unit]), group, unit)
            for group, c in enumerate(coupled)
            for unit in set(high[group]) - set(low[group])
        ]
        for _, group, unit in sorted(more):
            low = tuple(tuple(sorted((*u, unit))) if g == group else u for g, u in enumerate(low))
            if measure(low) <= target:
                return low
    return high


def _timed(
    state: State,
    bench: Bench,
    target: Mapping[str, Any],
    module: nn.Module,
    edit_of: Callable[[Removed], Edit],
    hint: str,
) -> tuple[Callable[[Removed], float], str]:
    """(shrunk net's median latency over the whole one's, both timed in turns; what on, in words)."""
    from compressbench.views import View

    device = specs.build(target, "target")
    batch = device.batches[0]

    def lowered(state: State) -> Lowered:
        found = device.lower(View(state, bench))
        if isinstance(found, Unsupported):
            raise UserError(f"latency: {found.why}")
        return found

    whole = lowered(state)

    def ratio(removed: Removed) -> float:
        edit = edit_of(removed)
        _thinned(module, edit, _drawn(bench), hint)
        before, after = device.time([whole, lowered(edited(state, [edit], bench))], batch)
        return after.median / before.median

    return ratio, f"{whole.runtime}, batch {batch}"


def _drawn(bench: Bench) -> Inputs:
    return bench.task.drawn(2, torch.Generator().manual_seed(0))


def _thinned(module: nn.Module, edit: Edit, sample: Inputs, hint: str) -> nn.Module:
    """A copy of the module with the edit made; it runs, and gives finite logits of the same shape."""
    what = {"cut": "channels", "drop": "blocks"}[next(iter(edit))]
    ways = ways_of(module, sample)
    small = cut_module(copy.deepcopy(module), edit)
    with torch.no_grad():
        like = _everything(ways, module, sample)
        try:
            logits = _everything(ways, small, sample)
        except _ANYTHING as error:
            reason = [*str(error).splitlines(), type(error).__name__][0][:120]
            raise Unsound(f"{what}: the net doesn't run without them: {reason}{_after(hint)}") from error
    if logits.shape != like.shape or not bool(logits.isfinite().all()):
        raise Unsound(
            f"{what}: the net without them gives no logits of the same shape, or none finite{_after(hint)}"
        )
    return small


def _everything(ways: Ways, module: nn.Module, inputs: Inputs) -> Tensor:
    """(n, all outputs) of a net, in evaluation and by the way of its training."""
    return torch.cat(replace(ways, evaluation=True).outputs(module, inputs), dim=1)


def _after(hint: str) -> str:
    return f"; {hint}" if hint else ""


def _verify(whole: nn.Module, shrunk: nn.Module, cut: Cut, sample: Inputs, hint: str) -> None:
    """Compares the shrunk net with the whole one, in which all that was cut is zero; rounding layers in float."""
    zeroed, shrunk = (unrounded(copy.deepcopy(module)) for module in (whole, shrunk))
    with torch.no_grad():
        for name, parameter in zeroed.named_parameters():
            if name in cut:
                parameter.mul_(_kept(cut[name], parameter))
        ways = ways_of(zeroed, sample)
        before, after = _everything(ways, zeroed, sample), _everything(ways, shrunk, sample)
    if not bool((after - before).abs().max() <= AGREE * before.abs().max().clamp(min=0.01)):
        raise Unsound(f"channels: the net without them differs from the net with them at zero{_after(hint)}")
