"""A plan's series, each in a line of what its stages say of themselves, as ``compressbench explain`` shows them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from compressbench.report.described import Described
from compressbench.runs.execute import in_short
from compressbench.runs.plan import Node, Plan


def in_a_line(plan: Plan) -> list[Described]:
    """The series of states, in the order of the plan: how the last state of each is made, from dense on.

    A stage that comes again is said once, with how often it comes; a net that begins anew is told from its beginning.
    A series that is compared at several moments is told by the first of these: others show other states under its name.
    """
    first: dict[str, str] = {}
    for measure in plan.measures:
        if not measure.members:
            first.setdefault(measure.series, measure.moment)
    keys: dict[str, dict[str, None]] = {}
    last: dict[str, tuple[str, str]] = {}
    for measure in plan.measures:
        if not measure.members and measure.moment == first[measure.series]:
            keys.setdefault(measure.series, {})[plan.node(measure.state).key] = None
            last[measure.series] = (measure.state, measure.reference)
    found = []
    for series, (state, reference) in last.items():
        own, base = _lineage(plan, state), [n.name for n in _lineage(plan, reference)]
        rest = [node for node in own if node.name not in base]
        told = _told(rest or own)
        start = "" if len(rest) in (0, len(own)) else f"from {own[len(own) - len(rest) - 1].name}: "
        many = f" ({len(keys[series])} states; this is the last)" if len(keys[series]) > 1 and rest else ""
        found.append(Described(series, f"{start}{told}{many}", tuple(keys[series])))
    return found


def _lineage(plan: Plan, state: str) -> list[Node]:
    """The nodes that lead to a state, the first one first."""
    found, name = [], state
    while name:
        node = plan.node(name)
        found.append(node)
        name = node.parent or ""
    return found[::-1]


def _told(nodes: Iterable[Node]) -> str:
    """What they do, one after the other; what comes again counted."""
    times = Counter(map(in_short, nodes))
    return ", then ".join(f"{text} ×{count}" if count > 1 else text for text, count in times.items())
