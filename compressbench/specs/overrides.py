"""Overrides as users type them: values that Hydra's grammar can't read are taken as the texts they are."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from compressbench.errors import UserError, nearest
from compressbench.paths import check_inside, nameless
from compressbench.specs.conf import conf_dir

COLUMNS = (
    "recipe",
    "model",
    "dataset",
    "scale",
    "hardware",
    "seed",
    "sweep",
    "outputs",
    "data_dir",
    "trust",
    "retime",
    "checkpoint_seconds",
    "log_probs_up_to",
    "beside",
)
"""Overrides that the records have columns for, or that change no figure."""
NEEDED = ("recipe", "model", "dataset", "evaluation", "hardware", "scale")
NO_NAME = re.compile(r"null|None|~|[-+]?[\d.]+")
INSIDE = ("hydra.output_subdir", "hydra.sweep.subdir")
"""Hydra's own settings that name a folder inside of a run's or a sweep's."""
WORDS = ("recipe", "sweep", "model", "dataset", "evaluation", "hardware", "scale")


def is_override(word: str) -> bool:
    """True for ``seed=1``, ``+a.b=2`` and ``~a.b``."""
    return not word.startswith("-") and ("=" in word or word.startswith("~"))


def readable(given: Iterable[str], several: bool = False) -> list[str]:
    """Overrides that Hydra can read.

    A value that its grammar can't read, or that is the path of something there, is quoted: ``~/data``,
    ``/a/epoch=3.pth``, ``/bilder [ä]/x``. What begins with a bracket or a quote is a list, a mapping or a text in quotes,
    and stays.

    Args:
        given: as typed.
        several: commas part values of a sweep.

    Raises:
        UserError: what stands before the ``=`` is no name, a bracket or a quote is left open, or what every run needs is
            taken away or given as a list.
    """
    return [_readable(text, several) for text in given]


def _readable(text: str, several: bool) -> str:
    key, sign, value = text.partition("=")
    if not key.strip("+~ "):
        where = "before the =" if sign else f"after the {text}"
        raise UserError(f"{text!r} is no override such as seed=1: a name is missing {where}")
    if key.startswith("~") and key[1:] in NEEDED:
        raise UserError(f"{text[:200]}: a run needs a {key[1:]}; {key[1:]}=NAME chooses another")
    if not sign:
        return text
    if key.lstrip("+") in INSIDE:
        check_inside(value.strip("'\""), key)
    if key.lstrip("+") == "hydra.job.chdir" and value.lower() == "true":
        raise UserError(f"{text}: outputs and data_dir would be looked for in the run's folder; leave it out")
    no_name = value.startswith(("[", "{")) or NO_NAME.fullmatch(value)
    if no_name and (key.lstrip("+") in NEEDED or (key == "sweep" and value != "null")):
        raise UserError(f"{text[:200]}: one name is wanted, {key}=NAME")
    if _is_path(value):
        return f"{key}={quoted(value)}"
    if _parses(text):
        return text
    if value.startswith(("[", "{", "'", '"')):
        raise UserError(
            f"{text[:200]!r}: a bracket or a quote is left open, or something stands where nothing may; "
            "a text of any characters is written key='\"text\"'"
        )
    parts = value.split(",") if several else [value]
    made = f"{key}={','.join(part if _parses(f'{key}={part}') else quoted(part) for part in parts)}"
    if not _parses(made):
        raise UserError(
            f"{text[:200]!r} is no override such as seed=1; {key[:100]!r} is no name of a setting"
        )
    return made


def _is_path(value: str) -> bool:
    """Whether a value with a slash in it is the path of something that is there."""
    if "/" not in value or "${" in value or value.startswith(("'", '"')):
        return False
    try:
        return Path(value).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False


def quoted(text: str) -> str:
    """A text as Hydra's grammar quotes it: backslashes count only before a quote."""
    return "'" + re.sub(r"(\\*)('|\Z)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text) + "'"


def _parses(text: str) -> bool:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        OverridesParser.create().parse_override(text)
    except (HydraException, ValueError, RecursionError):
        return False
    return True


def check_word(word: str, folders: tuple[Path, ...] = ()) -> None:
    """Refuses a word that is no override, with what was probably meant.

    Raises:
        UserError: always, unless it is one.
    """
    from compressbench.specs.compose import options

    if is_override(word):
        return
    begin = f"run: {word[:200]!r} is neither an option nor an override such as seed=1"
    for group in WORDS:
        if word in options(group, folders):
            raise UserError(f"{begin}; did you mean {group}={word}?")
    if word.lstrip("+") in (*COLUMNS, "evaluation"):
        raise UserError(f"{begin}; its value is missing: {word}=…")
    known = [f"recipe={name}" for name in options("recipe", folders)]
    raise UserError(f"{begin}; {nearest(f'recipe={word}', known, rest='compressbench list recipes')}")


def told(given: Sequence[str]) -> str:
    """What a run changed beyond the columns of its records, as a shell would be given it; no absolute path is in it."""
    kept = [t for t in given if key_of(t) not in COLUMNS and not re.match(r"hydra\b", key_of(t))]
    return shlex.join(nameless(_below_home(_unquoted(text))) for text in kept)


def parted(text: str) -> tuple[str, ...]:
    """The overrides in what ``told`` gave; a text that no shell could read is one of them."""
    try:
        return tuple(shlex.split(text))
    except ValueError:
        return (text,)


def key_of(text: str) -> str:
    """The name that an override is of, without its sign: ``a.b`` of ``+a.b=1``."""
    return text.partition("=")[0].lstrip("+~")


def _unquoted(text: str) -> str:
    key, sign, value = text.partition("=")
    if len(value) > 1 and value[0] == value[-1] == "'" and value == quoted(inner := value[1:-1]):
        return f"{key}{sign}{inner}"
    return text


def _below_home(text: str) -> str:
    """``~/…/x`` names no user: its last part is told."""
    key, sign, value = text.partition("=")
    return f"{key}{sign}…/{Path(value).name}" if value.startswith("~/") and Path(value).name != "~" else text


def company(given: Sequence[str]) -> list[str]:
    """For a sweep over seeds whose trainings go in lanes: ``beside`` for each of its jobs, the seeds of all of them."""
    lanes = next((t.partition("=")[2] for t in given if key_of(t) == "hardware.lanes"), "")
    swept = next((t for t in given if key_of(t) == "seed"), "")
    if not re.fullmatch("[0-9]+", lanes) or lanes == "1" or any(key_of(t) == "beside" for t in given):
        return []
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_override(swept)
        seeds = list(parsed.sweep_string_iterator()) if parsed.is_discrete_sweep() else []
    except HydraException:  # Hydra says itself what is wrong
        return []
    return [f"beside=[{','.join(map(str, seeds))}]"] if seeds else []


def check_recipe(given: Iterable[str], verb: str = "run") -> None:
    """Refuses a run of which nobody said what it is to do: none begins by itself.

    Raises:
        UserError: neither a recipe nor a sweep, which names recipes, is chosen.
    """
    chosen = {key_of(text): text.partition("=")[2].strip("'\" ") for text in given if "=" in text}
    if {chosen.get(name, "null").lower() for name in ("recipe", "sweep")} == {"null"}:
        raise UserError(usage(verb))


def usage(verb: str = "run") -> str:
    """What a verb that needs a recipe says without one."""
    shipped = len(list((conf_dir() / "recipe").glob("*.yaml")))
    how_long = " (minutes on a laptop; seconds with scale=smoke)" if verb == "run" else ""
    return (
        f"{verb}: which recipe? e.g. compressbench {verb} recipe=lth_resnet{how_long}; "
        f"compressbench list recipes names all {shipped}"
    )
