"""Hostile files: runs, records, stores, data sets."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cases_fuzz import (  # noqa: F401
    RUN,
    TEXTS,
    VALUES,
    YAMLS,
    _home,
    change,
    check,
    drawn,
    leaves,
    line,
    odd_paths,
    one_of,
    own,
    prepared,
    ran,
)
from compressbench.cli.run import composed

pytestmark = pytest.mark.slow


def verbs_on(run: Path, rng: random.Random) -> list[Any]:
    """A verb that reads a run's folder."""
    Path("t.csv").write_text("state,batch,ms\ndense,1,2.0\n")
    return list(
        one_of(
            rng,
            (
                ("report", run),
                ("gate", run, "--max-drop", "100"),
                ("gate", run, "--max-bytes", "1e9"),
                ("advise", run),
                ("advise", run, "--min-accuracy", "0", "--export", "safetensors"),
                ("export", run, "--state", "dense", "--to", "safetensors"),
                ("timings", "import", "t.csv", "--run", run, "--device", "phone"),
            ),
        )
    )


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Bytes flipped, cut, doubled, or something else altogether."""
    way = rng.randrange(8)
    if way == 0:
        return content[: rng.randrange(len(content))] if content else b""
    if way == 1:
        return b""
    if way == 2:
        return content + bytes(rng.randrange(256) for _ in range(20))
    if way == 3:
        return bytes(rng.randrange(256) for _ in range(200))
    if way == 4 and content:
        at = rng.randrange(len(content))
        return content[:at] + content[at + rng.randrange(1, 50) :]
    out = bytearray(content)
    for _ in range(rng.choice((1, 1, 5, 100))):
        if out:
            out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def test_run_folders(own: Path) -> None:
    """A run's folder with a hostile ``config.yaml``: leaves replaced, bytes flipped, other YAML, no file."""
    import yaml

    rng = drawn("runs")
    text = (own / "config.yaml").read_text()
    config = yaml.safe_load(text)
    places = list(leaves(config))
    cases = []
    for number in range(50):
        run = own.parent / f"copy{number}"
        shutil.copytree(own, run)
        path = run / "config.yaml"
        way = rng.randrange(10)
        if way < 4:
            where, value = one_of(rng, places), one_of(rng, VALUES)
            words = f"config.yaml: {where} = {value!r}: "
            path.write_text(
                yaml.safe_dump(change(config, where, value), allow_unicode=False, sort_keys=False)
            )
        elif way < 6:
            path.write_bytes(damaged(text.encode(), rng))
            words = f"damaged {path.read_bytes()[:300]!r}: "
        elif way < 9:
            name, content = one_of(rng, YAMLS.items())
            path.write_bytes(content)
            words = f"config.yaml is {name}: "
        else:
            path.unlink()
            odd = rng.randrange(4)
            if odd == 0:
                path.mkdir()
            elif odd == 1:
                os.mkfifo(path)
            elif odd == 2:
                path.symlink_to("config.yaml")
            words = f"no config.yaml ({odd}): "
        argv = verbs_on(run, rng)
        if argv[0] in ("gate", "timings", "report"):
            argv = ["export", run, "--state", one_of(rng, ("dense", "tuned", "x")), "--to", "safetensors"]
        cases.append(line(*argv, words=words, allowed=(0, 1, 2) if argv[0] == "advise" else (0, 2)))
    check(cases, 50)


RECORDS: tuple[bytes, ...] = (
    b"",
    b"\n",
    b"\n\n\n",
    b"null\n",
    b"[]\n",
    b"{}\n",
    b"7\n",
    b'"x"\n',
    b"{\n",
    b"\xff\xfe\n",
    b"\x00\n",
    b"[" * 100_000 + b"\n",
    b'{"schema": 1}\n',
    b'{"schema": NaN}\n',
    b"1" * 5000 + b"\n",
)


def test_records(own: Path) -> None:
    """A run's folder with a hostile ``records.jsonl``: wrong types or figures, no lines, no file; and timings files."""
    rng = drawn("records")
    content = (own / "records.jsonl").read_bytes()
    rows = [json.loads(one) for one in content.decode().splitlines()]
    cases = []
    for number in range(60):
        run = own.parent / f"copy{number}"
        shutil.copytree(own, run)
        path = run / "records.jsonl"
        way = rng.randrange(10)
        if way < 6:
            changed = copy.deepcopy(rows)
            told = []
            column, value = one_of(rng, rows[0]), one_of(rng, VALUES)
            for row in changed if rng.random() < 0.5 else [rng.choice(changed)]:
                row[column] = value
            told.append((column, value))
            path.write_text("".join(json.dumps(r) + "\n" for r in changed))
            words = f"records: {told!r}: "
        elif way < 7:
            path.write_bytes(damaged(content, rng))
            words = f"damaged records (seed, number {number}): "
        elif way < 9:
            path.write_bytes(one_of(rng, RECORDS))
            words = f"records are {path.read_bytes()[:40]!r}: "
        else:
            path.unlink()
            odd = rng.randrange(4)
            if odd == 0:
                path.mkdir()
            elif odd == 1:
                os.mkfifo(path)
            elif odd == 2:
                path.symlink_to("records.jsonl")
            words = f"no records.jsonl ({odd}): "
        argv = verbs_on(run, rng)
        cases.append(line(*argv, words=words, allowed=(0, 1, 2) if argv[0] in ("advise", "gate") else (0, 2)))
    tables = (
        b"",
        b"state,batch,ms\n",
        b"state,batch,ms\ndense,1\n",
        b"state,batch,ms\ndense,1,nan\n",
        b"state,batch,ms\ndense,-1,1\n",
        b"state,batch,ms\ndense,1,1e400\n",
        b"state,batch,ms\n\x1b[31m,1,1\n",
        b"state,batch,ms\ndense,1,1,2,3,4\n",
        b"a,b,c\n1,2,3\n",
        b"[]",
        b"{}",
        b"[1]",
        b"[" * 50_000,
        b'[{"state": 1, "batch": [], "ms": {}}]',
        b'[{"state": "dense", "batch": true, "ms": "1"}]',
        b"[Step 1/1]\nLatency\n",
        b"Total inference requests: x\n",
        b"\xff\xff\xff",
        b"\x00" * 100,
        b'state,batch,ms\n"dense,1,1\n',
        b"state,batch,ms\ndense," + b"9" * 5000 + b",1\n",
        b"x" * 200_000,
    )
    for number, table in enumerate(tables):
        Path(f"table{number}").write_bytes(table)
        argv = [
            "timings",
            "import",
            f"table{number}",
            "--run",
            own,
            "--device",
            one_of(rng, ("phone", *TEXTS)),
        ]
        cases.append(line(*argv, words=f"{table[:60]!r}: "))
    check(cases, 80)


def test_stores(own: Path) -> None:
    """A store whose files are flipped, cut, swapped, gone or something else: made again, or refused."""
    rng = drawn("stores")
    cases = []
    base = (*RUN, "--config-dir", "mine")
    for number in range(26):
        outputs = Path(f"o{number}")
        shutil.copytree("outputs", outputs)
        files = sorted(p for p in (outputs / "store").rglob("*") if p.is_file())
        path = one_of(rng, files)
        way = rng.randrange(6)
        if way < 3:
            path.write_bytes(damaged(path.read_bytes(), rng))
        elif way == 3:
            other = one_of(rng, [p for p in files if p.suffix == path.suffix])
            shutil.copyfile(other, outputs / "aside")
            path.write_bytes((outputs / "aside").read_bytes())
            (outputs / "aside").unlink()
        elif way == 4:
            path.unlink()
        else:
            path.unlink()
            odd = rng.randrange(3)
            if odd == 0:
                path.mkdir()
            elif odd == 1:
                os.mkfifo(path)
            else:
                path.symlink_to(path.name)
        words = f"store, way {way}, {path.relative_to(outputs)}: "
        run = outputs / "runs" / own.name
        argv = one_of(
            rng,
            (
                ("store", "--outputs", outputs),
                ("store", "--outputs", outputs, "--prune"),
                ("export", run, "--state", "dense", "--to", "safetensors"),
                ("export", run, "--state", "tuned", "--to", "safetensors"),
                (*base, f"outputs={outputs}"),
                (*base, f"outputs={outputs}"),
            ),
        )
        cases.append(line(*argv, words=words))
    check(cases, 26)


def picture(path: Path, size: tuple[int, int] = (8, 8), mode: str = "RGB", form: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.RandomState(0).randint(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    made = Image.fromarray(noise) if mode != "I;16" else Image.new(mode, size)
    (made.convert(mode) if mode != "I;16" else made).save(path, format=form)


def folder_of(root: Path, size: tuple[int, int] = (8, 8)) -> Path:
    """Pictures of two classes, six each."""
    for name in ("a", "b"):
        for number in range(6):
            picture(root / name / f"{number}.png", size)
    return root


def spoil(root: Path, way: int, rng: random.Random) -> str:
    """One thing in a folder of pictures made wrong; says which."""
    one = root / "a" / "0.png"
    good = one.read_bytes()
    ways: list[tuple[str, Callable[[], Any]]] = [
        ("empty picture", lambda: one.write_bytes(b"")),
        ("cut picture", lambda: one.write_bytes(good[: rng.randrange(1, len(good))])),
        ("flipped picture", lambda: one.write_bytes(damaged(good, rng))),
        ("text as picture", lambda: one.write_text("hello")),
        ("other size", lambda: picture(one, (9, 8))),
        ("huge size", lambda: one.write_bytes(_png_header(60_000, 60_000))),
        ("no size", lambda: one.write_bytes(_png_header(0, 0))),
        ("16 bits", lambda: picture(one, mode="I;16")),
        ("floats", lambda: picture(one, mode="F", form="TIFF")),
        ("palette", lambda: picture(one, mode="P")),
        ("cmyk", lambda: picture(one.with_suffix(".jpg"), mode="CMYK")),
        ("gif inside png", lambda: picture(one, form="GIF")),
        ("folder as picture", lambda: (one.unlink(), one.mkdir())),
        ("pipe as picture", lambda: (one.unlink(), os.mkfifo(one))),
        ("loop as picture", lambda: (one.unlink(), one.symlink_to("0.png"))),
        ("link outside", lambda: (one.unlink(), one.symlink_to("/etc/hostname"))),
        ("zeros as picture", lambda: (one.unlink(), one.symlink_to("/dev/zero"))),
        ("empty class", lambda: (root / "c").mkdir()),
        ("one class", lambda: shutil.rmtree(root / "b")),
        ("no class", lambda: (shutil.rmtree(root / "a"), shutil.rmtree(root / "b"))),
        ("class is a file", lambda: (shutil.rmtree(root / "b"), (root / "b").write_text("x"))),
        ("only train", lambda: folder_of(root / "train")),
        (
            "other classes in test",
            lambda: (folder_of(root / "train"), picture(root / "test" / "c" / "1.png")),
        ),
        ("name is no UTF-8", lambda: _copied(root / "a", os.fsencode(root) + b"/caf\xe9")),
        ("name of a picture is no UTF-8", lambda: os.rename(one, os.fsencode(root) + b"/a/\xff.png")),
        ("name with control characters", lambda: (root / "a").rename(root / "\x1b[31m")),
        ("name with a line feed", lambda: (root / "a").rename(root / "a\nb")),
        ("one picture a class", lambda: [p.unlink() for p in root.rglob("*.png") if p.stem != "1"]),
    ]
    name, do = ways[way % len(ways)]
    do()
    return name


def _copied(source: Path, target: bytes) -> None:
    shutil.copytree(os.fsencode(source), target)


def _png_header(width: int, height: int) -> bytes:
    import struct
    import zlib

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"IHDR" + head
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


def idx(array: np.ndarray) -> bytes:
    import struct

    return (
        struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()
    )


def test_data_sets(ran: Path) -> None:
    """Folders of pictures that are odd, settings of data sets, published files that are not as published."""
    rng = drawn("data")
    base = composed([*RUN[1:]], str(ran / "mine"))
    cases = []
    for way in range(28):
        root = folder_of(Path(f"pictures{way}"))
        words = spoil(root, way, rng)
        read = {
            "_target_": "compressbench.data.folder.image_folder",
            "root": str(root),
            "channels": rng.choice((1, 3)),
            "test_fraction": 0.3,
        }
        if rng.random() < 0.3:
            read["size"] = rng.choice((8, [8, 8], 16))
        cases.append(prepared({**base, "dataset": {"name": "x", "read": read}}, f"{words}: {read!r}"))
    root = folder_of(Path("pictures"))
    good = {
        "_target_": "compressbench.data.folder.image_folder",
        "root": str(root),
        "size": 8,
        "channels": 3,
        "test_fraction": 0.3,
        "split_seed": 0,
        "licence": "mine",
        "labels": {"a": 0, "b": 1},
        "outputs": 2,
    }
    odd = odd_paths(Path("odd"))
    for key in good:
        for value in (*rng.sample(VALUES, 5), *(rng.sample(odd, 5) if key == "root" else ())):
            read = {**good, key: value}
            cases.append(
                prepared({**base, "dataset": {"name": "x", "read": read}}, f"dataset.read.{key} = {value!r}")
            )
    settings = (
        "name",
        "train_size",
        "test_size",
        "subset_seed",
        "imbalance",
        "validation",
        "augment",
        "normalise",
    )
    for key in (*settings, "nothing"):
        for value in (*rng.sample(VALUES, 4), {"mean": [0], "std": [1e-320]}, {"pad": 10**9, "flip": True}):
            dataset = {**base["dataset"], key: value}
            cases.append(prepared({**base, "dataset": dataset}, f"dataset.{key} = {value!r}"))
    raw = Path("data/MNIST/raw")
    raw.mkdir(parents=True)
    images, labels = idx(np.zeros((5, 28, 28))), idx(np.zeros(5))
    for number in range(6):
        for name in ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte"):
            (raw / name).write_bytes(damaged(images, rng))
        for name in ("train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte.gz", "t10k-labels-idx1-ubyte.xz"):
            (raw / name).write_bytes(damaged(labels, rng))
        cases.append(line(*RUN, "dataset=mnist", "--config-dir", ran / "mine", words=f"mnist {number}: "))
        cases.append(
            line(
                "data",
                one_of(rng, ("mnist", "cifar10", *TEXTS)),
                "--data-dir",
                one_of(rng, odd),
                allowed=(0, 1, 2),
            )
        )
    check(cases, 130)
