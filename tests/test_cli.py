"""The command as a user meets it: verbs, speed of the light ones, and every kind of bad input as one line."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from compressbench.errors import UserError
from conftest import Command

SMOKE = ("scale=smoke", "hardware=cpu1")


def cpu_seconds(*args: str) -> float:
    """The smallest CPU time of three calls, children only."""
    taken = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-m", "compressbench", *args], capture_output=True, check=False, timeout=60
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(taken)


@pytest.mark.parametrize(
    "args",
    [
        ("--help",),
        ("list",),
        ("list", "recipes"),
        ("store",),
        ("data", "digits"),
        ("report", "nowhere"),
        ("published",),
        ("tour",),
        ("tour", "--write", "t.html"),
        ("tour", "nothing"),
    ],
)
def test_light_verbs_import_nothing_heavy(args: tuple[str, ...], tmp_path: Path) -> None:
    code = (
        "import sys\nfrom compressbench.cli.main import run\n"
        f"run({list(args)!r})\n"
        "heavy = {'torch', 'torchvision', 'matplotlib', 'hydra'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, capture_output=True, timeout=60)


@pytest.mark.parametrize(
    "args",
    [
        ("run", "recipe=nope"),
        ("run", "recipe=one_shot", "recipe.stages.dense.lrr=1"),
        ("run", "recipe=one_shot", "seeed=1"),
    ],
)
def test_composition_errors_import_no_torch(args: tuple[str, ...], tmp_path: Path) -> None:
    code = (
        "import sys\nfrom compressbench.cli.main import run\n"
        f"assert run({list(args)!r}) == 2\n"
        "assert not {'torch', 'torchvision', 'matplotlib'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, capture_output=True, timeout=60)


BAD = [
    (("run", "recipe=lth_resnte"), ("unknown recipe 'lth_resnte'", "lth_resnet")),
    (("run", "model=resnet21"), ("unknown model 'resnet21'", "resnet20")),
    (("run", "dataset=cifar11"), ("unknown dataset 'cifar11'", "cifar10")),
    (("run", "hardware=cpuu"), ("unknown hardware 'cpuu'", "cpu")),
    (("run", "evaluation=standart"), ("unknown evaluation", "standard")),
    (("run", "scale=huge"), ("unknown scale 'huge'", "laptop")),
    (("run", "stage/prune@recipe.stages.level.stages.prune=magnitud"), ("unknown stage/prune", "magnitude")),
    (("run", "recipe.stages.dense.lrr=1"), ("recipe.stages.dense.lrr", "lr")),
    (("run", "seeed=1"), ("seeed", "seed")),
    (("run", "seed=one"), ("seed: 'one'",)),
    (("run", "recipe.stages.level.stages.prune.fraction=1.5"), ("fraction: 1.5 is not in [0, 1)",)),
    (("run", "recipe.stages.level.stages.rewind.to=wram"), ("no state 'wram'", "warm")),
    (("run", "recipe.stages.level.stages.rewind.to=oneshot"), ("comes later",)),
    (("run", "recipe.compare.series.ticket=lvl*"), ("matches no state",)),
    (("run", "recipe.compare.moments.early.probes=[accurcy]"), ("no probe 'accurcy'", "accuracy")),
    (("run", "dataset=cifar10", "data_dir=nowhere"), ("cifar10", "nowhere", "compressbench data cifar10")),
    (("run", "dataset.train_size=99999"), ("train_size", "99999")),
    (("run", "model.build.depth=9"), ("depth",)),
    (("run", "model=torchvision", "model.build.model_name=resnet19"), ("resnet19", "resnet18")),
    (("run", "hardware.threads=0"), ("hardware.threads: 0",)),
    (("run", "hardware=cuda"), ("torch finds no GPU", "hardware=cpu")),
    (("run", "model.build._target_=os.system"), ("target os.system is not allowed", "trust=[os]")),
    (("run", "model.build={_target_: nosuchpkg.Net}", "trust=[nosuchpkg]"), ("nosuchpkg",)),
    (("run", "outputs=/proc/nowhere"), ("outputs", "/proc/nowhere")),
    (("run", "recipe.stages.dense.checkpoint=missing.pt"), ("missing.pt",)),
    (("frobnicate",), ("unknown verb 'frobnicate'",)),
    (("list", "modells"), ("unknown 'modells'", "models")),
    (("explain", "recipe=lth"), ("unknown recipe 'lth'", "lth_")),
    (("store",), ("no store in outputs",)),
    (("report", "nowhere"), ("nowhere",)),
    (("data", "cifra10"), ("cifra10", "cifar10")),
]


@pytest.mark.parametrize(("args", "words"), BAD, ids=[" ".join(a)[:60] for a, _ in BAD])
def test_bad_input_is_one_clear_line(args: tuple[str, ...], words: tuple[str, ...], command: Command) -> None:
    if "hardware=cuda" in args and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    light = (
        SMOKE
        if args[0] == "run" and not any(a.startswith(("scale=", "hardware=", "recipe=")) for a in args)
        else ()
    )
    if args[0] == "run" and not any(a.startswith("recipe=") for a in args):
        light = (*light, "recipe=lth_resnet")
    done = command(args[0], *light, *args[1:])
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0]


def test_debug_shows_the_traceback(command: Command) -> None:
    with pytest.raises(UserError, match="matches no state"):
        command("run", "recipe=lth_resnet", "recipe.compare.series.ticket=lvl*", "--debug")


def test_the_console_script_exits_with_two(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "compressbench", "run", "recipe=lth_resnte"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "lth_resnet" in done.stderr


PRUNE = "recipe.stages.magnitude.stages.prune"
BAD_PRUNING = [
    ((f"{PRUNE}.criterion=talyor",), ("there is no 'talyor' in criteria", "taylor")),
    ((f"{PRUNE}.scope=n_m",), ("2:4 removes 50%", "fraction=null")),
    ((f"{PRUNE}.grain=cube",), ("there is no 'cube' in grains",)),
    ((f"++{PRUNE}.rates=null",), ("rates: None is no mapping",)),
    (
        (f"{PRUNE}.scope=n_m", "recipe.stages.magnitude.values=[null]"),
        ("has 1 inputs, no multiple of 4", "rates"),
    ),
    (("recipe.fractions=[0.9999999]",), ("would leave none of the",)),
    (
        (f"{PRUNE}.criterion=obd_recursion",),
        ("obd_recursion", "use obd_fisher"),
    ),
    ((f"{PRUNE}.criterion=movement",), ("movement", "reparametrise")),
    ((f"{PRUNE}.criterion=magnitude_increase",), ("needs", "magnitude_increase")),
]


@pytest.mark.parametrize(("overrides", "words"), BAD_PRUNING, ids=[a[0] for a, _ in BAD_PRUNING])
def test_bad_pruning_is_one_clear_line(overrides, words, command: Command) -> None:
    light = (
        "evaluation=none",
        "recipe.length=1it",
        "recipe.compare.floor=false",
        "recipe.stages.random=null",
    )
    done = command("run", "recipe=one_shot", *SMOKE, *light, "~recipe.compare.series.random", *overrides)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0]


OUTSIDE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, outputs, width):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, outputs))

    def forward(self, x):
        return {"logits": self.body(x)}

class Bare(nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(outputs))

    def forward(self, x):
        return x.flatten(1)[:, : len(self.shift)] + self.shift
"""


def test_bad_models_are_one_clear_line(command: Command, tmp_path: Path) -> None:
    (tmp_path / "outside.py").write_text(OUTSIDE)
    for build, words in (
        ("{_target_: outside.Net, outputs: 7, width: 8}", "7,) outputs of each image, digits has 10 classes"),
        ("{_target_: outside.Bare, outputs: '@classes'}", "no prunable layer"),
        ("{_target_: outside.Net, outputs: '@classes', widht: 8}", "unknown key 'widht'"),
        ("{_target_: outside.Net, outputs: '@clases', width: 8}", "'@clases' is not known"),
        ("{_target_: outside.Nett, outputs: 10}", "Nett"),
    ):
        done = command(
            "run", "recipe=one_shot", *SMOKE, "trust=[outside]", "~model.build", f"+model.build={build}"
        )
        assert done.returncode == 2, done.stderr
        assert words in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_a_checkpoint_of_other_shapes(command: Command, tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(3, 3)}, tmp_path / "other.pt")
    done = command("run", *SMOKE, "recipe=one_shot", "recipe.stages.dense.checkpoint=other.pt")
    assert done.returncode == 2
    assert "other.pt" in done.stderr
    assert "don't fit" in done.stderr


def test_a_trained_checkpoint_takes_the_place_of_training(command: Command, tmp_path: Path, digits) -> None:
    from safetensors.torch import save_file

    from compressbench.models.lenet import LeNet300100

    module = LeNet300100(shape=[1, 8, 8], classes=10)
    save_file({k: v.contiguous() for k, v in module.state_dict().items()}, tmp_path / "mine.safetensors")
    done = command(
        "run",
        *SMOKE,
        "recipe=one_shot",
        "model=lenet_300_100",
        "recipe.fractions=[0.5]",
        "recipe.stages.dense.checkpoint=mine.safetensors",
        "recipe.compare.floor=false",
        "evaluation=quick",
    )
    assert done.returncode == 0, done.stderr
    rows = (next((tmp_path / "outputs/runs").iterdir()) / "records.csv").read_text()
    assert "magnitude" in rows


def test_cfg_job_and_completion(command: Command) -> None:
    shown = command("run", "--cfg", "job", "recipe=one_shot", "seed=5")
    assert shown.returncode == 0
    assert "seed: 5" in shown.stdout
    verbs = command("completion", "query", COMP_LINE="compressbench re", COMP_POINT="16").stdout.split()
    assert "report" in verbs
    line = "compressbench run recipe=lth_"
    found = command("completion", "query", COMP_LINE=line, COMP_POINT=str(len(line))).stdout.split()
    assert {"recipe=lth_lenet", "recipe=lth_resnet"} <= set(found)
    assert "complete -o nospace" in command("completion", "bash").stdout


def test_explain_says_what_a_recipe_does(command: Command) -> None:
    done = command("explain", "lth_resnet", "scale=smoke")
    assert done.returncode == 0, done.stderr
    for words in (
        "Claim",
        "Frankle",
        "level*.prune",
        "prune 0.5 of what is left by magnitude",
        "rewind the weights",
    ):
        assert words in done.stdout


def test_list_has_a_line_for_everything(command: Command) -> None:
    done = command("list")
    for words in ("recipes", "lth_resnet", "magnitude", "fashion_mnist", "cpu", "robustness", "resnet56"):
        assert words in done.stdout
    for line in done.stdout.splitlines():
        if line.startswith("  "):
            assert len(line.split(None, 1)) == 2, f"no description: {line}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "args",
    [("--help",), ("list",), ("run", "recipe=nope"), ("run", "recipe=one_shot", "recipe.stages.dense.lrr=1")],
)
def test_light_verbs_answer_at_once(args: tuple[str, ...]) -> None:
    """Half a second is the goal on a quiet machine; the limit here leaves room for a noisy one."""
    assert cpu_seconds(*args) < 1.0


def test_a_malformed_yaml_says_file_and_line(tmp_path) -> None:
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe/mine.yaml").write_text(
        "# mine: wrong\nname: mine\ncompare: {reference: a}\n  series: b\n"
    )
    command = [sys.executable, "-m", "compressbench", "run", "recipe=mine", "--config-dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "recipe/mine.yaml, line 4" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
