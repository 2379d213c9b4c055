"""What a machine without a network lacks: wheels and CIFAR-10, made into a folder that travels, and put to use there.

Pixels are kept as lossless WebP strips (98 MB of 184), in two folders, so that each can travel with the tree in 64 MiB.
What is put together again are the published files to the byte, which the project's own reader checks by their md5.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CARRIED = ROOT / ".gpu"
CACHE = Path(os.environ.get("GPU_CACHE", Path(tempfile.gettempdir()) / "compressbench-gpu"))
SITE, DATA = CACHE / "site", CACHE / "data"
BATCHES = DATA / "cifar-10-batches-py"
LACKING = ("hydra-core", "omegaconf", "antlr4-python3-runtime", "torch-pruning", "tokenizers")
"""What is needed and a lent machine lacks; wheels of no one Python: plain, or of the stable ABI."""
PORTABLE = re.compile(r"-none-any\.whl$|-abi3-manylinux\S*_x86_64\.whl$")
FOLDERS = {
    "a": ("batches.meta", "data_batch_1", "data_batch_2", "data_batch_3"),
    "b": ("data_batch_4", "data_batch_5", "test_batch"),
}
IMAGES, STRIP, SIDE = 10_000, 100, 32
PIXELS = IMAGES * 3 * SIDE * SIDE
BEGINS = b"T" + PIXELS.to_bytes(4, "little")
"""What stands before the pixels in a published file: a string of so many bytes."""


class Lacking(Exception):
    """Something without which nothing can be measured here; one line."""


def pack(published: bytes) -> bytes:
    """A published batch as a zip: its pixels as strips of 100 images, and all that stands around them.

    Raises:
        ValueError: it holds no 10,000 images in one piece.
    """
    import numpy as np
    from PIL import Image

    at = published.find(BEGINS)
    if at < 0 or len(published) < at + len(BEGINS) + PIXELS:
        raise ValueError("no pixels found; is this a published CIFAR-10 batch?")
    at += len(BEGINS)
    pixels = np.frombuffer(published, np.uint8, PIXELS, at).reshape(IMAGES, 3, SIDE, SIDE)
    strips = pixels.transpose(0, 2, 3, 1).reshape(-1, STRIP * SIDE, SIDE, 3)
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        file.writestr("before", published[:at])
        file.writestr("after.xz", lzma.compress(published[at + PIXELS :]))
        for place, strip in enumerate(strips):
            picture = io.BytesIO()
            Image.fromarray(strip).save(picture, "WEBP", lossless=True, quality=100, method=4)
            file.writestr(f"{place:03}.webp", picture.getvalue())
    return made.getvalue()


def unpack(packed: bytes) -> bytes:
    """The published batch again."""
    import numpy as np
    from PIL import Image

    with zipfile.ZipFile(io.BytesIO(packed)) as file:
        names = sorted(name for name in file.namelist() if name.endswith(".webp"))
        strips = [np.asarray(Image.open(io.BytesIO(file.read(name))).convert("RGB")) for name in names]
        before, after = file.read("before"), lzma.decompress(file.read("after.xz"))
    pixels = np.concatenate(strips).reshape(-1, SIDE, SIDE, 3).transpose(0, 3, 1, 2)
    return before + pixels.tobytes() + after


def fill(data_dir: Path, folder: Path = CARRIED) -> None:
    """Makes the folder that travels: wheels (from the network) and CIFAR-10 (from ``data_dir/cifar-10-batches-py``)."""
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "requirements" / "3.12.txt").read_text(), re.M))
    wanted = [f"{name}=={pins[name]}" for name in LACKING]
    wheels = folder / "a" / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    for old in wheels.glob("*.whl"):
        old.unlink()
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(wheels), *wanted]
    subprocess.run(command, check=True)
    bound = [p.name for p in wheels.glob("*.whl") if not PORTABLE.search(p.name)]
    if bound:
        raise Lacking(f"make gpu-carry: {', '.join(bound)}: built for this machine alone")
    from compressbench.data.cifar import PUBLISHED

    for name, data in PUBLISHED["cifar10"].read(data_dir):
        own = next(folder / key for key, names in FOLDERS.items() if name in names)
        own.mkdir(exist_ok=True)
        target = own / name if name == "batches.meta" else own / f"{name}.zip"
        if not target.exists():
            target.write_bytes(data if name == "batches.meta" else pack(data))
        print(f"{target.relative_to(folder.parent)}: {target.stat().st_size:,} bytes", flush=True)
    (folder / "a" / "commit").write_text(commit())


def ready() -> None:
    """Installs the carried wheels and puts carried batches together, outside of the tree; what is done is left alone.

    Raises:
        Lacking: a package is neither installed nor carried.
    """
    wheels = sorted((CARRIED / "a" / "wheels").glob("*.whl"))
    if wheels and not SITE.exists():
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile",
                   "--target", str(SITE), *map(str, wheels)]  # fmt: skip
        subprocess.run(command, check=True)
    if lacking := missing():
        raise Lacking(
            f"make gpu: {', '.join(lacking)} not installed, and .gpu/a/wheels doesn't hold it: "
            "make gpu-carry where there is a network, and carry .gpu/a"
        )
    for packed in sorted(CARRIED.glob("[ab]/*.zip")):
        if not (BATCHES / packed.stem).exists():
            _put(packed.stem, unpack(packed.read_bytes()))
    meta = CARRIED / "a" / "batches.meta"
    if meta.exists():
        _put(meta.name, meta.read_bytes())


def _put(name: str, data: bytes) -> None:
    BATCHES.mkdir(parents=True, exist_ok=True)
    part = BATCHES / f"{name}.part"
    part.write_bytes(data)
    part.rename(BATCHES / name)


def missing() -> list[str]:
    """What pyproject.toml asks for and is neither installed here nor among the carried wheels."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [re.split(r"[\s<>=!~\[;]", line)[0] for line in project["dependencies"]]
    there = {_plain(d.metadata["Name"]) for d in metadata.distributions(path=[*sys.path, str(SITE)])}
    # torchvision is asked for by models of its own alone, and by nothing here
    return [name for name in (*names, *LACKING) if _plain(name) not in there and name != "torchvision"]


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def commit() -> str:
    """What is measured: the commit, marked where files differ from it; else a digest."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        pass
    known = CARRIED / "a" / "commit"
    return f"sources {sources()}{f', carried at {known.read_text()}' if known.exists() else ''}"


def sources() -> str:
    """A short digest of the package's and the benchmark's files, for machines without git."""
    found = hashlib.sha256()
    files = (p for folder in ("compressbench", "conf", "benchmarks") for p in (ROOT / folder).rglob("*.*"))
    for path in sorted(p for p in files if p.suffix in (".py", ".yaml")):
        found.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return found.hexdigest()[:12]
