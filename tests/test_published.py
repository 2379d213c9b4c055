"""Published figures: their files, whether the recipes make what they ask for, what records answer, the page."""

from __future__ import annotations

import functools
import re
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from scipy import stats
from torch import Tensor

from cases_report import record
from compressbench import specs
from compressbench.bench import Bench
from compressbench.cli.run import composed
from compressbench.distributions import t_quantile, within_t
from compressbench.errors import UserError
from compressbench.masks import density
from compressbench.models.draw import drawn
from compressbench.pruning.unstructured import decide
from compressbench.records import Record, write_jsonl
from compressbench.report.intervals import of_another, of_mean
from compressbench.report.literature_page import (
    Row,
    answers,
    command,
    escaped,
    page,
    reading,
    rows_of,
    unasked,
)
from compressbench.report.literature_rows import Figure, topics
from compressbench.runs.plan import Context, Plan, make
from compressbench.specs import length as lengths
from compressbench.specs.overrides import parted, told
from compressbench.stages.train import Train

ROOT = Path(__file__).parents[1]
STUDIES = {f"{t.name}.{s.name}": s for t in topics() for s in t.studies}


@functools.cache
def planned(name: str) -> tuple[dict[str, Any], Plan]:
    """A study's config at scale=paper and its plan; nothing is trained."""
    study = STUDIES[name]
    config = composed([f"recipe={study.recipe}", "scale=paper", *study.run])
    return config, make(config["recipe"], 0, Context("", "cpu", 1))


def training(name: str, state: str) -> Train:
    stage = planned(name)[1].node(state).stage
    assert isinstance(stage, Train)
    return stage


# intervals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("df", [1, 2, 3, 4, 7, 8, 31])
def test_student_s_t_is_scipy_s(df: int) -> None:
    for t in (0.1, 1.0, 2.5, 12.0):
        assert within_t(t, df) == pytest.approx(2 * stats.t.cdf(t, df) - 1, abs=1e-12)
    for share in (0.5, 0.95, 0.99):
        assert t_quantile(share, df) == pytest.approx(stats.t.ppf((1 + share) / 2, df), rel=1e-9)


def test_intervals_are_scipy_s() -> None:
    values = [91.1, 91.9, 91.4, 91.6]
    expected = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert of_mean(values) == pytest.approx(expected)
    wide = np.std(values, ddof=1) * np.sqrt(1 + 1 / 4)
    assert of_another(values) == pytest.approx(stats.t.interval(0.95, 3, loc=np.mean(values), scale=wide))


# what the files ask for, and what the recipes make ----------------------------------------------------------------------


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_s_states_are_made_and_measured(name: str) -> None:
    study = STUDIES[name]
    config, plan = planned(name)
    assert (config["recipe"]["name"], config["model"]["name"], config["dataset"]["name"]) == (
        study.recipe,
        study.model,
        study.dataset,
    )
    final = {m.state for m in plan.measures if m.moment == "final" and m.probes is None}
    probes = {probe for probe, spec in config["evaluation"]["probes"].items() if spec is not None}
    for figure in study.figures:
        if figure.state:
            assert figure.state in final, figure.name
            assert figure.probe in probes, figure.name


def measured_by() -> dict[str, set[str]]:
    """Metrics by probe, as docs/records.md lists them."""
    table = (ROOT / "docs/records.md").read_text(encoding="utf-8").partition("## Metrics")[2]
    found: dict[str, set[str]] = {}
    probe = ""
    for row in re.findall(r"^\| ?(.*?) ?\| (.+?) \|", table, re.M):
        probe = row[0] or probe
        found.setdefault(probe, set()).update(re.findall(r"`(\w+)`", row[1]))
    return found


def test_a_figure_s_probe_yields_its_metric() -> None:
    known = measured_by()
    assert "top1" in known["accuracy"]
    for study in STUDIES.values():
        for figure in study.figures:
            assert figure.metric in known[figure.probe], figure.name


def test_no_two_studies_are_answered_by_the_same_run() -> None:
    runs = [(s.recipe, s.model, s.dataset, frozenset(parted(told(s.run)))) for s in STUDIES.values()]
    assert len(runs) == len(set(runs)) > 8


# by the sources: study, state, peak rate, decay, batch, length, shares of the peak rate at some epochs (or iterations)
PROTOCOLS: tuple[tuple[str, str, float, float, int, str, dict[float, float]], ...] = (
    ("dense.he_20", "dense", 0.1, 1e-4, 128, "64000it", {31999: 1, 32000: 0.1, 47999: 0.1, 48000: 0.01}),
    ("dense.torchdistill_20", "dense", 0.1, 1e-4, 128, "182ep", {90: 1, 91: 0.1, 135: 0.1, 136: 0.01}),
    ("dense.torchdistill_wrn", "dense", 0.1, 5e-4, 128, "200ep", {59: 1, 60: 0.2, 120: 0.04, 160: 0.008}),
    ("flatness.sam", "sam", 0.1, 5e-4, 128, "200ep", {59: 1, 60: 0.2, 120: 0.04, 160: 0.008}),
    ("distillation.distiller", "ce", 0.1, 2e-4, 128, "200ep", {79: 1, 80: 0.1, 120: 0.01}),
    ("pruning.agp", "agp", 0.1, 1e-4, 256, "180ep", {49: 1, 50: 0.1, 100: 0.01, 150: 0.001}),
    ("pruning.channels", "dense", 0.1, 5e-4, 128, "200ep", {119: 1, 120: 0.1, 150: 0.01, 180: 0.001}),
    ("pruning.channels", "l1_finetune", 0.01, 5e-4, 128, "100ep", {59: 1, 60: 0.1, 80: 0.01}),
    ("random_weights.edge_popup", "normal_k50.train", 0.1, 1e-4, 128, "100ep", {0: 1, 50: 0.5, 100: 0}),
    ("cheap_convolutions.xie", "alone_shift.train", 0.1, 2e-4, 128, "300ep", {149: 1, 150: 0.1, 225: 0.01}),
    ("lottery.linear_mode", "dense", 0.1, 1e-4, 128, "63000it", {31499: 1, 31500: 0.1, 47250: 0.01}),
)


@pytest.mark.parametrize(("study", "state", "lr", "decay", "batch", "length", "rates"), PROTOCOLS)
def test_trainings_are_as_their_sources_have_them(
    study: str, state: str, lr: float, decay: float, batch: int, length: str, rates: dict[float, float]
) -> None:
    stage = training(study, state)
    assert (stage.lr, stage.weight_decay, stage.batch_size, stage.length) == (lr, decay, batch, length)
    schedule, whole = stage.built("schedule"), int(length[:-2])
    assert [schedule(at / whole) for at in rates] == pytest.approx(list(rates.values()), abs=1e-12)


def test_tickets_rewind_to_iteration_1000() -> None:
    assert training("lottery.linear_mode", "warm").stop == "1000it"
    prune = planned("lottery.linear_mode")[1].node("level8.prune").stage
    assert round(100 * (1 - prune.fraction) ** 8, 1) == 16.8


def test_distillation_moves_the_weights_as_its_source_does() -> None:
    """Theirs: 0.3 CE + 0.7 KL at T = 5 without T², rate 0.1, decay 2e-4; one step of SGD from the same place."""
    kd = training("distillation.distiller", "kd")
    objective = kd.objective
    share, t = objective["share"], objective["temperature"]
    assert t == 5.0
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(10, 6, generator=generator, dtype=torch.double, requires_grad=True)
    x, teacher = (torch.randn(32, n, generator=generator, dtype=torch.double) for n in (6, 10))
    labels = torch.randint(0, 10, (32,), generator=generator)

    def step(soft: float, hard: float, lr: float, decay: float) -> Tensor:
        logits = x @ weight.T
        kl = F.kl_div((logits / t).log_softmax(1), (teacher / t).softmax(1), reduction="batchmean")
        (gradient,) = torch.autograd.grad(soft * kl + hard * F.cross_entropy(logits, labels), weight)
        return lr * (gradient + decay * weight.detach())

    theirs = step(0.7, 0.3, 0.1, 2e-4)
    ours = step(share * t * t, 1 - share, kd.lr, kd.weight_decay)
    assert torch.allclose(ours, theirs, rtol=1e-6, atol=1e-12)


def test_gradual_pruning_keeps_the_share_that_the_page_says(digits) -> None:
    """Filters: 10 of 16 and 19 of 32 stay; of four layers of 36,864 weights 30 % do."""
    config, _ = planned("pruning.agp")
    state = drawn({k: config["model"][k] for k in ("name", "build")}, Bench(digits, seed=0, name="init"))
    sizes = {n: w for n, w in state.facts["prunable"].items() if n != "conv1.weight" and n != "fc.weight"}
    for node in ("filters", "agp"):
        method = training("pruning.agp", node).methods()["gradual"]
        settings = method.keywords
        grain = settings["grain"]
        decision = decide(
            state,
            Bench(digits, seed=0, name=node),
            settings["criterion"],
            settings["scope"],
            grain() if callable(grain) else grain,
            settings["final"],
            "whole",
            settings["rates"],
        )
        state = state.with_groups(masks=decision.masks)
    left = {name: int(mask.sum()) for name, mask in state.masks.items()}
    kept = {"layer1": 10 * 9 * 16, "layer2.0": 19 * 9 * 16, "layer2": 19 * 9 * 32, "layer3": 36_864 - 25_805}
    expected = {
        name: kept["layer2.0" if name.startswith("layer2.0") else name[:6]]
        for name in sizes
        if re.fullmatch(r"layer[12]\.\d\.conv1\.weight|layer3\.[12]\.conv\d\.weight", name)
    }
    assert {name: n for name, n in left.items() if n < state.facts["prunable"][name]} == expected
    # of three channels; digits have one
    whole = 270_896
    gone = sum(state.facts["prunable"][n] - k for n, k in expected.items())
    assert round(100 * (1 - gone / whole), 1) == 57.5
    assert "keeps 57.5 % of the prunable weights" in " ".join(STUDIES["pruning.agp"].differs)
    assert density(state.masks, state.facts["prunable"], sum(state.facts["prunable"].values())) < 0.58
    # both halves of the training meet
    first, then = (training("pruning.agp", node) for node in ("filters", "agp"))
    assert (first.length, first.stop, then.start) == (then.length, "20ep", "20ep")
    steps = lengths.steps(first.length, 175)
    ends = [round(s.reparametrise["gradual"]["stop"] * steps) for s in (first, then)]
    assert ends == [pytest.approx(20 * 175, abs=2), pytest.approx(40 * 175, abs=2)]
    assert ends[0] <= 20 * 175


# what a file may say --------------------------------------------------------------------------------------------------


GOOD = {
    "title": "A topic",
    "studies": {
        "one": {
            "title": "A study",
            "source": "Somebody 2020",
            "data": "CIFAR-10",
            "recipe": "dense",
            "run": ["model=resnet20"],
            "model": "resnet20",
            "dataset": "cifar10",
            "protocol": "long",
            "differs": [],
            "rows": {"a": {"net": "ResNet-20", "state": "dense", "metric": "top1", "value": 91.25, "mark": "verified"}},
        }
    },
}  # fmt: skip


def changed(path: str, value: Any) -> dict[str, Any]:
    content = yaml.safe_load(yaml.safe_dump(GOOD))
    *before, last = path.split(".")
    block = content
    for key in before:
        block = block[key]
    if value is None:
        del block[last]
    else:
        block[last] = value
    return content


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("titel", "x", r"t\.yaml: unknown key 'titel'; did you mean title\?"),
        ("studies", [1], r"t\.yaml: studies: a mapping of names is wanted"),
        ("studies.one.source", None, r"studies\.one\.source: null is no text of one line"),
        ("studies.one.source", "a\nb", r"studies\.one\.source: 'a\\nb' is no text of one line"),
        ("studies.one.run", ["seed=1"], r"run: 'seed=1' is no override beside"),
        ("studies.one.run", ["resnet20"], r"run: 'resnet20' is no override beside"),
        ("studies.one.differs", "much", r"differs: 'much' is no list of texts"),
        ("studies.one.rows.a.mark", "sure", r"rows\.a\.mark: unknown 'sure'; known: remembered, verified"),
        ("studies.one.rows.a.metric", "top2", r"rows\.a\.metric: unknown 'top2'"),
        ("studies.one.rows.a.value", None, r"rows\.a\.value: the figure is needed"),
        ("studies.one.rows.a.value", "91", r"rows\.a\.value: '91' is no number"),
        ("studies.one.rows.a.value", 912.5, r"rows\.a\.value: 912\.5 is not within 0 and 100 %"),
        ("studies.one.rows.a.value", float("nan"), r"rows\.a\.value: nan is no number"),
        ("studies.one.rows.a.spread", -1, r"rows\.a\.spread: -1\.0 is below 0"),
        ("studies.one.rows.a.n", 0, r"rows\.a\.n: 0 is no number of runs"),
        ("studies.one.rows.a.state", None, r"rows\.a: state says which one answers the figure, or missing"),
        (
            "studies.one.rows.a.missing",
            "why",
            r"rows\.a: state says which one answers the figure, or missing",
        ),
    ],
)
def test_what_a_file_of_figures_gets_wrong(path: str, value: Any, words: str, tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(GOOD))
    (topic,) = topics(tmp_path)
    assert topic.studies[0].figures[0].value == 91.25
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(changed(path, value)))
    with pytest.raises(UserError, match=words):
        topics(tmp_path)


def test_a_chart_alone_says_so_and_a_broken_file_names_its_line(tmp_path: Path) -> None:
    text = yaml.safe_dump(changed("studies.one.rows.a.printed", "a chart only"))
    (tmp_path / "t.yaml").write_text(text.replace("value: 91.25", "value: null"))
    assert topics(tmp_path)[0].studies[0].figures[0].value is None
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(GOOD).replace("value: 91.25", "value: null"))
    with pytest.raises(UserError, match="without a value it says what the source prints"):
        topics(tmp_path)
    (tmp_path / "t.yaml").write_text("title: a\nstudies: {\n")
    with pytest.raises(UserError, match=r"t\.yaml, line 3: no valid YAML"):
        topics(tmp_path)
    with pytest.raises(UserError, match="no published figures"):
        topics(tmp_path / "nowhere")


# what records answer --------------------------------------------------------------------------------------------------


HE = STUDIES["dense.he_20"]
RUN = parted(told(HE.run))
FIGURE = HE.figures[0]


def ours(value: float | None, seed: int = 0, overrides: tuple[str, ...] = RUN, **given: Any) -> Row:
    made = {
        "recipe": "dense",
        "model": "resnet20",
        "dataset": "cifar10",
        "scale": "paper",
        "hardware": "cuda",
    }
    return Row(record(**{**made, "value": value, "seed": seed, **given}), overrides)


def test_a_run_answers_by_its_recipe_its_net_its_data_and_its_overrides() -> None:
    assert RUN == ("model.build.shortcut=A",)
    (values,) = answers(HE, FIGURE, [ours(91.0), ours(92.0, 1)]).values()
    assert values == {0: 91.0, 1: 92.0}
    for other in (
        ours(91.0, overrides=()),
        ours(91.0, overrides=(*RUN, "recipe.train.lr=0.2")),
        ours(91.0, overrides=("model.build.shortcut=B",)),
        ours(91.0, recipe="one_shot"),
        ours(91.0, model="resnet56"),
        ours(91.0, dataset="digits"),
        ours(91.0, scale="laptop"),
        ours(91.0, state="dense@seed1"),
        ours(91.0, metric="top5"),
        ours(91.0, probe="other"),
        ours(91.0, group="cat"),
        ours(91.0, moment="early"),
    ):
        assert not answers(HE, FIGURE, [other]), other
    assert not answers(HE, FIGURE, [ours(None)])


def test_where_it_ran_and_what_was_measured_are_no_other_run_and_lanes_are_told() -> None:
    lanes = ours(
        91.0, overrides=(*RUN, "hardware.lanes=4", "evaluation=quick", "+probe@evaluation.probes.exits=exits")
    )
    ((made, values),) = answers(HE, FIGURE, [lanes]).items()
    assert values == {0: 91.0}
    assert "hardware.lanes=4" in made.words()
    assert "evaluation" not in made.words()


def test_different_machines_precisions_and_versions_are_never_in_one_mean() -> None:
    rows = [
        ours(91.0),
        ours(92.0, 1, machine="another"),
        ours(93.0, 2, dtype="bf16"),
        ours(94.0, 3, versions="x"),
    ]
    assert [dict(v) for v in answers(HE, FIGURE, rows).values()] == [
        {0: 91.0},
        {1: 92.0},
        {2: 93.0},
        {3: 94.0},
    ]
    with pytest.raises(UserError, match=r"seed 0: 91 and 92 of the same settings"):
        answers(HE, FIGURE, [ours(91.0), ours(92.0)])
    assert len(answers(HE, FIGURE, [ours(91.0), ours(91.0)])) == 1


def test_other_scales_answer_only_when_asked_and_say_so() -> None:
    small = ours(70.0, scale="smoke", model="resnet8", dataset="digits")
    assert "not run yet" in page(topics(), [small])
    text = page(topics(), [small], any_scale=True)
    assert "70.00 % (one seed) [1]" in text
    assert "another scale: not compared" in text
    assert "points" not in next(x for x in text.splitlines() if "70.00 %" in x)
    assert "scale=smoke, resnet8 on digits" in text
    assert "Made with --any-scale" in text


def figure(value: float | None = 91.25, **given: Any) -> Figure:
    return replace(FIGURE, value=value, **given)


def test_words_claim_no_more_than_the_seeds_carry() -> None:
    three = [91.0, 91.2, 91.6]
    mean = statistics.fmean(three)
    low, high = stats.t.interval(0.95, 2, loc=mean, scale=stats.sem(three))
    assert reading(figure(), [91.6]) == "one seed, +0.35 points: no interval"
    assert reading(figure(), three) == (
        f"+{mean - 91.25:.2f} points; the 95 % interval of our mean, {low:.2f} to {high:.2f}, contains it"
    )
    assert reading(figure(95.0), three).endswith("lies below it")
    assert reading(figure(85.0), three).endswith("lies above it")
    # two seeds carry little: an interval that leaves the possible is cut
    assert "0.00 to 100.00, contains it" in reading(figure(), [60.0, 90.0])
    # just outside of the mean's interval, well within that of a further run
    assert reading(figure(high + 0.1), three).endswith("of our mean, 90.51 to 92.03, lies below it")
    single = reading(figure(high + 0.1, n=1), three)
    assert "the 95 % range of a further run of ours" in single
    assert single.endswith("contains it")
    assert reading(figure(n=4, spread=0.5), three).endswith("our mean is within their ± 0.5")
    assert reading(figure(n=4, spread=0.001), three).endswith("our mean is outside their ± 0.001")
    assert reading(figure(None, printed="a chart only"), three) == "no number to compare with"
    assert reading(figure(126.81e6, metric="macs"), [125.4e6]) == "ours is 0.9889 times it"


def test_the_page_has_mean_spread_and_number_of_seeds() -> None:
    values = [91.0, 91.2, 91.6]
    text = page(topics(), [ours(v, seed) for seed, v in enumerate(values)])
    mean, sd = np.mean(values), np.std(values, ddof=1)
    line = next(x for x in text.splitlines() if "3 seeds" in x)
    assert line.startswith(
        f"| ResNet-20 | 91.25 % (error 8.75 %) | verified | {mean:.2f} ± {sd:.2f} % (3 seeds) [1] | +0.02 points;"
    )
    assert "Made with [1] cuda; a processor, 1 thread; fp32; compressbench 0.1.0, torch 2.15.0" in text
    assert text.count("not run yet") == page(topics()).count("not run yet") - 1


def test_nothing_in_a_record_steers_the_page() -> None:
    bad = "a|b <script>`x` [y](z) *s* \\ & _u_\nnew\x1b[31m"
    text = page(topics(), [ours(91.0, machine=bad, dtype="|")])
    line = next(x for x in text.splitlines() if "Made with" in x)
    plain = re.sub(r"\\.", "", line.removeprefix("- Made with [1] "))
    assert not set("|<>`[]*_&\x1b") & set(plain)
    assert "\nnew" not in text
    assert escaped("a|b") == "a\\|b"
    assert all(x.count("|") - x.count("\\|") in (0, 6) for x in text.splitlines() if x.startswith("|"))


# the command ----------------------------------------------------------------------------------------------------------


def published(*args: str) -> int:
    from compressbench.cli.main import run

    return run(["published", *args])


def test_the_page_in_the_repository_is_what_the_command_writes_without_runs(tmp_path: Path) -> None:
    assert published("--write", str(tmp_path / "page.md")) == 0
    assert (tmp_path / "page.md").read_bytes() == (ROOT / "docs/published.md").read_bytes()


def test_the_command_reads_runs_and_names_what_answers_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows: list[Record] = [replace(ours(91.0 + s, s).record, overrides=" ".join(RUN)) for s in range(2)]
    for seed, row in enumerate(rows):
        (tmp_path / f"run{seed}").mkdir()
        write_jsonl([row], tmp_path / f"run{seed}/records.jsonl")
    write_jsonl(rows, tmp_path / "records.jsonl")  # a joint report's: nothing counts twice
    other = [
        replace(rows[0], recipe="one_shot", overrides="", seed=7),
        replace(rows[0], scale="laptop", seed=8),
        replace(rows[0], overrides="model.build.shortcut=B", seed=9),
    ]
    write_jsonl(other, tmp_path / "run1/more.jsonl")
    given = (str(tmp_path), str(tmp_path / "run1/more.jsonl"))
    assert published(*given, "--write", str(tmp_path / "page.md")) == 0
    said = capsys.readouterr()
    assert not said.err
    *notes, last = said.out.splitlines()
    assert last == f"page: {tmp_path / 'page.md'}"
    assert [n.partition("left out, ")[2][:40] for n in notes] == [
        "no published figure here asks for this r",
        "only scale=paper answers published figur",
        "no study asks for resnet20 on cifar10 wi",
    ]
    assert published(*given) == 0
    printed = capsys.readouterr().out
    assert printed == (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "91.50 ± 0.71 % (2 seeds)" in printed
    assert printed.partition("## Left out")[2].count("left out, ") == 3
    assert published(*given, "--any-scale") == 0
    assert "91.00 % (one seed) [2] | another scale: not compared" in capsys.readouterr().out
    assert published(str(tmp_path / "nowhere")) == 2
    assert "there is no such file or folder" in capsys.readouterr().err


def test_overrides_of_records_that_lack_them_come_from_the_run(tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra/overrides.yaml").write_text("- recipe=dense\n- model.build.shortcut=A\n- seed=0\n")
    write_jsonl([ours(91.0).record], tmp_path / "records.jsonl")
    rows, _ = rows_of([tmp_path])
    assert [r.overrides for r in rows] == [("model.build.shortcut=A",)]
    assert not unasked(topics(), rows)


def test_a_study_s_command_is_one_that_a_shell_reads_back() -> None:
    import shlex

    for study in STUDIES.values():
        assert shlex.split(command(study))[2:] == [f"recipe={study.recipe}", "scale=paper", *study.run]


def test_the_radii_and_the_smoothing_are_the_source_s() -> None:
    radii = {
        state: specs.settings_of(training("flatness.sam", state).stepper).get("rho")
        for state in ("sgd", "sam", "asam")
    }
    assert radii == {"sgd": None, "sam": 0.05, "asam": 2.0}
    assert training("flatness.sam", "asam").objective["smoothing"] == 0.1
