"""``compressbench calibrate``: this machine as a modelled target, its peaks and bandwidths measured in under a minute."""

from __future__ import annotations

import time
from pathlib import Path

from compressbench.cli.parser import Parser, a_path
from compressbench.console import say
from compressbench.errors import UserError


def main(argv: list[str]) -> int:
    """The verb; returns an exit code.

    Raises:
        UserError: an unknown runtime, a missing package, a folder that can't be written.
    """
    parser = Parser(prog="compressbench calibrate", description=__doc__)
    parser.add_argument("--runtime", default="openvino", help="openvino, onnxruntime or torch")
    parser.add_argument(
        "--output",
        type=a_path,
        default=Path("conf/target/this_machine.yaml"),
        metavar="FILE",
        help="the target's YAML",
    )
    args = parser.parse_intermixed_args(argv)
    from compressbench.hardware.calibrating import as_yaml, fit
    from compressbench.hardware.turns import DISTURBED, OTHERS, UNSEEN, others
    from compressbench.runs.provenance import processor

    try:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.touch()
    except OSError as error:
        raise UserError(f"--output: can't write {args.output}: {error.strerror}") from error
    began = time.perf_counter()
    share = others()
    fitted = fit(args.runtime, lambda text: say(f"  {text}"))
    taken = share()
    args.output.write_text(as_yaml(fitted, args.runtime, processor()), encoding="utf-8")
    peaks = ", ".join(f"{kind} {value / 1e9:.3g} GOP/s" for kind, value in sorted(fitted.peaks.items()))
    moved = (
        f"{fitted.bandwidth / 1e9:.3g} GB/s from memory, {fitted.cache_bandwidth / 1e9:.3g} from the cache"
    )
    took = time.perf_counter() - began
    say(f"{args.output}: {peaks}; {moved}; {1e6 * fitted.overhead:.3g} us a layer; {took:.0f} s")
    if taken is None:
        say(f"{UNSEEN}: calibrate on a quiet machine")
    elif taken > DISTURBED:
        say(f"{OTHERS} {100 * taken:.0f} % of the processors: calibrate again when it is quiet")
    say("use it: --config-dir conf +target@evaluation.probes.targets.targets.this_machine=this_machine")
    return 0
