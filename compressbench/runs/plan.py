"""Plan: stages unrolled, references resolved, every state's key known. Nothing runs, nothing heavy is imported."""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from compressbench import specs
from compressbench.errors import UserError, nearest
from compressbench.paths import given_path, label
from compressbench.specs import trust
from compressbench.specs.trust import as_first_named
from compressbench.store import digest, file_digest
from compressbench.wording import shown

DENSE = "dense"
FLOOR = "floor"
FINAL = "final"
POPULATIONS = "populations"
"""The moment of records of populations."""
KEYS_OF_COMPARE = ("reference", "series", "floor", "moments", "populations", "published")
MOST = 2000
"""Stages of a recipe, unrolled; a slip of the keyboard makes a million."""
MOST_SEEDS = 200
MOST_STATES = 20_000
"""Of all seeds of all populations together."""


@dataclass(frozen=True)
class Node:
    """One state to be: the stage that makes it, what it continues, what it refers to.

    Attributes:
        name: the state's name in the plan, e.g. ``level2.prune``.
        spec: the stage's spec; references inside are names in the plan.
        stage: the stage itself.
        parent: the state that it continues; None for a stage that begins anew.
        refs: other states that its settings refer to.
        seed: of this lineage (the floor's differs from the run's).
        key: content address.
    """

    name: str
    spec: Mapping[str, Any]
    stage: Any
    parent: str | None
    refs: tuple[str, ...]
    seed: int
    key: str = ""

    @property
    def local(self) -> str:
        """The name without the mark of another seed: with the seed the source of all randomness."""
        return self.name.partition("@")[0]


@dataclass(frozen=True)
class Measure:
    """One state to be measured against a reference, as a point of a series; or a population against another.

    Attributes:
        members: of a population its state at every seed, the run's first (that is ``state``); empty for one state alone.
        references: the same of the population that it is compared with.
    """

    series: str
    moment: str
    order: int
    state: str
    reference: str
    probes: tuple[str, ...] | None = None
    members: tuple[str, ...] = ()
    references: tuple[str, ...] = ()

    @property
    def needs(self) -> tuple[str, ...]:
        """All states that must be there before it can be measured."""
        return (*(self.members or (self.state,)), *(self.references or (self.reference,)))


@dataclass(frozen=True)
class Plan:
    """Nodes in execution order and what is to be measured."""

    nodes: tuple[Node, ...]
    measures: tuple[Measure, ...]

    def node(self, name: str) -> Node:
        """A node by name."""
        return next(n for n in self.nodes if n.name == name)


@dataclass(frozen=True)
class Context:
    """What is part of every key beside the stage itself.

    Attributes:
        lanes: how many trainings of the same shape go at once.
        launch: how their iterations are launched, see ``training.launching``.
    """

    fingerprint: str
    device: str
    threads: int
    trusted: tuple[str, ...] = ()
    lanes: int = 1
    launch: str = "eager"

    def digest(self) -> list[Any]:
        return [self.fingerprint, self.device.partition(":")[0], self.threads]


@dataclass
class _Unrolled:
    """Stages in order with the scope that their references are resolved in."""

    items: list[tuple[str, str, Mapping[str, Any], str | None]] = field(default_factory=list)
    ends: dict[str, str] = field(default_factory=dict)


def make(recipe: Mapping[str, Any], seed: int, context: Context, beside: Sequence[int] = ()) -> Plan:
    """The plan of one run.

    Args:
        beside: other seeds whose states are made too, though not measured: company in lanes.

    Raises:
        UserError: an unknown key or target, a value out of range, a reference that is missing, later or circular,
            a ``compare`` that matches nothing.
    """
    nodes = _nodes(recipe, seed, context)
    compare = recipe.get("compare") or {}
    measures, floor = _measures(compare, [n.name for n in nodes])
    populations = _populations(compare.get("populations") if compare else None, nodes, seed)
    wanted = [*populations, *([_Population(FLOOR, floor, range(seed + 1, seed + 2))] if floor else [])]
    also = dict.fromkeys(m.state for m in measures) or dict.fromkeys(n.name for n in nodes)
    company = [_Population("", of, range(other, other + 1)) for of in also for other in beside]
    nodes += _of_other_seeds(nodes, [*wanted, *company], seed, context)
    if floor is not None:
        measures.insert(1, Measure(FLOOR, FINAL, 0, wanted[-1].states(seed)[0], floor))
    return Plan(tuple(nodes), (*measures, *_of_populations(populations, compare.get("reference"), seed)))


@dataclass(frozen=True)
class _Population:
    """One state of a recipe at several seeds; the floor is one of a single seed, the run's next."""

    name: str
    of: str
    seeds: range

    def states(self, seed: int) -> tuple[str, ...]:
        """Its states' names in the plan of a run of this seed."""
        return tuple(_name(self.of, other, seed) for other in self.seeds)


def _name(state: str, seed: int, own: int) -> str:
    return state if seed == own else f"{state}@seed{seed}"


def _populations(block: Any, nodes: Sequence[Node], seed: int) -> list[_Population]:
    where, names = "recipe.compare.populations", [n.name for n in nodes]
    found = []
    for name, inner in _named(block, where, "populations").items():
        here = f"{where}.{name}"
        if inner is None:
            continue
        if name == FLOOR:
            raise UserError(f"{here}: this name is taken by the floor; choose another")
        _known_keys(inner, ("of", "seeds"), here)
        of, seeds = inner.get("of"), inner.get("seeds")
        if of not in names:
            raise UserError(f"{here}.of: there is no state {of!r}; {nearest(str(of), names)}")
        if isinstance(seeds, bool) or not isinstance(seeds, int) or not 1 <= seeds <= MOST_SEEDS:
            raise UserError(f"{here}.seeds: {seeds!r} is not a whole number from 1 to {MOST_SEEDS}")
        found.append(_Population(str(name), of, range(seed, seed + seeds)))
    count = sum((len(p.seeds) - 1) * len(lineage(nodes, [p.of])) for p in found)
    if count > MOST_STATES:
        raise UserError(
            f"{where}: these are {count:,} states of other seeds, more than {MOST_STATES:,}; name fewer seeds"
        )
    return found


def _of_populations(populations: Sequence[_Population], reference: Any, seed: int) -> list[Measure]:
    """A measure for each population, against the first one of the reference."""
    if not populations:
        return []
    other = next((p for p in populations if p.of == reference), None)
    if other is None:
        raise UserError(
            f"recipe.compare.populations: none is of {reference}, the reference that the others are compared with"
        )
    return [
        Measure(
            p.name, POPULATIONS, place, p.of, other.of, members=p.states(seed), references=other.states(seed)
        )
        for place, p in enumerate([other, *(p for p in populations if p is not other)])
    ]


def _of_other_seeds(
    nodes: Sequence[Node], populations: Sequence[_Population], own: int, context: Context
) -> list[Node]:
    """What populations need of other seeds: the same stages under other names, seed by seed."""
    made = []
    for seed in sorted({s for p in populations for s in p.seeds if s != own}):
        rename = {n.name: _name(n.name, seed, own) for n in nodes}
        known: dict[str, Node] = {}
        for node in lineage(nodes, [p.of for p in populations if seed in p.seeds]):
            known[node.name] = _with_key(replace(node, seed=seed), known, context)
        made += [_renamed(n, rename, context) for n in known.values()]
    return made


def _nodes(recipe: Mapping[str, Any], seed: int, context: Context) -> list[Node]:
    stages = recipe.get("stages")
    if not isinstance(stages, Mapping) or not stages:
        raise UserError("recipe.stages: a recipe needs at least one stage")
    unrolled = _Unrolled()
    _unroll(stages, "", None, unrolled, context.trusted)
    every = [name for name, *_ in unrolled.items]
    known: dict[str, Node] = {}
    for place, (name, scope, spec, before) in enumerate(unrolled.items):
        where = f"recipe.stages.{name}"
        resolver = _Resolver(every, every[:place], unrolled.ends, name, scope, unrolled.items)
        refs: list[str] = []
        came_from = spec.get("from")
        parent = resolver.one(str(came_from), f"{where}.from") if came_from is not None else before
        bare = specs.expand({k: v for k, v in spec.items() if k != "from"}, where)
        specs.check(bare, where, context.trusted)

        def resolve(
            ref: Any, many: bool, place: str, resolver: _Resolver = resolver, refs: list[str] = refs
        ) -> Any:
            found = [
                n
                for r in (ref if isinstance(ref, list | tuple) else [ref])
                for n in resolver.many(str(r), place)
            ]
            refs += found
            if not found:
                raise UserError(f"{place}: at least one state is wanted")
            if not many and len(found) != 1:
                raise UserError(f"{place}: one state is wanted, {ref!r} matches {len(found)}")
            return found if many else found[0]

        resolved = specs.map_refs(bare, resolve, where)
        stage = _stage(resolved, where, context.trusted)
        begins = getattr(type(stage), "BEGINS", False)
        if parent is None and not begins:
            raise UserError(f"{where}: the first stage has nothing to continue; begin with an init stage")
        parent = None if begins else parent
        node = Node(name, resolved, stage, parent, tuple(dict.fromkeys(refs)), seed)
        if name in known:
            raise UserError(
                f"{where}: two stages have this name; give the values of a for_each names of their own"
            )
        known[name] = _with_key(node, known, context)
    return list(known.values())


def _unroll(
    stages: Mapping[str, Any], prefix: str, before: str | None, out: _Unrolled, trusted: tuple[str, ...]
) -> str | None:
    for name, spec in stages.items():
        full = f"{prefix}{name}"
        where = f"recipe.stages.{full}"
        if spec is None:
            continue
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*", str(name)):
            raise UserError(f"{where}: a stage's name is made of letters, digits, _ and -")
        if not specs.is_spec(spec):
            raise UserError(
                f"{where}: not a stage; add it by the defaults list, e.g. - /stage/train@stages.{name}: sgd"
            )
        trust.check_target(str(spec[specs.TARGET]), trusted, where, parts=("stages",))
        kind = _located(str(spec[specs.TARGET]), where)
        if not hasattr(kind, "unroll"):
            out.items.append((full, prefix, spec, before))
            if len(out.items) > MOST:
                raise UserError(f"{where}: these are more than {MOST:,} stages")
            before = out.ends[full] = full
            continue
        bare = {k: v for k, v in spec.items() if k != "from"}
        specs.check({k: v for k, v in bare.items() if k != "stages"}, where, trusted, given=("stages",))
        start = str(spec["from"]) if spec.get("from") is not None else before
        begin = start
        for part, inner in _stage(bare, where, trusted).unroll(str(name)):
            first = dict(inner)
            head = next((k for k, v in first.items() if v is not None), None)
            if head is not None and specs.is_spec(first[head]) and first[head].get("from") is None:
                first[head] = {**first[head], "from": begin}
            before = _unroll(first, f"{prefix}{part}.", None, out, trusted)
            if before is not None:
                out.ends[f"{prefix}{part}"] = out.ends[full] = before
            begin = before if kind.CHAINS else start
    return before


def _outwards(prefix: str) -> Iterator[str]:
    """What may stand before a name: the prefix of its own level, then of those around it, at last nothing."""
    while prefix:
        yield prefix
        prefix = "".join(prefix[:-1].rpartition(".")[:2])
    yield ""


class _Resolver:
    """Names as one stage sees them: same level first, then outwards."""

    def __init__(
        self,
        every: list[str],
        earlier: list[str],
        ends: Mapping[str, str],
        name: str,
        scope: str,
        items: Sequence[tuple[str, str, Mapping[str, Any], str | None]],
    ) -> None:
        self.every, self.earlier, self.ends = every, set(earlier), ends
        self.name, self.scope, self.items = name, scope, items

    def many(self, ref: str, where: str) -> list[str]:
        """All earlier states that a name or a pattern means, in execution order."""
        if any(c in ref for c in "*?["):
            found = [n for n in self.every if n in self.earlier and fnmatch.fnmatchcase(n, ref)]
            if not found:
                raise UserError(f"{where}: {ref!r} matches no earlier state; {nearest(ref, self.earlier)}")
            return found
        return [self.one(ref, where)]

    def one(self, ref: str, where: str) -> str:
        """The earlier state that a name means."""
        late = None
        for scope in _outwards(self.scope):
            full = self.ends.get(scope + ref, scope + ref)
            if full in self.earlier:
                return full
            if full in self.every or (scope + ref) in self.ends:
                late = late or full
        if late == self.name:
            raise UserError(f"{where}: {ref!r} is circular: a stage can't refer to the state that it makes")
        if late is not None and self.name in _wanted(self.items, late):
            raise UserError(f"{where}: {ref!r} is circular: {late} itself needs {self.name}")
        if late is not None:
            raise UserError(f"{where}: {ref!r} comes later; a stage can refer only to states made before it")
        raise UserError(f"{where}: there is no state {ref!r}; {nearest(ref, self.earlier)}")


def _wanted(items: Iterable[tuple[str, str, Mapping[str, Any], str | None]], one: str) -> set[str]:
    """The names that stand as plain texts in a stage's settings, what it continues, and those that these want in turn."""
    direct = {}
    for name, scope, spec, before in items:
        texts = {v for v in spec.values() if isinstance(v, str)}
        direct[name] = (
            {scope + t for t in texts} | texts | ({before} if before and "from" not in spec else set())
        )
    found: set[str] = set()
    todo = [one]
    while todo:
        fresh = direct.get(todo.pop(), set()) - found
        found |= fresh
        todo += fresh
    return found


def _located(target: str, where: str) -> Any:
    if specs.signature(target) is None and target.startswith(f"{trust.OWN}."):
        raise UserError(f"{where}: there is no {target}")
    return trust.locate(target, where)


def _stage(spec: Mapping[str, Any], where: str, trusted: tuple[str, ...]) -> Any:
    settings = specs.settings_of(spec)
    kind = _located(str(spec[specs.TARGET]), where)
    seen = specs.signature(str(spec[specs.TARGET]))
    for name, value in settings.items():
        if seen and name in seen.parameters:
            _check_type(seen.parameters[name].annotation, value, f"{where}.{name}")
    try:
        return kind(**settings)
    except (TypeError, ValueError, UserError) as error:
        raise UserError(f"{where}: {error}") from error
    except Exception as error:  # of a user's own stage, or of a setting that nobody thought of
        raise UserError(f"{where}: {type(error).__name__}: {error}") from error


def _check_type(annotation: str, value: Any, where: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where}: {value} is not a finite number")
    if not specs.fits(annotation, value):
        unit = specs.its_unit(where.rpartition(".")[2], value)
        raise UserError(f"{where}: {shown(value)} is not {specs.in_words(annotation)}{unit}")


def _with_key(node: Node, known: Mapping[str, Node], context: Context) -> Node:
    keys = {name: known[name].key for name in node.refs}
    files = getattr(node.stage, "files", lambda: ())()
    spec = node.stage.in_key(node.spec) if hasattr(node.stage, "in_key") else node.spec
    content = []
    for path in files:
        place = given_path(path, f"recipe.stages.{node.name}")
        try:
            if not place.is_file():
                raise UserError(f"recipe.stages.{node.name}: can't read {path}: there is no such file")
            content.append(file_digest(place))
        except OSError as error:
            raise UserError(f"recipe.stages.{node.name}: can't read {path}: {error.strerror}") from error
    key = digest(
        {
            "parent": known[node.parent].key if node.parent else "",
            "name": node.local,
            "settings": as_first_named(
                specs.map_refs(spec, lambda ref, many, _: [keys[r] for r in ref] if many else keys[ref])
            ),
            "files": [*content, "zeros count"] if content else [],
            "context": context.digest(),
            "seed": node.seed,
            "code": specs.sources_digest(node.spec),
            "version": getattr(node.stage, "version", getattr(type(node.stage), "VERSION", 1)),
            **(node.stage.beside(context.lanes, context.launch) if hasattr(node.stage, "beside") else {}),
        }
    )
    return Node(node.name, node.spec, node.stage, node.parent, node.refs, node.seed, key)


def lineage(nodes: Sequence[Node], names: Iterable[str]) -> list[Node]:
    """Some nodes and all that they continue or refer to, in the given order."""
    by_name = {n.name: n for n in nodes}
    wanted: set[str] = set()
    todo = list(names)
    while todo:
        node = by_name[todo.pop()]
        if node.name not in wanted:
            wanted.add(node.name)
            todo += [*node.refs, *([node.parent] if node.parent else [])]
    return [n for n in nodes if n.name in wanted]


def _renamed(node: Node, rename: Mapping[str, str], context: Context) -> Node:
    parent = rename[node.parent] if node.parent else None
    refs = tuple(rename[r] for r in node.refs)
    spec = specs.map_refs(node.spec, lambda ref, many, _: [rename[r] for r in ref] if many else rename[ref])
    stage = _stage(spec, f"recipe.stages.{node.name}", context.trusted)
    return Node(rename[node.name], spec, stage, parent, refs, node.seed, node.key)


def _measures(compare: Mapping[str, Any], names: list[str]) -> tuple[list[Measure], str | None]:
    _known_keys(compare, KEYS_OF_COMPARE, "recipe.compare")
    if not compare:
        return [], None
    reference = compare.get("reference")
    out = _moment(FINAL, compare, names, None, "recipe.compare")
    for moment, inner in _named(compare.get("moments"), "recipe.compare.moments").items():
        where = f"recipe.compare.moments.{moment}"
        if moment == POPULATIONS:
            raise UserError(f"{where}: this name is taken by recipe.compare.populations; choose another")
        _known_keys(inner, ("reference", "own_reference", "series", "probes"), where)
        probes = inner.get("probes")
        if probes is not None and not specs.fits("Sequence[str]", probes):
            raise UserError(f"{where}.probes: {probes!r} is no list of names of probes")
        chosen = tuple(probes) if probes else None
        own = inner.get("own_reference")
        if own is not None and inner.get("reference") is not None:
            raise UserError(f"{where}: reference and own_reference; a moment has one of them")
        block = inner if own is None else {**inner, "reference": reference}
        measured = _moment(str(moment), block, names, chosen, where)
        out += measured if own is None else _beside_their_own(measured, str(own), names, where)
    floor = compare.get("floor")
    if not isinstance(floor, bool | None):
        raise UserError(f"recipe.compare.floor: {floor!r} is neither true nor false")
    return out, str(reference) if floor else None


def _moment(
    moment: str, block: Mapping[str, Any], names: list[str], probes: tuple[str, ...] | None, where: str
) -> list[Measure]:
    reference = block.get("reference")
    if reference not in names:
        raise UserError(
            f"{where}.reference: there is no state {reference!r}; {nearest(str(reference), names)}"
        )
    out = [Measure(DENSE, moment, 0, str(reference), str(reference), probes)]
    for series, patterns in _named(block.get("series"), f"{where}.series").items():
        if series in (DENSE, FLOOR):
            raise UserError(f"{where}.series.{series}: this name is taken by the reference; choose another")
        wanted = patterns if isinstance(patterns, list | tuple) else [patterns]
        found = [n for n in names if any(fnmatch.fnmatchcase(n, str(p)) for p in wanted)]
        if not found:
            raise UserError(
                f"{where}.series.{series}: {patterns!r} matches no state; {nearest(str(patterns), names)}"
            )
        out += [Measure(str(series), moment, i, n, str(reference), probes) for i, n in enumerate(found, 1)]
    return out


def _beside_their_own(
    measures: Iterable[Measure], wanted: str, names: Sequence[str], where: str
) -> list[Measure]:
    """The same, each state beside the earlier one that a name means to it: of its own block, else of one around it.

    The reference itself is left out where it has none.

    Raises:
        UserError: a state of a series has none.
    """
    out = []
    for measure in measures:
        earlier = names[: names.index(measure.state)]
        own = _own_reference(wanted, measure.state, earlier)
        if own:
            out.append(replace(measure, reference=own))
        elif measure.series != DENSE:
            told = f"{measure.state} has no state {wanted!r} before it; {nearest(wanted, earlier)}"
            raise UserError(f"{where}.own_reference: {told}")
    return out


def _own_reference(wanted: str, state: str, earlier: Sequence[str]) -> str:
    """The state of those before that a name means to a state; empty for none."""
    prefixes = _outwards("".join(state.rpartition(".")[:2]))
    return next((prefix + wanted for prefix in prefixes if prefix + wanted in earlier), "")


def _named(block: Any, where: str, what: str = "states") -> Mapping[str, Any]:
    """A mapping of labels, empty for null; a label goes into every record."""
    if block is not None and not isinstance(block, Mapping):
        raise UserError(f"{where}: {block!r} is no mapping of names to {what}")
    for name in block or {}:
        label(name, where)
    return block or {}


def _known_keys(block: Any, keys: tuple[str, ...], where: str) -> None:
    if not isinstance(block, Mapping):
        raise UserError(f"{where}: a mapping with {', '.join(keys)} is wanted")
    for key in block:
        if key not in keys:
            raise UserError(f"{where}: unknown key {key!r}; {nearest(str(key), keys)}")
