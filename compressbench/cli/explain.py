"""``compressbench explain recipe=NAME``: claim, source, measured result, and the stages in words."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from compressbench.cli.parser import Parser
from compressbench.console import say
from compressbench.errors import UserError, nearest
from compressbench.specs.conf import conf_dir, listing

if TYPE_CHECKING:
    from compressbench.runs.plan import Node, Plan


def main(argv: list[str]) -> int:
    """The verb; returns an exit code."""
    from compressbench.specs.compose import config_folder
    from compressbench.specs.overrides import check_recipe, is_override, key_of, readable

    parser = Parser(prog="compressbench explain", description=__doc__)
    parser.add_argument("overrides", nargs="*", help="recipe=NAME, and whatever else a run would be given")
    parser.add_argument("--config-dir", help="a folder with your own configs")
    args = parser.parse_intermixed_args(argv)
    overrides = [w if is_override(w) else f"recipe={w}" for w in args.overrides]
    check_recipe([w for w in overrides if key_of(w) == "recipe"], "explain")
    readable(overrides)
    chosen = [w for w in overrides if key_of(w) == "recipe"]
    if len(chosen) > 1:
        raise UserError(f"explain: one recipe at a time, not {' and '.join(chosen)}")
    name = next((w.partition("=")[2] for w in overrides if w.startswith("recipe=")), "")
    own = config_folder(args.config_dir) if args.config_dir is not None else None
    folders = [*([own] if own else []), conf_dir()]
    known = {p.stem: p for folder in reversed(folders) for p in (folder / "recipe").glob("*.yaml")}
    if name not in known:
        near = nearest(name, known, rest=listing("recipe"))
        raise UserError(f"unknown recipe {name!r}; {near}" if name else f"recipe=: a name is missing; {near}")
    stages = _stages(overrides, own)
    say(_header(known[name]))
    say(stages)
    return 0


def _header(path: Path) -> str:
    lines = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line[1:].removeprefix(" "))
    return "\n".join(lines)


def _stages(overrides: list[str], config_dir: Path | None) -> str:
    from compressbench.cli.run import composed
    from compressbench.cli.terminal import grouped, words
    from compressbench.runs.experiment import check_keys
    from compressbench.runs.plan import Context, make
    from compressbench.specs.trust import prefixes
    from compressbench.wording import counted

    config = composed(overrides, str(config_dir) if config_dir else None)
    check_keys(config)
    hardware = config["hardware"]
    trusted = prefixes(config.get("trust"))
    plan = make(
        config["recipe"], config["seed"], Context("", hardware["device"], hardware["threads"], trusted)
    )
    scale, model, data = (config[key].get("name") for key in ("scale", "model", "dataset"))
    out = [
        "",
        f"Stages at scale={scale}: {model} on {data}, {counted(len(plan.nodes), 'state')}",
    ]
    for pattern, nodes in grouped(list(plan.nodes)).items():
        parent = nodes[0].parent
        came = f"   (continues {parent})" if parent else ""
        times = f"  x{len(nodes)}" if len(nodes) > 1 else ""
        out.append(f"  {pattern:<24} {words(nodes)}{times}{came}")
    series: dict[str, list[str]] = {}
    for measure in [m for m in plan.measures if not m.members]:
        series.setdefault(f"{measure.series} ({measure.moment})", []).append(measure.state)
    out.append("States that are measured, by series:")
    for name, states in series.items():
        out.append(f"  {name:<24} {states[0]}{f' to {states[-1]}' if len(states) > 1 else ''}")
    return "\n".join([*out, *_populations(plan)])


def _populations(plan: Plan) -> list[str]:
    """What populations are of, and what they cost beyond the run's own trainings."""
    from compressbench.report.numbers import counted

    populations = [m for m in plan.measures if m.members]
    if not populations:
        return []
    found = ["Populations, each against the first one:"]
    for measure in populations:
        first, last = (plan.node(n).seed for n in (measure.members[0], measure.members[-1]))
        seeds = f"seeds {first} to {last}" if last > first else f"seed {first}"
        found.append(f"  {measure.series:<24} {measure.state}, {seeds}")
    own = _trainings(n for n in plan.nodes if n.name == n.local)
    others = _trainings(n for n in plan.nodes if n.name != n.local)
    found.append(
        f"  {counted(own, 'training')} of this seed and {others} of other seeds, as far as not stored"
    )
    return found


def _trainings(nodes: Iterable[Node]) -> int:
    from compressbench.stages.train import Train

    return sum(isinstance(n.stage, Train) and n.stage.checkpoint is None for n in nodes)
