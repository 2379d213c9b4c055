"""The command: dispatches to its verbs and turns errors into one line and an exit code."""

from __future__ import annotations

import errno
import importlib
import sys
from collections.abc import Sequence

from compressbench.console import clean_line, readable, say

# Of a path that the user named; what else the system refuses (a full disk, too many files) is no bad input.
OF_A_PATH = {
    getattr(errno, name)
    for name in (
        "EACCES",
        "EEXIST",
        "EINVAL",
        "EISDIR",
        "ELOOP",
        "ENAMETOOLONG",
        "ENOENT",
        "ENOTDIR",
        "ENXIO",
        "EPERM",
        "EROFS",
    )
}

VERBS = {
    "run": (
        "compressbench.cli.run",
        "run a recipe: compressbench run recipe=NAME [model=… dataset=… scale=… seed=…]",
    ),
    "report": ("compressbench.cli.report", "draw one report of one or many runs: compressbench report PATH…"),
    "published": (
        "compressbench.cli.published",
        "published figures with ours beside them, a Markdown page from records: published [RUN…] --write FILE",
    ),
    "tour": (
        "compressbench.cli.tour",
        "the lecture slide by slide, what came out of each; tour N runs one, tour --write makes the page",
    ),
    "export": (
        "compressbench.cli.export",
        "a state of a run as a file to deploy: export RUN --state NAME --to onnx|openvino|torch_export|…",
    ),
    "advise": (
        "compressbench.cli.advise",
        "which state to take: advise RUN… --target T --max-bytes … --min-accuracy … [--export onnx]",
    ),
    "compare": (
        "compressbench.cli.compare",
        "what was lost between two artefacts of anybody's: compare original.onnx small.onnx --data photos/",
    ),
    "gate": (
        "compressbench.cli.gate",
        "exit code 1 when a state breaks a limit: gate RUN --max-drop 1.0 --min-loyalty 98",
    ),
    "timings": (
        "compressbench.cli.timings",
        "latencies measured on a phone or a board become records: timings import FILE --run RUN --state NAME --device D",
    ),
    "calibrate": (
        "compressbench.cli.calibrate",
        "this machine as a modelled target: calibrate [--runtime openvino|onnxruntime|torch] [--output FILE]",
    ),
    "list": ("compressbench.cli.catalog", "models, datasets, recipes, criteria, hardware targets, probes"),
    "check": (
        "compressbench.cli.check",
        "your own criteria, probes, stages, tasks … by the rule of the shipped ones: check --config-dir mine",
    ),
    "explain": (
        "compressbench.cli.explain",
        "a recipe's claim, source and stages in words: explain recipe=NAME",
    ),
    "data": (
        "compressbench.cli.data",
        "where a data set is looked for, whether it is complete; --download fetches it",
    ),
    "store": (
        "compressbench.cli.store",
        "what the store holds; --prune drops leftovers [--older-than DAYS: states too]",
    ),
    "completion": (
        "compressbench.cli.completion",
        'shell completion: eval "$(compressbench completion bash)"',
    ),
}

GOES_ON = ("check",)
"""Verbs that go on after an error, and so show tracebacks themselves."""

HELP = """compressbench: what was lost in compressing a model, and is it faster at all

usage: compressbench VERB …

{verbs}

options: --help, --version, --debug (behind any verb: full traceback)
Begin with:  compressbench run recipe=lth_resnet      or:  compressbench list
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the console script; always ends by ``SystemExit``."""
    raise SystemExit(run(list(sys.argv[1:] if argv is None else argv)))


def run(argv: list[str]) -> int:
    """Runs one command line; returns its exit code: 0 done, 1 failed, incomplete or no, 2 bad input, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        readable(stream)
    debug = "--debug" in argv
    argv = [a for a in argv if a != "--debug"]
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(
            HELP.format(verbs="\n".join(f"  {name:<11} {text}" for name, (_, text) in VERBS.items())), end=""
        )
        return 0
    if argv[0] == "--version":
        from compressbench import __version__

        print(f"compressbench {__version__}")
        return 0
    from compressbench.errors import NO_MEMORY, UserError, nearest

    try:
        if argv[0] not in VERBS:
            raise UserError(f"unknown verb {argv[0]!r}; {nearest(argv[0], VERBS)}")
        kept = ["--debug"] if debug and argv[0] in GOES_ON else []
        return importlib.import_module(VERBS[argv[0]][0]).main([*argv[1:], *kept])
    except UserError as error:
        if debug:
            raise
        return _fail(str(error), error.code)
    except KeyboardInterrupt:
        if debug:
            raise
        return _fail(
            "interrupted; what was finished is in the store, the same command goes on from there", 130
        )
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except MemoryError as error:
        if debug:
            raise
        return _fail(_no_memory(str(error)), 2)
    except OSError as error:
        if debug:
            raise
        where = f" {error.filename}" if error.filename else ""
        code = 2 if error.errno in OF_A_PATH else 1
        return _fail(f"{error.strerror or error}{where}; what was finished before is kept", code)
    except Exception as error:  # the last resort: a fault of ours, said as one
        if debug:
            raise
        mark = getattr(error, "problem_mark", None)  # yaml.MarkedYAMLError, without importing yaml for it
        if mark is not None:
            where = f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}"
            return _fail(f"{where}: no valid YAML: {getattr(error, 'problem', error)}", 2)
        reason = str(error).splitlines()[0] if str(error) else ""
        if NO_MEMORY.search(str(error)):
            return _fail(_no_memory(reason), 2)
        return _fail(
            f"{type(error).__name__}: {reason} (a fault in compressbench or in your code; --debug shows where)",
            1,
        )


def _no_memory(reason: str) -> str:
    asked = f" ({reason})" if reason else ""
    return f"not enough memory{asked}; a smaller net, batch_size or dataset.train_size may fit; what was finished is kept"


def _fail(text: str, code: int) -> int:
    say(f"compressbench: {clean_line(text)}", error=True)
    return code
