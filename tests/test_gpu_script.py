"""``make gpu``: what must hold of the script before there is a card: nothing is lost, hangs or leaks, and it travels."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.gpu import __main__ as script  # noqa: E402
from benchmarks.gpu import carry, nets, rows, training  # noqa: E402

CARD = {
    "device": "cuda",
    "card": "A card",
    "driver": "1.2",
    "torch": "3",
    "cuda": "4",
    "commit": "abc",
    "smoke": False,
}
SMOKE = {**CARD, "device": "cpu", "card": "", "smoke": True}
# Packages of pyproject.toml that the lent machines' list of installed packages has, in 2026-11.
THERE = {"torch", "torchvision", "numpy", "safetensors", "pillow", "rich", "jinja2", "matplotlib"}


def sheet(folder: Path, part: str = "forms", **changes: Any) -> rows.Sheet:
    return rows.Sheet(folder / "gpu.jsonl", part, {**CARD, **changes})


def test_rows_hold_no_path_and_survive_a_cut(tmp_path: Path) -> None:
    own = sheet(tmp_path)
    own.middle(
        "arm", "latency", [3.0, 1.0, 2.5], "ms", note="from /root/a b/c.py and /tmp/x1/y.so, 12 images/s"
    )
    own.failed("other", FileNotFoundError("no file /home/me/secret/data_batch_1\nin there"))
    with own.path.open("a") as file:
        file.write('{"part": "fo')
    found = rows.read(own.path)
    assert [(r["metric"], r["value"], r["n"], r["repeats"]) for r in found] == [
        ("latency", 2.5, 3, [3.0, 1.0, 2.5]),
        ("failed", None, 0, []),
    ]
    assert found[0]["note"] == "from a b/c.py and y.so, 12 images/s"
    assert found[1]["note"] == "FileNotFoundError: no file data_batch_1 in there"
    assert all(r["card"] == "A card" and r["commit"] == "abc" and r["when"] for r in found)


def test_the_table_says_what_never_ran_on_a_card(tmp_path: Path) -> None:
    sheet(tmp_path).middle("an | arm", "latency", [3.0, 1.0, 2.5], "ms")
    sheet(tmp_path).add("test_a", "passed", 0.1, "s")
    sheet(tmp_path, "exits", **SMOKE).add("arm", "latency", 1.0, "ms")
    text = rows.table(
        rows.read(tmp_path / "gpu.jsonl"), {"forms": "which?", "exits": "where?", "lanes": "how?"}
    )
    assert text.startswith("A card, driver 1.2, torch 3, CUDA 4, commit abc.\n")
    assert "| an \\| arm | latency | 2.5 ms (1–3) | 3 |  |" in text
    for part in ("exits: where?", "lanes: how?"):
        assert f"### {part}\n\nNever run on a card.\n" in text
    assert text.count("Never run") == 2
    assert "test_a" not in text


def test_the_page_has_every_part() -> None:
    page = script.DOC.read_text(encoding="utf-8")
    told, _, tables = page.partition(script.MARK)
    for name, part in script.PARTS.items():
        assert f"`{name}`" in told
        assert f"### {name}: {part.question}" in tables
        assert part.asked or f"| {part.seconds:g} s |" in told
        assert (ROOT / "benchmarks" / "gpu" / f"{name}.py").exists()


def test_parts_keep_their_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, float] = {}
    monkeypatch.setattr(carry, "ready", lambda: None)
    monkeypatch.setattr(script, "about", lambda smoke: SMOKE | {"processor": "x"})
    monkeypatch.setattr(script, "part", lambda name, sheet, seconds: given.update({name: seconds}) or "")
    script.measure(script.chosen("", False), tmp_path, False)
    assert sum(part.seconds for part in script.PARTS.values()) <= 540
    assert next(iter(given)) == "tests"
    assert not set(given) & {"whole", "whole_lanes"}
    # nothing took any time here: the first has all but what the others must have, the last has everything
    own = [part.seconds for name, part in script.PARTS.items() if name in given]
    assert given["tests"] == pytest.approx(540 - sum(own[1:]), abs=1)
    assert given["recipes"] == pytest.approx(540, abs=1)
    assert script.chosen("whole, exits", False) == ["exits", "whole"]
    assert set(script.chosen("", True)) == set(script.PARTS)


def alive(status: Path) -> bool:
    try:
        return "zombie" not in status.read_text()
    except OSError:
        return False


def test_a_part_that_hangs_is_cut_with_what_it_started(tmp_path: Path) -> None:
    own = sheet(tmp_path)
    child = (
        "import subprocess, sys, time; p = subprocess.Popen(['sleep', '60']); "
        "print(p.pid, file=open(sys.argv[1], 'w'), flush=True); time.sleep(60)"
    )
    began = time.monotonic()
    said = script.part("forms", own, 2.0, [sys.executable, "-c", child, str(tmp_path / "pid")])
    assert time.monotonic() - began < 20
    assert said == "cut after 2 s"
    assert [(r["metric"], r["value"]) for r in rows.read(own.path)] == [("cut", 2.0)]
    status = Path("/proc") / (tmp_path / "pid").read_text().strip() / "status"
    while alive(status) and time.monotonic() < began + 20:
        time.sleep(0.05)
    assert not alive(status)


@pytest.mark.parametrize(
    ("code", "note"),
    [
        ("raise ValueError('no /usr/lib/x.so here')", "exit code 1: ValueError: no x.so here"),
        ("import os; os.kill(os.getpid(), 11)", "killed by signal 11: it said nothing"),
    ],
)
def test_a_part_that_breaks_is_a_row(tmp_path: Path, code: str, note: str) -> None:
    own = sheet(tmp_path)
    assert script.part("forms", own, 30, [sys.executable, "-c", code]).startswith("failed: ")
    assert [(r["metric"], r["note"]) for r in rows.read(own.path)] == [("failed", note)]
    assert script.part("forms", own, 30, [sys.executable, "-c", "pass"]) == ""
    assert script.part("forms", own, 0.5, [sys.executable, "-c", "pass"]) == "no time was left"
    assert len(rows.read(own.path)) == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_without_a_card_one_line(tmp_path: Path) -> None:
    for asked, wanted in (
        ([], "finds no CUDA device on this machine; make gpu SMOKE=1 tries all on the CPU"),
        (["--part", "tests,gone"], "no part gone; there are tests, training"),
    ):
        command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(tmp_path), *asked]
        found = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "GPU_CACHE": str(tmp_path)}
        )
        assert found.returncode == 2
        assert found.stdout == ""
        assert wanted in found.stderr
        assert found.stderr.count("\n") == 1
    assert not (tmp_path / "gpu.jsonl").exists()


def test_a_published_batch_travels_and_comes_back_to_the_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 3, 32, 32), dtype=np.uint8).tobytes()
    assert carry.BEGINS[1:] == (10_000 * 3_072).to_bytes(4, "little")
    for name, value in {
        "IMAGES": 40,
        "STRIP": 10,
        "PIXELS": len(pixels),
        "BEGINS": b"T" + len(pixels).to_bytes(4, "little"),
    }.items():
        monkeypatch.setattr(carry, name, value)
    published = b"\x80\x02}q\x01U" + carry.BEGINS + pixels + b"tb(U\x04a.pngu." * 9
    packed = carry.pack(published)
    assert carry.unpack(packed) == published
    assert pixels[:64] not in packed
    with pytest.raises(ValueError, match="no pixels found"):
        carry.pack(published[:100])


def test_what_travels_is_what_is_lacking() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = project.partition("dependencies = [")[2].partition("]")[0]
    asked = set(re.findall(r'"([\w-]+)', block))
    assert asked - THERE <= set(carry.LACKING)
    pins = (ROOT / "requirements" / "3.12.txt").read_text(encoding="utf-8")
    assert all(f"\n{name}==" in f"\n{pins}" for name in carry.LACKING)
    from compressbench.data.cifar import PUBLISHED

    files = {content.name for content in PUBLISHED["cifar10"].files}
    assert sorted(name for names in carry.FOLDERS.values() for name in names) == sorted(files)
    assert "/.gpu/" in (ROOT / ".gitignore").read_text().splitlines()


def test_a_package_that_is_neither_there_nor_carried_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert carry.missing() == []
    (tmp_path / "PyYAML-6.dist-info").mkdir()
    (tmp_path / "PyYAML-6.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: Hydra_Core\nVersion: 6\n"
    )
    monkeypatch.setattr(carry.sys, "path", [])
    monkeypatch.setattr(carry, "SITE", tmp_path)
    found = carry.missing()
    assert "omegaconf" in found
    assert "antlr4-python3-runtime" in found
    assert not {"hydra-core", "torchvision"} & set(found)


def test_the_clock_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(training.time, "perf_counter", lambda: now[0])
    clock = training.Clock(seconds=4.0, device="cpu", began=100.0)

    def steps() -> None:
        for took, done in ((30.0, 10), (2.0, 20), (0.0, 20), (1.0, 30), (1.0, 40), (9.0, 50)):
            now[0] += took
            clock.step(done, 1000, loss=float(done))
        raise AssertionError("it wasn't ended")

    clock.run(steps)
    assert clock.rates == [5.0, 10.0, 10.0]
    assert (clock.marks[0], clock.loss, clock.waits) == ((10, 30.0), 40.0, None)


def test_the_bare_loop_crops_and_mirrors() -> None:
    images = torch.arange(2 * 2 * 6 * 6, dtype=torch.uint8).view(2, 2, 6, 6)
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (4, 4), (4, 4)))
    down, right = torch.tensor([[0], [7], [4]]), torch.tensor([[8], [3], [4]])
    picked, mirrored = torch.tensor([1, 0, 1]), torch.tensor([[False], [True], [False]])
    found = training.cut(torch.from_numpy(padded), picked, down, right, mirrored).numpy()
    assert (found[0] == padded[1, :, 0:6, 8:14]).all()
    assert (found[1] == padded[0, :, 7:13, 3:9][..., ::-1]).all()
    assert (found[2] == images[1].numpy()).all()


@pytest.mark.slow
def test_training_is_measured_arm_by_arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "LEAST", 2)
    own = sheet(tmp_path, "training", **SMOKE)
    training.measure(own, (("graph", "bf16"), ("eager", "fp32")), 0.01)
    found = rows.read(own.path)
    failed = {r["arm"]: r["note"] for r in found if r["metric"] == "failed"}
    assert failed.keys() == {"ResNet-8, bare, bf16, graph", "ResNet-8, ours, bf16, graph"}
    rates = {r["arm"]: r["value"] for r in found if r["metric"] == "training images"}
    assert rates.keys() == {"ResNet-8, bare, fp32, eager", "ResNet-8, ours, fp32, eager"}
    whole = {r["arm"]: r["value"] for r in found if "extrapolated" in r["metric"]}
    for arm, rate in rates.items():  # 10 batches of 32 an epoch, 160 epochs
        assert whole[arm] == pytest.approx(160 * 320 / rate)
    # chance is ln 10; a net that is not trained, or diverges, is elsewhere
    losses = [r["value"] for r in found if r["metric"] == "loss at the end"]
    assert all(1.5 < loss < 3.5 for loss in losses)


@pytest.mark.slow
def test_the_bare_loop_learns_as_ours_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "LEAST", 8)
    torch.manual_seed(2)  # the bare loop's crops are drawn by torch's own generator
    dataset = nets.noise(320, 64, 8)
    for part in dataset.splits.values():  # the label is how bright the image is
        part["images"][:] = part["images"] // 10 + 23 * part.labels[:, None, None, None].astype(np.uint8)
    start = nets.begun(nets.resnet(8), dataset)
    losses = []
    for make in (training.bare, training.ours):
        clock = training.Clock(seconds=0.0, device="cpu")
        clock.run(make(start, nets.bench(dataset, "cpu", "dense", progress=clock), "fp32", "eager"))
        assert clock.seen == 200
        losses.append(clock.loss)
    assert all(loss < 1.5 for loss in losses), losses


def test_tests_become_rows_as_they_end(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = cuda")
    (tmp_path / "test_cuda_some.py").write_text(
        "import pytest\npytestmark = pytest.mark.cuda\n"
        "def test_compiled(): pass\n"
        "def test_a(): pass\n"
        "def test_b(): assert 1 == 2, 'no /usr/lib/x.so'\n"
        "@pytest.mark.skip(reason='no card')\ndef test_c(): pass\n"
        "@pytest.fixture\ndef broken(): raise ValueError('torn')\n"
        "def test_d(broken): pass\n"
    )
    (tmp_path / "test_cuda_torn.py").write_text("import nothing_of_this_name")
    (tmp_path / "test_cuda_other.py").write_text("def test_unmarked(): assert False")
    code = "import sys; from pathlib import Path; from benchmarks.gpu import rows, tests; "
    code += f"tests.tell(rows.Sheet(Path(sys.argv[1]) / 'gpu.jsonl', 'tests', {CARD}), [*map(Path, sys.argv[2:])])"
    for names in (("test_cuda_some.py", "test_cuda_other.py"), ("test_cuda_torn.py",), ()):
        files = [str(tmp_path / name) for name in names]
        subprocess.run([sys.executable, "-c", code, str(tmp_path), *files], cwd=ROOT, check=True)
    found = [
        (r["arm"], r["metric"], r["note"]) for r in rows.read(tmp_path / "gpu.jsonl") if r["arm"] != "all"
    ]
    assert found == [
        ("test_cuda_some.py::test_a", "passed", ""),
        ("test_cuda_some.py::test_b", "failed", "AssertionError: no x.so assert 1 == 2"),
        ("test_cuda_some.py::test_c", "skipped", "no card"),
        ("test_cuda_some.py::test_d", "failed", "ValueError: torn"),
        ("test_cuda_some.py::test_compiled", "passed", ""),
        ("test_cuda_torn.py", "failed", "E ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("tests", "failed", "there is no test with the marker cuda"),
    ]
    counts = [
        (r["metric"], r["value"], r["n"]) for r in rows.read(tmp_path / "gpu.jsonl") if r["arm"] == "all"
    ]
    assert counts[:3] == [("tests passed", 2, 5), ("tests failed", 2, 5), ("tests skipped", 1, 5)]
    assert counts[3:6] == [("tests passed", 0, 1), ("tests failed", 1, 1), ("tests skipped", 0, 1)]


@pytest.mark.slow
def test_every_part_runs_at_a_tiny_size(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--smoke", "--out", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "GPU_CACHE": str(tmp_path / "cache")})
    text = (tmp_path / "gpu.jsonl").read_text(encoding="utf-8")
    found = [json.loads(line) for line in text.splitlines()]
    assert {r["part"] for r in found} == set(script.PARTS)
    assert [r for r in found if r["metric"] == "cut" or (r["metric"] == "failed" and not r["arm"])] == []
    assert {r["device"] for r in found} == {"cpu"}
    assert all(r["smoke"] for r in found)
    assert str(Path.home()) not in text
    assert str(ROOT) not in text
