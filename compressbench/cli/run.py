"""``compressbench run``: Hydra's command line around ``compressbench.runs.experiment``."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from hydra.experimental.callback import Callback

from compressbench.cli.parser import misspelt
from compressbench.console import clean_line, say
from compressbench.errors import Incomplete, UserError
from compressbench.paths import outputs_folder, write_text
from compressbench.specs.compose import composed
from compressbench.specs.conf import conf_dir
from compressbench.specs.overrides import (
    check_recipe,
    check_word,
    company,
    is_override,
    readable,
    told,
    usage,
)

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from compressbench.records import Record, Records

T = TypeVar("T")
FAILED = "error.txt"
ASKING = {
    "--help",
    "-h",
    "--hydra-help",
    "--cfg",
    "-c",
    "--info",
    "-i",
    "--shell-completion",
    "-sc",
    "--config-name",
    "-cn",
}
"""Options with which nothing runs, or with which the user's own config says what does."""
_caught: list[BaseException] = []
_codes: list[int] = []
"""Exit codes of a sweep's failed jobs, as far as they ran in this process."""


class JointReport(Callback):
    """Hydra callback: after the last job of a multirun, one report of all of them in the sweep's folder."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Called by Hydra, which would turn an exception into a warning: ``main`` raises what is left in ``_caught``."""
        from compressbench.report.joint import joint_report

        folder = Path(config.hydra.sweep.dir)
        failed = sorted(folder.rglob(FAILED))
        if any(folder.rglob("records.jsonl")):
            path = joint_report([folder], folder)
            say(f"joint report of the sweep: {path}")
        if failed:
            names = ", ".join(path.parent.name for path in failed)
            words = f"{len(failed)} of the sweep's jobs failed: {names}"
            refused = all(code == UserError.code for code in _codes) and len(_codes) == len(failed)
            none = not any(folder.rglob("records.jsonl"))
            _caught.append(UserError(words) if refused and none else Incomplete(words))


def main(argv: list[str]) -> int:
    """The verb; returns an exit code."""
    if not argv:
        raise UserError(usage())
    if "--version" in argv:
        from compressbench import __version__

        say(f"compressbench {__version__}")
        return 0
    import hydra

    from compressbench.specs.compose import explain, register

    register()
    _caught.clear()
    _codes.clear()
    os.environ["HYDRA_FULL_ERROR"] = "1"
    folders = _config_dirs(argv)
    _let_import(folders)
    before = sys.argv
    argv = ["retime=true" if a == "--retime" else a for a in argv]
    several = bool({"-m", "--multirun"} & set(argv)) or any(a.startswith("sweep=") for a in argv)
    overrides = [a for a in argv if is_override(a)]
    overrides += company(overrides) if several else []
    # Hydra's parser takes overrides in one piece only; a user may mix them with options
    options = [a for a in argv if not is_override(a)]
    sys.argv = ["compressbench run", *options, *readable(overrides, several)]
    try:
        _check_options(sys.argv[1:], folders)
        if not ASKING & {a.partition("=")[0] for a in options}:
            check_recipe(overrides)
        with warnings.catch_warnings():  # Hydra passes over a folder that isn't there
            warnings.filterwarnings("error", module=r"hydra\._internal\.config_loader_impl")
            hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(job)()
    except UserError:
        raise
    except SystemExit as stop:  # Hydra's own, which has said why
        return 2 if stop.code else 0
    except Exception as error:  # Hydra and omegaconf raise all kinds; the job's own are in ``_caught``
        if isinstance(error, OSError) and error.filename:  # the run's folder, which Hydra makes
            raise UserError(
                f"outputs: can't make {error.filename} ({error.strerror}); set outputs=FOLDER to one you can write"
            ) from error
        raise UserError(explain(error, folders)) from error
    finally:
        sys.argv = before
    if _caught:
        raise _caught.pop()
    return 0


def job(config: DictConfig) -> None:
    """One job: Hydra has composed the config and made the run's folder."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from compressbench.specs.compose import plain, register

    register()
    own = HydraConfig.get()
    sources = [Path(s.path) for s in own.runtime.config_sources if s.schema == "file"]
    _let_import([Path(own.runtime.cwd), *sources])
    folder = Path(own.runtime.output_dir)
    if own.mode != RunMode.MULTIRUN:
        try:
            _run(plain(config), folder, own.overrides.task)
        except SystemExit as stop:
            _caught.append(
                Incomplete(f"code of yours ended the process (SystemExit: {stop.code}); a net may not")
            )
        except (
            Exception,
            KeyboardInterrupt,
        ) as error:  # raised again in ``main``, without Hydra's words around it
            _caught.append(error)
            _drop_unused(folder)
        return
    say(f"\n#{own.job.num}: {' '.join(own.overrides.task)}")
    try:
        _run(plain(config), folder, own.overrides.task)
    except Exception as error:  # whatever it is, the sweep's other jobs go on
        text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        write_text(folder / FAILED, f"{text}\n\n{traceback.format_exc()}")
        _codes.append(error.code if isinstance(error, UserError) else 1)
        say(f"compressbench: job {own.job.num}: {clean_line(text)}", error=True)


def _drop_unused(folder: Path) -> None:
    """Removes a run's folder in which nothing stands but what Hydra put there: the run was refused."""
    if folder.is_dir() and {p.name for p in folder.iterdir()} <= {".hydra"}:
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # not empty: there are other runs
            folder.parent.rmdir()
            folder.parent.parent.rmdir()


def run_once(overrides: list[str], config_dir: str | None = None) -> Records:
    """The Python side of the verb: composes, runs, writes the run's folder, returns the records."""
    import time

    from compressbench.specs.compose import run_name

    check_recipe(overrides)
    config = composed(overrides, config_dir)
    stamp = f"{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 10**9 // 1000:06d}"
    recipe = config.get("recipe")
    begin = run_name(recipe.get("name") if isinstance(recipe, dict) else None, config.get("seed"))
    folder = outputs_folder(config["outputs"]) / "runs" / f"{begin}_{stamp}"
    return _run(config, folder, overrides)


def _run(config: dict[str, Any], folder: Path, overrides: Sequence[str]) -> Records:
    from compressbench.cli.terminal import Terminal
    from compressbench.records import Records
    from compressbench.runs import experiment as experiments

    terminal = Terminal()
    ready = experiments.prepare(config, overrides=told(overrides))
    terminal.plan(ready)
    done: list[Record] = []
    try:
        records = experiments.execute(ready, terminal, done)
    except BaseException:
        if done:
            path = experiments.write(ready, Records(done), folder)
            terminal.say(f"stopped early; what was measured until then: {path}")
        raise
    path = experiments.write(ready, records, folder)
    terminal.finish(records, path)
    return records


def _check_options(argv: list[str], folders: tuple[Path, ...]) -> None:
    """Refuses what Hydra's own options can't be; its parser would print its usage and leave.

    Raises:
        UserError: an unknown option or a missing value, or one that would load a pickle.
    """
    from hydra._internal.utils import get_args_parser

    def refuse(message: str) -> NoReturn:
        stray = re.search(r"^unrecognized arguments: (\S+)", message)
        if stray and not stray[1].startswith("-"):
            check_word(stray[1], folders)
        if stray:
            message += misspelt(stray[1], parser)
        raise UserError(f"run: {message}; try: compressbench run --help")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    parser.allow_abbrev = False
    parser.add_argument("--retime", action="store_true")
    for word in argv:
        if re.match(r"-[A-Za-z]{4}", word):  # argparse takes -config-dir for -c with the value onfig-dir
            refuse(f"unrecognized arguments: {word}")
    if {"-h", "--help"} & set(argv):
        return
    given = parser.parse_args(argv)
    for word in given.overrides:
        check_word(word, folders)
    if given.experimental_rerun is not None:
        raise UserError(
            "run: --experimental-rerun loads a pickle, which no file here may be; run the config instead"
        )


def _config_dirs(argv: list[str]) -> tuple[Path, ...]:
    from compressbench.specs.compose import config_folder

    found = []
    for place, word in enumerate(argv):
        if word in ("--config-dir", "-cd") and place + 1 < len(argv):
            found.append(config_folder(argv[place + 1]))
        elif word.startswith("--config-dir="):
            found.append(config_folder(word.partition("=")[2]))
    return tuple(found)


def _let_import(folders: Any) -> None:
    from compressbench.specs import let_import_from

    let_import_from(Path.cwd(), *folders)
