"""``compressbench check``: your own parts by the rule that the shipped ones keep to, a line each.

Each YAML of a ``--config-dir`` is tried by itself: criteria, stages, probes and targets on a small net on the embedded
digits, a data set with its own task, a model on the digits or on a data set of yours, a recipe at smoke size. Two calls
must agree bit by bit whatever the global generators hold; nothing may be printed, or changed in place; no stage may look
at test examples. Exit codes: 0 all keep to the rule, 1 some don't, 2 bad input.
"""

from __future__ import annotations

import sysconfig
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressbench.cli.parser import Parser, a_path, number
from compressbench.cli.trusting import configs, given_or_in
from compressbench.console import clean_line, say
from compressbench.errors import UserError, nearest, reason
from compressbench.specs.compose import config_folder

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from compressbench.checking.ground import Ground

SECONDS = 120.0
RECIPES = 5
"""How many times longer a recipe may take than another part."""
HOSTS = {
    "stepper": ("stage/train=sgd", "stepper"),
    "averager": ("stage/train=sgd", "averager"),
    "reparametrise": ("stage/train=sgd", "reparametrise.own"),
    "distance": ("stage/train=distill", "objective.distance"),
    "labels": ("stage/train=distill", "objective.labels"),
    "scope": ("stage/prune=magnitude", "scope"),
    "grain": ("stage/prune=magnitude", "grain"),
}
"""Groups whose parts are settings of a stage -> the stage that they are tried in, and where in it they stand."""
BASE = ("recipe=one_shot", "scale=smoke", "hardware=cpu1", "evaluation=none", "model=scaled/resnet_smoke")
TRIED = "tried"


@dataclass(frozen=True)
class Part:
    """One YAML of the user's: its config group and its name."""

    group: str
    name: str

    def __str__(self) -> str:
        return f"{self.group}/{self.name}"


@dataclass(frozen=True)
class Folder:
    """The user's configs.

    Attributes:
        trusted: the import prefixes that they may name.
        settings: ``KEY=VALUE`` of what is tried, instead of what its YAML says.
    """

    path: Path
    trusted: tuple[str, ...]
    settings: tuple[str, ...] = ()

    def composed(self, *overrides: str) -> dict[str, Any]:
        """A resolved config that trusts these prefixes."""
        from compressbench.specs.compose import composed

        return {**composed(list(overrides), str(self.path)), "trust": list(self.trusted)}

    def one(self, group: str, name: str, *more: str) -> dict[str, Any]:
        """The resolved content of one YAML, what it leaves open (``???``) filled in where that can be."""
        from compressbench.specs.compose import composing

        settings = [f"++{TRIED}.{setting}" for setting in self.settings]
        overrides = [*BASE, f"+{group}@{TRIED}={name}", *more, *settings]
        return composing(overrides, str(self.path), _filled)


def main(argv: list[str]) -> int:
    """The verb; returns an exit code: 0 all keep to the rule, 1 some don't."""
    parser = Parser(prog="compressbench check", description=__doc__)
    parser.add_argument("part", nargs="*", help="only these, e.g. probe/confidence; all by default")
    parser.add_argument("--config-dir", type=a_path, required=True, metavar="DIR", help="your own configs")
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="MODULE",
        help="your code that they name, again for more",
    )
    parser.add_argument(
        "--seconds", type=number, default=SECONDS,
        help=f"what a part may take, {SECONDS:.0f} by default; a recipe {RECIPES} times that",
    )  # fmt: skip
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE",
        help="a setting of the one part that is named, such as one that its YAML leaves open (???); again for more",
    )  # fmt: skip
    parser.add_argument("--debug", action="store_true", help="behind each line the traceback")
    args = parser.parse_intermixed_args(argv)
    if args.seconds <= 0:
        raise UserError(f"check: --seconds {args.seconds:g}: a number above 0 is wanted")
    path = config_folder(args.config_dir)
    folder = Folder(path, given_or_in(args.trust, [path]), tuple(args.set))
    wanted = _wanted(args.part, parts_in(path), path)
    if args.set and (len(args.part) != 1 or not _is_set(wanted[0]) or not all("=" in s for s in args.set)):
        raise UserError(
            "check: --set KEY=VALUE is for one part, named behind check: a stage, a probe, a target or a part of one"
        )
    with tempfile.TemporaryDirectory(prefix="compressbench-check-", ignore_cleanup_errors=True) as scratch:
        failed = sum(not _tried(part, call, args) for part, call in calls(wanted, folder, Path(scratch)))
    say(f"{len(wanted)} tried: {len(wanted) - failed} ok, {failed} not")
    return 1 if failed else 0


def parts_in(path: Path) -> list[Part]:
    """The YAML files in config groups of a folder, in the order of their groups."""
    found = [p.relative_to(path) for p in configs(path) if not p.stem.startswith("_")]
    return [Part(str(p.parent), p.stem) for p in sorted(found)]


def _wanted(given: list[str], known: list[Part], path: Path) -> list[Part]:
    """The parts that were asked for.

    Raises:
        UserError: there is none of that name, or none at all.
    """
    if not known:
        raise UserError(f"--config-dir: {path} holds no part, e.g. probe/NAME.yaml or stage/prune/NAME.yaml")
    for name in given:
        if name.startswith("trust="):
            raise UserError(f"check: {name} is how run has it; here it is --trust {name[6:].strip('[]')}")
        if name.removesuffix(".yaml") not in map(str, known):
            raise UserError(f"check: there is no {name!r} in {path}; {nearest(name, map(str, known))}")
    names = [n.removesuffix(".yaml") for n in given]
    return [p for p in known if str(p) in names] if names else known


def calls(parts: list[Part], folder: Folder, scratch: Path) -> Iterator[tuple[Part, Callable[[], str]]]:
    """Each part with what tries it, in a scratch folder of its own."""
    made: list[Ground] = []

    def ground() -> Ground:
        from compressbench.checking import ground as grounds
        from compressbench.data.load import load

        if not made:
            base = folder.composed(*BASE)
            made.append(
                grounds.ground(load(base["dataset"]), base["model"], folder.trusted, scratch / "ground")
            )
        return made[0]

    for place, part in enumerate(parts):
        how = _how(part)
        yield part, lambda p=part, how=how, place=place: how(p, folder, ground, scratch / str(place))  # type: ignore[misc]


def _is_set(part: Part) -> bool:
    """Whether a part is tried with settings of its own: all but what is composed as a whole run."""
    return part.group not in ("dataset", "model", "recipe", "evaluation")


How = Callable[[Part, Folder, Callable[[], "Ground"], Path], str]


def _how(part: Part) -> How:
    """How a part of this group is tried."""
    if part.group.startswith("stage/") or part.group in HOSTS:
        return _stage
    known: Mapping[str, How] = {
        "probe": _probe, "target": _target, "dataset": _dataset, "model": _model, "recipe": _recipe,
        "evaluation": _evaluation, "exit_criterion": _exit_criterion, "exit_head": _exit_head,
    }  # fmt: skip
    return known.get(part.group, _composed_alone)


def _stage(part: Part, folder: Folder, ground: Callable[[], Ground], scratch: Path) -> str:
    from compressbench.checking.ground import check_part

    if part.group in HOSTS:
        host, place = HOSTS[part.group]
        group, _, name = host.partition("=")
        spec = folder.one(group, name, f"+{part.group}@{TRIED}.{place}={part.name}")
    else:
        spec = folder.one(part.group, part.name)
    return check_part(spec, ground())


def _probe(part: Part, folder: Folder, ground: Callable[[], Ground], scratch: Path) -> str:
    from compressbench.checking.ground import check_own_probe

    return check_own_probe(folder.one(part.group, part.name), ground())


def _target(part: Part, folder: Folder, ground: Callable[[], Ground], scratch: Path) -> str:
    from compressbench.checking.ground import check_own_target

    return check_own_target(folder.one(part.group, part.name), ground())


def _dataset(part: Part, folder: Folder, ground: Callable[[], Ground], scratch: Path) -> str:
    from compressbench.checking.tasks import check_dataset
    from compressbench.data.load import load

    config = folder.composed(*BASE, f"dataset={part.name}")["dataset"]
    dataset = check_dataset(lambda: load(config, folder.trusted))
    sizes = ", ".join(f"{name} {len(split):,}" for name, split in dataset.splits.items())
    return f"{sizes}; {dataset.task.in_words()}"


def _model(part: Part, folder: Folder, ground: Callable[[], Ground], scratch: Path) -> str:
    """On the digits, or else on the first of the user's own data sets that it fits."""
    from compressbench.checking.ground import check_model
    from compressbench.checking.tasks import check_task
    from compressbench.data.load import load

    model = folder.composed(*BASE[:-1], f"model={part.name}")["model"]
    own = [p.name for p in parts_in(folder.path) if p.group == "dataset"]
    refused: list[UserError] = []
    for place, name in enumerate(["", *own]):
        try:
            chosen = [f"dataset={name}"] if name else []
            dataset = load(folder.composed(*BASE, *chosen)["dataset"], folder.trusted)
            check_task(dataset)
            return check_model(model, dataset, folder.trusted, scratch / str(place))
        except UserError as error:
            refused.append(error)
    raise refused[0] if len(refused) == 1 else UserError("; ".join(map(str, refused)))


def _recipe(part: Part, folder: Folder, ground: Callable[[], Ground], scratch: Path) -> str:
    from compressbench.checking.recipes import check_recipe
    from compressbench.specs.compose import SCALES

    def composed(scale: str) -> dict[str, Any]:
        return folder.composed(f"recipe={part.name}", f"scale={scale}", "hardware=cpu1", "evaluation=quick")

    return f"{len(check_recipe(part.name, composed, SCALES, scratch))} records"


def _evaluation(part: Part, folder: Folder, ground: Callable[[], Ground], scratch: Path) -> str:
    from compressbench import specs

    probes = folder.composed(*BASE[:3], f"evaluation={part.name}")["evaluation"].get("probes") or {}
    for name, spec in probes.items():
        if spec is not None:
            specs.check(spec, f"probes.{name}", folder.trusted, parts=("probes",))
            specs.build(spec, f"probes.{name}")
    return f"{len(probes)} probes, each of them buildable"


def _exit_criterion(part: Part, folder: Folder, ground: Callable[[], Ground], scratch: Path) -> str:
    from compressbench.checking.exits import check_exit_criterion

    return check_exit_criterion(folder.one(part.group, part.name), folder.trusted)


def _exit_head(part: Part, folder: Folder, ground: Callable[[], Ground], scratch: Path) -> str:
    from compressbench.checking.exits import check_exit_head

    return check_exit_head(folder.one(part.group, part.name), folder.trusted)


def _composed_alone(part: Part, folder: Folder, ground: Callable[[], Ground], scratch: Path) -> str:
    """What has no check of its own: that it can be composed, and names what there is."""
    from compressbench import specs

    content = folder.one(part.group, part.name)
    for place, spec in specs.walk(content):
        specs.trust.check_target(str(spec[specs.TARGET]), folder.trusted, place)
        specs.trust.locate(str(spec[specs.TARGET]), place)
    return "can be composed; a recipe that uses it tells more"


def _tried(part: Part, call: Callable[[], str], args: Any) -> bool:
    """Tries a part and says in one line what came out; True if it keeps to the rule."""
    from compressbench.checking.traces import Late, within

    seconds = args.seconds * (RECIPES if part.group == "recipe" else 1)
    raised: BaseException | None = None
    try:
        with within(seconds):
            more = call()
        say(clean_line(f"{part}: ok{f' ({more})' if more else ''}"))
        return True
    except Late:
        words = f"takes longer than {seconds:g} s; --seconds allows more"
    except UserError as error:
        words, raised = str(error), error
    except SystemExit as stop:
        words, raised = f"ends the process (SystemExit: {stop.code}); raise an error instead", stop
    except Exception as error:  # whatever a user's own code raises is a line
        said, kind = reason(error), type(error).__name__
        words, raised = f"raises {said if said.startswith(kind) else f'{kind}: {said}'}{_where(error)}", error
    say(clean_line(f"{part}: {words}"))
    if args.debug and raised is not None:
        say("".join(traceback.format_exception(raised)))
    return False


def _where(error: BaseException) -> str:
    """The innermost line of code that is neither compressbench's nor a library's; empty where there is none."""
    known = sysconfig.get_paths()
    places = [Path(__file__).parents[1], *(Path(known[n]) for n in ("stdlib", "purelib", "platlib"))]
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        f
        for f in frames
        if f.filename[0] != "<" and not any(Path(f.filename).is_relative_to(p) for p in places)
    ]
    return f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""


def _filled(config: DictConfig) -> dict[str, Any]:
    """The content of what is tried, resolved; open settings that something can stand in for are filled in."""
    from omegaconf import OmegaConf

    from compressbench import specs
    from compressbench.checking.ground import SHORT, missing

    for key in sorted(OmegaConf.missing_keys(config)):
        above, _, name = key.rpartition(".")
        if key.split(".")[0] == TRIED:
            spec = OmegaConf.to_container(OmegaConf.select(config, above), resolve=False)
            OmegaConf.update(config, key, missing(spec, name))
    content = OmegaConf.to_container(config[TRIED], resolve=True, throw_on_missing=True)
    if not isinstance(content, dict):
        raise UserError("no mapping; see the shipped ones in conf/")
    for _, spec in specs.walk(content):
        if "length" in spec:
            spec["length"] = SHORT  # type: ignore[index]
    return {str(k): v for k, v in content.items()}
