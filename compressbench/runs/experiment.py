"""One run: from a composed config to records and a report."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressbench import specs
from compressbench.data.load import load as load_data
from compressbench.errors import Incomplete, UserError, nearest
from compressbench.hardware.target import check_threads
from compressbench.paths import file_name, label, outputs_folder, write_text
from compressbench.records import Record, Records, write_csv, write_jsonl
from compressbench.report.published import published
from compressbench.runs.execute import Executor, RunColumns, Setting, Watcher
from compressbench.runs.plan import Context, Plan, make
from compressbench.specs.compose import SCALES, as_published, check_seed
from compressbench.specs.conf import conf_dir
from compressbench.specs.trust import locate, prefixes
from compressbench.store import Store

if TYPE_CHECKING:
    from compressbench.data.dataset import Dataset

KEYS = (
    "recipe",
    "model",
    "dataset",
    "hardware",
    "evaluation",
    "scale",
    "seed",
    "outputs",
    "data_dir",
    "trust",
    "checkpoint_seconds",
    "retime",
    "log_probs_up_to",
    "sweep",
    "beside",
)
OPTIONAL = ("beside", "trust", "data_dir", "retime", "log_probs_up_to", "sweep")
HARDWARE = ("name", "threads", "device", "lanes", "launch", "target")
ONE_EACH = {"@classes", "@names"}
"""What a model asks for that names one class an example."""
LAUNCHES = ("eager", "compiled", "graph")
MOST_LANES = 64
MAPPINGS = ("recipe", "model", "dataset", "hardware", "evaluation", "scale")


@dataclass(frozen=True)
class Experiment:
    """A run made ready: nothing has been computed yet."""

    config: Mapping[str, Any]
    dataset: Dataset
    plan: Plan
    setting: Setting
    store: Store
    published: tuple[Record, ...] = ()


def prepare(config: Mapping[str, Any], writable: bool = True, overrides: str = "") -> Experiment:
    """Checks a resolved config as a whole and makes the plan; torch is not imported.

    Args:
        writable: whether the store will be written; False for one that is only read.
        overrides: what the records' column of that name says.

    Raises:
        UserError: the first fault found.
    """
    check_keys(config)
    seed, hardware = config["seed"], config["hardware"]
    outputs = outputs_folder(config["outputs"])
    trusted = prefixes(config.get("trust"))
    threads, device = hardware["threads"], hardware["device"]
    seconds = config["checkpoint_seconds"]
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
        raise UserError(f"checkpoint_seconds: {seconds!r} is not a number, 0 or more")
    build = config["model"].get("build")
    if not specs.is_spec(build):
        raise UserError("model.build: a spec with _target_ is wanted")
    specs.check(build, "model.build", trusted, parts=("models",))
    probes = _probes(config["evaluation"], trusted)
    target = hardware.get("target")
    if target is not None:
        if not specs.is_spec(target):
            raise UserError(
                f"hardware.target: {target!r} is no spec with _target_; choose a target by its YAML"
            )
        specs.check(target, "hardware.target", trusted, parts=("hardware",))
    columns = RunColumns(
        recipe=file_name(config["recipe"].get("name"), "recipe.name"),
        model=label(config["model"].get("name") or str(build[specs.TARGET]), "model.name"),
        dataset=label(config["dataset"].get("name") or _reader(config["dataset"]), "dataset.name"),
        scale=label(config["scale"].get("name"), "scale.name"),
        hardware=label(hardware.get("name"), "hardware.name"),
        seed=seed,
        overrides=overrides,
    )
    if columns.scale not in SCALES:
        raise UserError(f"scale.name: unknown {columns.scale!r}; {nearest(columns.scale, SCALES)}")
    dataset = load_data(config["dataset"], trusted)
    probes = {name: spec for name, spec in probes.items() if _suits(name, spec, dataset)}
    lanes, launch = hardware.get("lanes", 1), hardware.get("launch", "eager")
    context = Context(dataset.fingerprint, device, threads, trusted, lanes, launch)
    recipe = config["recipe"]
    plan = make(recipe, seed, context, _beside(config.get("beside"), lanes))
    _check_models(plan, dataset)
    _check_moments(plan, probes)
    of_moments = _probes(config["evaluation"], trusted, "of_moments")
    asked = _asked(plan, config["evaluation"].get("probes") or {}, of_moments, config["scale"])
    retime = config.get("retime", False)
    if not isinstance(retime, bool):
        raise UserError(f"retime: {retime!r} is not true or false")
    kept = config.get("log_probs_up_to", 1000)
    if isinstance(kept, bool) or not isinstance(kept, int) or kept < 0:
        raise UserError(f"log_probs_up_to: {kept!r} is not a whole number of classes, 0 or more")
    _check_populations(plan, {**asked, **probes}, dataset)
    for name, spec in {**asked, **probes}.items():
        check = getattr(specs.build(spec, f"evaluation.probes.{name}"), "check", None)
        if check is not None:
            check(dataset)
    setting = Setting(dataset, context, columns, probes, target, float(seconds), asked, retime, kept)
    told = published((recipe.get("compare") or {}).get("published"), columns)
    return Experiment(config, dataset, plan, setting, Store(outputs / "store", writable), told)


def unmeasured(ready: Experiment) -> dict[str, str]:
    """By name the probes that can't measure anything on the data set, and why (see ``probes.unfit``)."""
    found = {}
    for name, spec in {**ready.setting.asked, **ready.setting.probes}.items():
        unfit = getattr(specs.build(spec, f"evaluation.probes.{name}"), "unfit", None)
        if unfit is not None and (why := unfit(ready.dataset)):
            found[name] = why
    return found


def _check_models(plan: Plan, dataset: Dataset) -> None:
    """Refuses a model that asks what the data don't tell: one for pictures where the examples are texts.

    Raises:
        UserError: naming the stage, the model and some that such data would do for.
    """
    facts = dataset.task.facts()
    for node in plan.nodes:
        model = getattr(node.stage, "model", None)
        if not isinstance(model, Mapping) or not specs.is_spec(model.get("build")):
            continue
        wanted = _asked_of(model["build"])
        lacking = sorted(wanted - set(facts))
        for fact in lacking:
            if fact not in _told_elsewhere():
                raise UserError(f"stage {node.name}: model: {fact!r} is not known; {nearest(fact, facts)}")
        if lacking:
            name = model.get("name") or str(model["build"][specs.TARGET])
            raise UserError(
                f"stage {node.name}: model {name} asks for {', '.join(lacking)}, which {dataset.name} doesn't tell "
                f"(examples: {dataset.task.in_words()}); models for such data: {', '.join(_fitting(facts)) or 'none'}"
            )


def _asked_of(value: Any) -> set[str]:
    """What a spec asks of a task: values such as ``@classes``."""
    if isinstance(value, Mapping):
        return set().union(*map(_asked_of, value.values())) if value else set()
    if isinstance(value, list | tuple):
        return set().union(*map(_asked_of, value)) if value else set()
    return {value} if isinstance(value, str) and value.startswith("@") else set()


def _asked_by_shipped() -> dict[str, set[str]]:
    """By the names of the shipped models what each asks of a task; nothing where it takes over another's YAML."""
    paths = sorted((conf_dir() / "model").glob("*.yaml"))
    return {path.stem: set(re.findall(r"@\w+", path.read_text(encoding="utf-8"))) for path in paths}


def _told_elsewhere() -> set[str]:
    """What shipped models ask for, of whatever data."""
    return set().union(*_asked_by_shipped().values())


def _fitting(facts: Mapping[str, Any], most: int = 6) -> list[str]:
    """Some shipped models that ask for all that makes these data what they are."""
    one_each = ONE_EACH if facts.get("@names") else set(facts)
    found = [
        name
        for name, wanted in _asked_by_shipped().items()
        if wanted - {"@classes"} and wanted <= set(facts) and wanted & one_each
    ]
    return [*found[:most], "…"] if len(found) > most else found


def check_keys(config: Mapping[str, Any]) -> None:
    """Checks what a plan needs of a resolved config: its parts, seed, threads and device.

    Raises:
        UserError: the first fault.
    """
    for key in config:
        if key not in KEYS:
            raise UserError(f"unknown key {key!r}; {nearest(str(key), KEYS)}")
    for key in KEYS:
        if key not in (*OPTIONAL, *config):
            raise UserError(f"{key}: a value is needed")
        if key in MAPPINGS and not isinstance(config[key], Mapping):
            raise UserError(f"{key}: {config[key]!r} is no mapping; choose one by its name, {key}=NAME")
    check_seed(config["seed"])
    hardware = config["hardware"]
    check_threads(hardware.get("threads"), "hardware.threads")
    for group, known in (
        ("evaluation", ("probes", "of_moments")),
        ("hardware", HARDWARE),
        ("scale", ("name",)),
    ):
        for key in config[group]:
            if key not in known:
                raise UserError(f"{group}: unknown key {key!r}; {nearest(str(key), known)}")
    device = hardware.get("device")
    if not isinstance(device, str) or not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise UserError(f"hardware.device: unknown {device!r}; cpu, cuda or cuda:0 are known")
    lanes, launch = hardware.get("lanes", 1), hardware.get("launch", "eager")
    if isinstance(lanes, bool) or not isinstance(lanes, int) or not 1 <= lanes <= MOST_LANES:
        raise UserError(f"hardware.lanes: {lanes!r} is not a whole number from 1 to {MOST_LANES}")
    if launch not in LAUNCHES:
        raise UserError(f"hardware.launch: unknown {launch!r}; {nearest(str(launch), LAUNCHES)}")
    if launch == "graph" and device == "cpu":
        raise UserError(
            "hardware.launch: a graph is recorded on a GPU, and the device is cpu; eager or compiled"
        )


def _beside(seeds: Any, lanes: int) -> tuple[int, ...]:
    """Seeds that are trained beside the run's own.

    Raises:
        UserError: they are no seeds, or there are no lanes for them.
    """
    if not seeds:
        return ()
    if not isinstance(seeds, list | tuple):
        raise UserError(f"beside: {seeds!r} is no list of seeds, e.g. [1,2,3]")
    for seed in seeds:
        check_seed(seed)
    if lanes == 1:
        raise UserError("beside: other seeds are company in lanes; set hardware.lanes to 2 or more as well")
    return tuple(seeds)


def _reader(dataset: Mapping[str, Any]) -> str:
    """What a data set without a name is called: as its reader."""
    read = dataset.get("read")
    return str(read.get(specs.TARGET)).rpartition(".")[2] if isinstance(read, Mapping) else "data"


def _probes(
    evaluation: Mapping[str, Any], trusted: tuple[str, ...], key: str = "probes"
) -> dict[str, Mapping[str, Any]]:
    if not isinstance(evaluation.get(key) or {}, Mapping):
        raise UserError(f"evaluation.{key}: {evaluation[key]!r} is no mapping of names and probes")
    probes = {name: spec for name, spec in (evaluation.get(key) or {}).items() if spec is not None}
    for name, spec in probes.items():
        where = f"evaluation.{key}.{name}"
        if not specs.is_spec(spec):
            raise UserError(f"{where}: not a probe; add it with +probe@evaluation.{key}.{name}={name}")
        specs.check(spec, where, trusted, parts=("probes",))
        specs.build(spec, where)
    return probes


def _suits(name: str, spec: Mapping[str, Any], dataset: Dataset) -> bool:
    """False for a probe that itself says it has nothing to say of a data set."""
    suits = getattr(specs.build(spec, f"evaluation.probes.{name}"), "suits", None)
    return suits is None or bool(suits(dataset))


def _asked(
    plan: Plan, given: Mapping[str, Any], own: Mapping[str, Mapping[str, Any]], scale: Mapping[str, Any]
) -> dict[str, Mapping[str, Any]]:
    """Probes that a moment names and the evaluation leaves open, by its ``of_moments`` or as shipped.

    There is none where the evaluation has no probe at all.
    """
    from omegaconf import DictConfig, OmegaConf

    from compressbench.specs.compose import plain, register

    register()  # a finished run is opened without composing
    names = dict.fromkeys(p for m in plan.measures for p in m.probes or () if given and p not in given)
    files = {name: conf_dir() / "probe" / f"{name}.yaml" for name in names if name not in own}
    return {name: own[name] for name in names if name in own} | {
        name: plain(OmegaConf.create({"scale": dict(scale), "probe": loaded}))["probe"]
        for name, path in files.items()
        if path.is_file() and isinstance(loaded := OmegaConf.load(path), DictConfig)
    }


def _check_moments(plan: Plan, probes: Mapping[str, Any]) -> None:
    shipped = {path.stem for path in (conf_dir() / "probe").glob("*.yaml")}
    for measure in plan.measures:
        for name in measure.probes or ():
            if name not in probes and name not in shipped:
                raise UserError(
                    f"recipe.compare.moments.{measure.moment}.probes: there is no probe {name!r}; "
                    f"{nearest(name, {*probes, *shipped})}"
                )


def _check_populations(plan: Plan, probes: Mapping[str, Mapping[str, Any]], dataset: Dataset) -> None:
    """Refuses trainings that nothing would or could measure, and probes of populations where states are measured.

    Raises:
        UserError: see above; a run without any probe makes states only, and is let be.
    """
    kinds = {name: locate(str(spec[specs.TARGET])) for name, spec in probes.items()}
    many = [name for name, kind in kinds.items() if hasattr(kind, "measure_many")]
    if probes and not many and any(m.members for m in plan.measures):
        raise UserError(
            "recipe.compare.populations: the evaluation has no probe that measures populations; "
            "add +probe@evaluation.probes.agreement=agreement, or drop them with recipe.compare.populations=null"
        )
    labels = dataset.split("test").labels
    if any(m.members for m in plan.measures) and (
        getattr(labels, "ndim", 0) != 1 or labels.dtype.kind not in "iu"
    ):
        raise UserError(
            f"recipe.compare.populations: an example of {dataset.name} has more than one class, or none; "
            "populations are of tasks that give each example one"
        )
    for measure in plan.measures:
        for name in measure.probes or ():
            if name in many and not hasattr(kinds[name], "measure"):
                raise UserError(
                    f"recipe.compare.moments.{measure.moment}.probes: {name} measures populations; what it measures "
                    "is named in recipe.compare.populations"
                )


def execute(experiment: Experiment, watcher: Watcher, into: list[Record]) -> Records:
    """Runs what is missing; ``into`` holds at all times the records of what is done, also after an error."""
    executor = Executor(experiment.plan, experiment.store, experiment.setting, watcher)
    try:
        records = Records([*executor.run(), *experiment.published])
    except BaseException as error:
        with contextlib.suppress(Exception):
            into[:] = list(executor.records())
        if isinstance(error, OSError):  # a full disk, a store that went away: it ran, and failed
            raise Incomplete(f"{error.strerror or error} {error.filename or ''}".strip()) from error
        raise
    into[:] = list(records)
    return records


def write(experiment: Experiment, records: Records, folder: Path) -> Path:
    """Writes records, ``config.yaml``, ``series.json``, SVGs and ``report.html``; returns the last one's path.

    Raises:
        Incomplete: the folder can't be written.
    """
    from omegaconf import OmegaConf

    from compressbench.report.described import lines_of, write_lines
    from compressbench.report.page import write_report
    from compressbench.runs.in_a_line import in_a_line

    config, lines = dict(experiment.config), lines_of(in_a_line(experiment.plan))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(config)))
        write_jsonl(records, folder / "records.jsonl")
        write_csv(records, folder / "records.csv")
        write_lines(lines, folder)
        columns = experiment.setting.columns
        title = f"{columns.recipe}: {columns.model} on {columns.dataset}"
        return write_report(records, folder, title, as_published(config), lines=lines)
    except OSError as error:
        raise Incomplete(
            f"outputs: can't write to {folder}: {error.strerror}; what was made is kept"
        ) from error
