"""Composing configs with Hydra, and turning its complaints into one clear line. Imports neither torch nor torchvision."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from compressbench.errors import UserError, nearest
from compressbench.paths import (
    file_name,
    given_path,
    nameless,
    outputs_folder,
    resolved,
    weights_folder,
)
from compressbench.specs.conf import conf_dir, listing
from compressbench.wording import shown

T = TypeVar("T")

LARGEST = 4_000_000
DEEPEST, MOST_VALUES = 100, 100_000
SCALES = ("smoke", "laptop", "paper")
GROUPS = ("recipe", "model", "dataset", "hardware", "evaluation", "scale")
SHARED = ("length", "batch_size", "lr", "weight_decay", "warmup", "validate")
UNSAID = "default"


def _at_scale(smoke: Any, laptop: Any, paper: Any, *, _root_: DictConfig) -> Any:
    name, values = _root_.scale.name, {"smoke": smoke, "laptop": laptop, "paper": paper}
    if not isinstance(name, str) or name not in values:
        raise UserError(f"scale.name: {name!r} is none of {', '.join(values)}; choose one by scale=NAME")
    return values[name]


def _recipe_train(setting: str, *otherwise: Any, _root_: DictConfig, _parent_: DictConfig) -> Any:
    """A setting of a training as ``recipe.train`` has it, or else ``otherwise``."""
    block = OmegaConf.select(_root_, "recipe.train")
    if block is not None and not isinstance(block, DictConfig):
        raise UserError(f"recipe.train: {shown(block)} is no mapping of what the trainings of a recipe share")
    for key in block or ():
        if key not in SHARED:
            raise UserError(f"recipe.train: unknown key {str(key)!r}; {nearest(str(key), SHARED)}")
    said = UNSAID if block is None else block.get(setting, UNSAID)
    if said != UNSAID:
        return said
    if not otherwise:
        place = _parent_._get_full_key(setting)
        raise UserError(f"{place}: a value is needed; recipe.train.{setting} gives one to all trainings")
    return otherwise[0]


def register() -> None:
    """Makes ``${at_scale:smoke,laptop,paper}``, ``${recipe_train:setting,otherwise}``, ``${run_name:…}``,
    ``${outputs_folder:…}`` and ``${weights_folder:name}`` known to the configs.
    """
    OmegaConf.register_new_resolver("at_scale", _at_scale, replace=True)
    OmegaConf.register_new_resolver("recipe_train", _recipe_train, replace=True)
    OmegaConf.register_new_resolver("run_name", run_name, replace=True)
    OmegaConf.register_new_resolver("weights_folder", weights_folder, replace=True)
    OmegaConf.register_new_resolver("outputs_folder", lambda value: str(outputs_folder(value)), replace=True)


def run_name(recipe: Any, seed: Any) -> str:
    """How the folder of a run begins.

    Raises:
        UserError: the recipe's name is none, or the seed no whole number of 0 or more.
    """
    return f"{file_name(recipe, 'recipe.name')}_seed{check_seed(seed)}"


def check_seed(seed: Any) -> int:
    """A seed.

    Raises:
        UserError: it is no whole number of 0 or more.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise UserError(f"seed: {shown(seed)} is not a whole number, 0 or more")
    if seed >= 2**63:
        raise UserError(f"seed: {seed} is too large; below {2**63:,}")
    return seed


def plain(config: DictConfig) -> dict[str, Any]:
    """A composed config as resolved plain data.

    Raises:
        UserError: an interpolation that leads nowhere, or a value that is still missing (``???``).
    """
    try:
        resolved = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(explain(error)) from error
    assert isinstance(resolved, dict)
    return {str(k): v for k, v in resolved.items()}


def composed(overrides: list[str], config_dir: str | None = None) -> dict[str, Any]:
    """A resolved config from overrides, by Hydra's compose API.

    Raises:
        UserError: one clear line for whatever can't be composed.
    """
    return composing(overrides, config_dir, plain)


def composing(overrides: list[str], config_dir: str | None, read: Callable[[DictConfig], T]) -> T:
    """What ``read`` makes of the config that overrides compose, by Hydra's compose API.

    Raises:
        UserError: one clear line for whatever can't be composed or read.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from compressbench.specs import let_import_from
    from compressbench.specs.overrides import readable

    register()
    folders = [config_folder(config_dir)] if config_dir is not None else []
    let_import_from(Path.cwd(), *folders)
    extra = [f"hydra.searchpath=[{','.join(f'file://{f}' for f in folders)}]"] if folders else []
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
            return read(compose("config", overrides=[*readable(overrides), *extra]))
    except Exception as error:  # Hydra and omegaconf raise all kinds for configs that can't be composed
        raise UserError(explain(error, tuple(folders))) from error


def plain_data(path: Path) -> dict[str, Any]:
    """What a run's ``config.yaml`` holds: data, in which nothing is resolved and nothing refers to anything else.

    Raises:
        UserError: it can't be read, is no mapping, or holds an alias, a missing value or an interpolation.
    """
    import yaml

    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > LARGEST:
            raise UserError(f"{path}: no such file, a link, or too large for a run's config")
        text = path.read_text(encoding="utf-8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise UserError(f"{path}: a run's config is plain data; this one holds an alias (*name)")
        loaded = OmegaConf.create(text)
        found = OmegaConf.to_container(loaded, resolve=False, throw_on_missing=True)
    except (OSError, ValueError, TypeError, yaml.YAMLError, OmegaConfBaseException, RecursionError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: can't be read: {reason}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: not a run's config")
    _refuse_interpolations(found, str(path))
    return {str(k): v for k, v in found.items()}


def config_folder(given: str | Path) -> Path:
    """A folder of the user's own configs.

    Raises:
        UserError: it is none, or holds what ``check_folders`` refuses.
    """
    folder = resolved(given_path(given, "--config-dir"), "--config-dir")
    if not folder.is_dir():
        raise UserError(f"--config-dir: {folder} is no folder")
    check_folders([folder])
    return folder


def check_folders(folders: Iterable[Path]) -> None:
    """Refuses YAML below folders of the user's that would take for ever to compose.

    Raises:
        UserError: a file is nested too deeply, or its aliases make more of it than anybody means, or go in a circle.
    """
    for path in (p for folder in folders for p in sorted(folder.rglob("*.yaml"))):
        with contextlib.suppress(OSError, ValueError, yaml_error()):  # reported if a config uses it
            if path.is_file():
                _check_size(path)


def yaml_error() -> type[Exception]:
    """``yaml.YAMLError``, imported late."""
    import yaml

    return yaml.YAMLError


def _check_size(path: Path) -> None:
    """Counts the values that a file would have without aliases; nothing is made of it."""
    import yaml

    sizes: dict[str, int] = {}
    stack: list[tuple[str | None, int]] = [(None, 0)]
    for event in yaml.parse(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            stack.append((event.anchor, 1))
            size = 0
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = stack.pop()
            if anchor is not None:
                sizes[anchor] = size
        elif isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in stack):
                raise UserError(f"{path}: the alias *{event.anchor} is inside of what it stands for")
            size = sizes.get(event.anchor, 1)
        else:
            size = 1
        stack[-1] = (stack[-1][0], stack[-1][1] + size)
        if len(stack) > DEEPEST or stack[-1][1] > MOST_VALUES:
            raise UserError(
                f"{path}: more than {DEEPEST} levels deep, or more than {MOST_VALUES:,} values; no config is that large"
            )


def _broken(folders: Iterable[Path]) -> str:
    """The first file below folders that is no YAML of UTF-8, and why."""
    import yaml

    for path in (p for folder in folders for p in sorted(folder.rglob("*.yaml"))):
        try:
            if path.is_file():
                list(yaml.parse(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader))
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            at = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
            return f"{path}{at}: no valid YAML: {error.problem or error}"
        except (OSError, ValueError, yaml.YAMLError) as error:
            return f"{path}: no valid YAML: {' '.join(str(error).split())}"
    return ""


def _refuse_interpolations(value: Any, where: str) -> None:
    if isinstance(value, dict):
        for name, inner in value.items():
            _refuse_interpolations(name, where)
            _refuse_interpolations(inner, f"{where}: {name}" if ": " not in where else f"{where}.{name}")
    elif isinstance(value, list):
        for inner in value:
            _refuse_interpolations(inner, where)
    elif isinstance(value, str) and "${" in value:
        raise UserError(f"{where}: a run's config is plain data; this one holds an interpolation, {value!r}")


def as_published(config: dict[str, Any]) -> str:
    """A run's config as YAML for a report: absolute paths, which name a user, keep their last part only."""
    return OmegaConf.to_yaml(OmegaConf.create(nameless(config)))


def options(group: str, folders: tuple[Path, ...] = ()) -> list[str]:
    """Names that a config group offers, shipped and in the user's own folders."""
    return sorted(
        path.stem
        for folder in (conf_dir(), *folders)
        for path in (folder / group).glob("*.yaml")
        if not path.stem.startswith("_")
    )


def explain(error: BaseException, folders: tuple[Path, ...] = ()) -> str:
    """One line for an error of composition: what is wrong, where, the nearest names."""
    from hydra.errors import HydraException, OverrideParseException

    inner: BaseException | None = error
    while inner is not None:  # a UserError of ours may be wrapped by OmegaConf
        if isinstance(inner, UserError):
            return str(inner)
        inner = inner.__cause__ or inner.__context__
    while not str(error) and error.__cause__ is not None:  # Hydra wraps some in an empty one
        error = error.__cause__
    if isinstance(error, UnicodeDecodeError | yaml_error()) and (told := _broken(folders)):
        return told
    if isinstance(error, RecursionError):
        return "the config is nested too deeply, or refers to itself"
    text = str(error)
    if isinstance(error, OverrideParseException):
        return f"{error.override!r} is no override such as seed=1; is a bracket or a quote left open?"
    found = re.search(r"[Cc]ould not find '([\w/\-.]+?)/(?:(/[^']*)|([^'/]*|\.[^']*))'", text)
    if found:
        group, name = found[1], found[2] or found[3]
        own = re.findall(
            r"^\t(\S+)$", text.partition("Available options")[2], re.M
        )  # also of Hydra's own groups
        known = options(group, folders) or [o for o in own if not o.startswith("_")]
        near = nearest(name, known, rest=listing(group))
        return f"unknown {group} {name!r}; {near}" if name else f"{group}=: a name is missing; {near}"
    found = re.search(r"config group '([^']*)' does not exist", text)
    if found:
        return f"there is no config group {found[1]!r}; {nearest(found[1], _groups(folders))}"
    found = re.search(r"^Error merging override ([^=\s]+)=(.*)$", text, re.S)
    if found:
        key, value = found[1].lstrip("+"), found[2][:100]
        return (
            f"{key}: {value} is no valid interpolation such as ${{recipe.length}}"
            if "${" in value
            else f"{key}: {value} can't take the place of what stands there, which is of another form"
        )
    found = re.search(r"Cannot find primary config '([^']*)'", text)
    if found:
        return (
            f"--config-name: there is no {found[1]}.yaml in {' or '.join(map(str, (*folders, conf_dir())))}"
        )
    if "Primary config" in text:
        return "--config-path: leave it out; --config-dir FOLDER adds a folder with your own configs"
    inside = re.search(r"full_key: (\S+)", str(error.__cause__ or ""))
    if inside and "is not in struct" in str(error.__cause__) and f"'{inside[1].rpartition('.')[0]}'" in text:
        return _unknown_key(inside[1], _siblings(error))
    found = re.search(r"Could not (?:override|delete) '([^']*)'\.", text) or re.search(
        r"full_key: (\S+)", text
    )
    if found and "@" in found[1]:
        return _unknown_place(
            found[1], re.findall(r"(\S+?@[^\s,?]+)", text.partition("override one of ")[2] or text)
        )
    if found and ("Could not override" in text or "is not in struct" in text):
        return _unknown_key(found[1], _siblings(error))
    found = re.search(r"Could not delete from config\. '([^']*)' does not exist", text)
    if found:
        return f"~{found[1]}: there is no such setting"
    found = re.search(r"Could not append to config\. An item is already at '([^']+)'", text)
    if found:
        return f"+{found[1]}: there is one already; without the + it is changed"
    found = re.search(r"Multiple values for ([^\s]+?)\. To override", text)
    if found:
        return f"{found[1]} is chosen twice; leave out the + to choose another"
    found = re.search(r"^(\S+) appears more than once in the final defaults list", text)
    if found:
        return f"{found[1]} is chosen twice; one recipe, without a +, is wanted"
    found = re.search(r"Ambiguous value for argument '(.*?)=([^']*)'", text)
    if found:
        key, values = found.groups()
        if key.partition("@")[0].partition("/")[0] in _groups(folders) or "@" in key or "/" in key:
            return f"{key}={values} are several names; one is wanted, and -m runs one after the other"
        return (
            f"{key}={values} are several values; -m runs one after the other, {key}=[{values}] is a list, "
            f"and {key}='\"{values}\"' one text"
        )
    found = re.search(r"Interpolation key '([^']+)' not found", text)
    if found:
        return f"{found[1]}: a value is needed; another setting refers to it"
    found = re.search(r"Missing mandatory value: (\S+)", text)
    if found:
        full = re.search(r"full_key: (\S+)", text)
        return f"{full[1] if full else found[1]}: a value is needed"
    first = " ".join(line.strip() for line in text.splitlines() if line.strip() and "full_key" not in line)
    first = re.sub(r" (?:object|reference)_type=\S+", "", first)
    first = re.sub(
        r"Recursive interpolation detected|maximum recursion depth exceeded.*", "it refers to itself", first
    )
    first = re.sub(r"^\w+ raised while resolving interpolation: ", "", first).strip('"')
    first = re.sub(r"^Unsupported interpolation type (\S+)", r"there is no interpolation ${\1:…}", first)
    full = re.search(r"full_key: (\S+)", text)
    if not isinstance(error, HydraException | OmegaConfBaseException):
        first = f"the config can't be composed: {type(error).__name__}: {first}"
    return f"{full[1]}: {first}" if full and full[1] not in first else first


def _groups(folders: tuple[Path, ...]) -> list[str]:
    """Every config group, as it is written before the ``@``."""
    return sorted(
        {
            str(path.parent.relative_to(folder))
            for folder in (conf_dir(), *folders)
            for path in folder.glob("*/**/*.yaml")
        }
    )


def _unknown_place(full: str, offered: list[str]) -> str:
    """For a ``group@place`` that isn't in the recipe, with those of the group that are, as Hydra's error offers them."""
    group, _, place = full.partition("@")
    there = sorted(
        {o.partition("@")[2].rstrip(".?,") for o in offered if o.startswith(f"{group}@")} - {place}
    )
    begin = f"{full}: the recipe has no {group} at {place}"
    if not there:
        return f"{begin}; compressbench explain recipe=NAME says what stages it has"
    return f"{begin}; {group} is chosen at {', '.join(there)}"


def _unknown_key(full: str, siblings: list[str]) -> str:
    group = full.partition("@")[0]
    if "/" in group or group in GROUPS:
        return f"no config group is overridden by {full!r}; {nearest(group, GROUPS)}"
    last = full.rpartition(".")[2]
    new = f" (a key that is really new is added with +{full}=…)" if "." in full else ""
    return f"unknown key {full!r}; {nearest(last, siblings)}{new}"


def _siblings(error: BaseException) -> list[str]:
    """The keys that stand where the misspelt one was looked for; omegaconf's error knows the place."""
    inner: BaseException | None = error
    while inner is not None:
        parent = getattr(inner, "parent_node", None)
        if isinstance(parent, DictConfig):
            return [str(key) for key in parent]
        inner = inner.__cause__ or inner.__context__
    return []
