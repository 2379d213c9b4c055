"""Peak memory of a runtime with one file: loaded and run in a process of its own, less what its import takes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from compressbench.errors import UserError, nearest

if TYPE_CHECKING:
    from compressbench.inputs import Inputs

PROGRAMS = {
    "openvino": """
def load(openvino, path, shapes):
    core = openvino.Core()
    model = core.read_model(path)
    model.reshape({place: shape for place, (shape, _) in enumerate(shapes)})
    settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32", "CACHE_DIR": ""}
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    return lambda xs: request.infer(xs)
""",
    "onnxruntime": """
def load(onnxruntime, path, shapes):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    return lambda xs: session.run(None, dict(zip(names, xs)))
""",
}
MAIN = """
import importlib, json, resource, sys
sys.modules["openvino_telemetry"] = None
import numpy
name, path, shapes = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
package = importlib.import_module(name)

def peak():
    try:  # getrusage would count the process that this one was forked from
        lines = open("/proc/self/status").read().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

before = peak()
run = load(package, path, shapes)
for _ in range(2):
    run([numpy.zeros(shape, kind) for shape, kind in shapes])
print(peak() - before)
"""


def peak_bytes(runtime: str, artefact: bytes, inputs: Inputs) -> tuple[int | None, str]:
    """(bytes that loading and running add at most, what is to be said).

    Args:
        runtime: ``openvino`` or ``onnxruntime``.
        artefact: an ONNX file's content.
        inputs: of the size that is run.

    Raises:
        UserError: another runtime.
    """
    import json

    if runtime not in PROGRAMS:
        raise UserError(f"peak memory: runtime {runtime!r}; {nearest(str(runtime), list(PROGRAMS))}")

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(artefact)
        command = [
            sys.executable,
            "-c",
            PROGRAMS[runtime] + MAIN,
            runtime,
            str(path),
            json.dumps([(list(x.shape), str(x.dtype).rpartition(".")[2]) for x in inputs]),
        ]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, env=env, cwd=folder, timeout=120, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return None, f"peak memory not measured: {type(error).__name__}"
    if done.returncode:
        told = done.stderr.strip().splitlines()
        return None, f"peak memory not measured: {told[-1] if told else 'the process failed'}"
    return int(done.stdout), "loading and two forwards in a process of its own, less what the import takes"
