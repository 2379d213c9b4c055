"""The one training loop. What differs between methods goes in as a value.

All randomness is a function of (seed, order, epoch) or (seed, order, iteration), so that a training stopped after
any iteration and continued, by a checkpoint or by another stage, is the same training bit by bit.
"""

from __future__ import annotations

import fnmatch
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from compressbench.bench import Bench
from compressbench.data.examples import Examples, are_sequences
from compressbench.errors import Diverged, UserError, nearest
from compressbench.masks import masked
from compressbench.models.build import copies, load, module_of, snapshot
from compressbench.models.counting import count, in_training_alone
from compressbench.models.exit_policies import without_policy
from compressbench.outputs import forward
from compressbench.pruning.unstructured import saying_what_stays
from compressbench.specs import TARGET
from compressbench.specs.length import steps
from compressbench.state import State
from compressbench.training import checkpoints, launching, optimising, reparametrise, schedules
from compressbench.training.averaging import Average
from compressbench.training.batches import Batches
from compressbench.training.descent import FOLLOWED, beyond
from compressbench.training.held import Held
from compressbench.training.live import AVERAGE, OBJECTIVE, Job, Kept, Live, Run
from compressbench.training.steppers import Stepper
from compressbench.training.team import Alone, Iteration, Team
from compressbench.walking import lengths_of, walk

if TYPE_CHECKING:
    from compressbench.stages.train import Train

CHECK_EVERY = 25
"""Iterations after which losses are looked at, on the CPU; on a GPU, which must not be waited for, an epoch."""
CHECK_AT_MOST = 1000


def train(state: State, bench: Bench, settings: Train) -> State:
    """Trains a state by a ``stages.train.Train``'s settings; masks hold throughout.

    Raises:
        Diverged: the loss is not finite; names iteration and learning rate.
        UserError: lengths that don't fit each other, or a batch larger than the training set.
    """
    job = ready(state, bench, settings)
    live = job.live
    parameters = [p for p in (*live.module.parameters(), *live.own.values()) if p.requires_grad]
    optimizer = optimising.made(
        settings, parameters, job.run.lr, [live.methods] if live.methods else [], bench.device
    )
    live.optimizer = optimizer
    go_on(job)
    by = stepper(settings, live.module, optimizer)
    carry_out(Alone(job, optimizer), by)
    if job.lost is not None:
        raise job.lost
    return finished(job, by)


def ready(state: State, bench: Bench, settings: Train) -> Job:
    """A training made ready at its beginning; its optimiser is still to be made."""
    bench = _on_data(settings, bench)
    run = _run(settings, bench)
    placed = bench.task.placed(module_of(state, bench.device))
    module = placed.module
    frozen = _freeze(module, settings.only) if settings.only else []
    methods = reparametrise.built(module, bench, state, run, settings.methods())
    objective = settings.built("objective")(bench)
    own = _begun(objective, module)
    live = Live(module, Kept(), run.start, dict(state.masks), methods, own, frozen=frozen, lay=placed.inputs)
    return Job(state, bench, settings, run, live, objective)


def go_on(job: Job) -> None:
    """Takes up what the stage before left, or this stage's own checkpoint.

    Raises:
        UserError: it was left by another optimiser, objective or averager.
    """
    state, settings, run, live = job.state, job.settings, job.run, job.live
    averager = settings.averager[TARGET] if settings.averager else None
    left = state.group(AVERAGE) if run.start else {}
    if left and state.facts.get("averager") != averager:
        raise checkpoints.another(state.facts.get("averager"), averager or "no averager")
    if settings.averager is not None:
        live.average = Average.begun(settings.built("averager"), left)
    if run.start and state.group("optimizer"):
        checkpoints.take_up(live, state, settings.optimizer[TARGET])
    checkpoints.resume(live, job.bench)


def carry_out(team: Team, stepper: Stepper) -> None:
    """All iterations; each training's ``live`` is afterwards what came of it, or ``lost`` says why nothing did."""
    device = team.jobs[0].bench.device
    devices = [torch.device(device)] if device.startswith("cuda") else []
    with (
        torch.random.fork_rng(devices=devices),
        launching.exact(team.jobs[0].run.tf32, device),
        team.computing(),
    ):
        _loop(team, stepper)


def finished(job: Job, stepper: Stepper) -> State:
    """The trained state."""
    bench, settings, run, live = job.bench, job.settings, job.run, job.live
    facts, module, methods = job.state.facts, live.module, live.methods
    module.eval()
    state = _baked(live, job.state) if methods else job.state
    weights = snapshot(module)
    examples = (run.stop - run.start) * run.batch_size
    short = run.stop < run.total
    result = state.with_groups(
        weights=weights,
        optimizer=optimising.tensors(live.optimizer, live.named()) if short else {},
        data={},
        **{
            OBJECTIVE: copies(live.own) if short else {},
            AVERAGE: live.average.tensors() if short and live.average else {},
        },
    )
    if methods and result.masks:
        result = saying_what_stays(masked(result, result.masks), bench)
    return without_policy(result).with_facts(
        examples=facts.get("examples", 0) + examples,
        macs=facts.get("macs", 0)
        + _step_macs(facts, module, settings.only, bench) * getattr(stepper, "passes", 1) * examples
        + facts.get("forward_macs", 0) * (live.average.read if live.average else 0)
        + _beside(job.objective, run, examples),
        seconds=facts.get("seconds", 0.0) + live.seconds,
        curve=[*_before(facts, run.start), *live.curve],
        dtype="bf16" if run.autocast else "tf32" if run.tf32 else "fp32",
        optimizer=settings.optimizer[TARGET],
        averager=settings.averager[TARGET] if settings.averager else None,
        predicted_loss_increase=None,
        **_of_curve(facts, settings, run, len(bench.feed("train"))),
    )


def _of_curve(facts: Mapping[str, Any], settings: Train, run: Run, examples: int) -> dict[str, Any]:
    """What the training losses of the curve are of; nothing where none was written down.

    ``batch_size`` is null where the parts of one training had several.
    """
    if not run.follow:
        return {}
    told: dict[str, Any] = {
        "batch_size": run.batch_size,
        "examples": examples,
        "beyond_descent": beyond(settings, examples),
    }
    before = facts.get(FOLLOWED) if _before(facts, run.start) else None
    if before:
        told["beyond_descent"] = list(dict.fromkeys([*before["beyond_descent"], *told["beyond_descent"]]))
        for name in ("batch_size", "examples"):
            told[name] = told[name] if before[name] == told[name] else None
    return {FOLLOWED: told}


def _freeze(module: nn.Module, only: str) -> list[nn.Module]:
    """Freezes all parameters whose name doesn't fit the glob; returns the parts in which nothing is trained.

    Raises:
        UserError: the glob fits no parameter.
    """
    names = [name for name, _ in module.named_parameters()]
    if not any(fnmatch.fnmatchcase(name, only) for name in names):
        raise UserError(f"only: {only!r} fits no parameter of the net; {nearest(only, names)}")
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and fnmatch.fnmatchcase(name, only))
    return [
        part
        for name, part in module.named_modules()
        if name
        and not any(fnmatch.fnmatchcase(f"{name}.{leaf}", only) for leaf in ("weight", "bias"))
        and not any(p.requires_grad for p in part.parameters())
    ]


def _step_macs(facts: Mapping[str, Any], module: nn.Module, only: str | None, bench: Bench) -> int:
    """Multiply-accumulates of one example in training: a forward, and a backward of twice as much.

    Where only a part is trained: its weights' gradients, and those of what every layer from its first one on reads.
    Heads that only training runs count forwards: the loss doesn't read them.
    """
    whole: int = facts.get("forward_macs", 0)
    beside = in_training_alone(module, bench.task.blank(1))
    if not only:
        return 3 * whole + beside
    layers = count(module, bench.task.blank(1)).layers
    own = [any(fnmatch.fnmatchcase(f"{name}.{leaf}", only) for leaf in ("weight", "bias")) for name in layers]
    macs = list(layers.values())
    first = own.index(True) if True in own else len(own)
    return whole + beside + sum(m for m, mine in zip(macs, own, strict=True) if mine) + sum(macs[first:])


def _on_data(settings: Train, bench: Bench) -> Bench:
    """The bench whose training set is the one that the settings name."""
    if settings.data is None:
        return bench
    tensors = bench.references[settings.data].group("data")
    if not tensors:
        raise UserError(
            f"data: {settings.data} carries no data set; a stage such as data/few or data/munge makes one"
        )
    return replace(
        bench, feeds={**bench.feeds, "train": Examples.made(tensors, bench.device, len(bench.task.classes))}
    )


def _begun(objective: Any, module: nn.Module) -> dict[str, nn.Parameter]:
    """The objective's own parameters, by names that no module's parameter has."""
    begin = getattr(objective, "begin", None)
    return {f"{OBJECTIVE}.{name}": p for name, p in begin(module).items()} if begin else {}


def _beside(objective: Any, run: Run, examples: int) -> int:
    """Multiply-accumulates of what the objective itself computed: a teacher's forwards."""
    count = getattr(objective, "macs", None)
    return count(examples, not run.varies) if count else 0


def _before(facts: Mapping[str, Any], start: int) -> list[dict[str, float]]:
    """The curve so far, where this stage takes up a training at the iteration that the one before left it at."""
    curve = facts.get("curve") or []
    return list(curve) if start and curve and curve[-1]["step"] == start else []


def _baked(live: Live, state: State) -> State:
    """The state with the methods' masks and groups; the module's parameters become what stands for them.

    Raises:
        UserError: the methods left no weight at all.
    """
    assert live.methods is not None
    weights, masks = live.methods.finished()
    named = dict(live.module.named_parameters())
    with torch.no_grad():
        for name, weight in weights.items():
            named[name].copy_(weight)
    found = dict(live.masks)
    for name, mask in masks.items():
        kept = mask.cpu().contiguous()
        found[name] = kept & found[name] if name in found else kept
    if found.keys() >= state.facts["prunable"].keys() and not any(bool(m.any()) for m in found.values()):
        raise UserError(
            f"reparametrise: {', '.join(live.methods.methods)} left none of the weights; "
            "a smaller weight of the penalty is wanted"
        )
    return state.with_groups(masks=found, **live.methods.groups())


def stepper(settings: Train, module: nn.Module, optimizer: torch.optim.Optimizer) -> Stepper:
    """The stepper that the settings name.

    Raises:
        UserError: it can't be made of a net and its optimiser.
    """
    try:
        made: Stepper = settings.built("stepper")(module, optimizer)
    except TypeError as error:
        raise UserError(f"stepper {settings.stepper[TARGET]}: {str(error).replace('()', '')}") from error
    if not callable(made):
        raise UserError(f"stepper {settings.stepper[TARGET]}: it returned no function of a gradient")
    return made


def _run(settings: Train, bench: Bench) -> Run:
    count = len(bench.feed("train"))
    if settings.batch_size > count:
        raise UserError(f"batch_size: {settings.batch_size} is more than the {count} training examples")
    per_epoch = count // settings.batch_size
    total = steps(settings.length, per_epoch)
    if not total:
        raise UserError(
            f"length: {settings.length} is less than one of the {per_epoch} iterations of an epoch"
        )
    start = steps(settings.start, per_epoch) if settings.start else 0
    stop = steps(settings.stop, per_epoch) if settings.stop else total
    if not start <= stop <= total:
        raise UserError(
            f"start {start}, stop {stop}, length {total} iterations: must not decrease "
            f"({per_epoch} iterations an epoch of {count} examples)"
        )
    return Run(
        start=start,
        stop=stop,
        total=total,
        per_epoch=per_epoch,
        batch_size=settings.batch_size,
        lr=settings.lr,
        clip=settings.clip,
        schedule=settings.built("schedule"),
        warmup=steps(settings.warmup, per_epoch) if settings.warmup else 0,
        order=settings.order,
        varies=settings.augment and bench.task.varies(),
        autocast=settings.precision == "bf16",
        validate=steps(settings.validate, per_epoch) if settings.validate else 0,
        tf32=settings.precision == "tf32",
        follow=steps(settings.follow, per_epoch) if settings.follow else 0,
        rates=_step_sizes(settings, bench, total) if settings.in_order else (),
    )


def _step_sizes(settings: Train, bench: Bench, total: int) -> tuple[float, ...]:
    """The step size of each iteration, as the examples carry it: a row one a pass, alike for all of a batch.

    Raises:
        UserError: they carry none, a batch holds several, or there are fewer passes than the length asks for.
    """
    feed = bench.feed("train")
    column = feed.columns.get("rates")
    if column is None or column.ndim != 2 or not column.shape[1]:
        raise UserError(
            f"in_order: {settings.data} carries no step sizes; data/distilled and data/chosen make some"
        )
    if len(feed) % settings.batch_size:
        raise UserError(
            f"batch_size: {settings.batch_size} doesn't divide the {len(feed)} examples of {settings.data}"
        )
    sets = column.view(-1, settings.batch_size, column.shape[1])
    if not torch.equal(sets, sets[:, :1].expand_as(sets)):
        raise UserError(
            f"batch_size: {settings.batch_size} takes examples of {settings.data} together that have other step sizes"
        )
    found = tuple(sets[:, 0].t().flatten().tolist())
    if total > len(found):
        raise UserError(
            f"length: {settings.length} is {total} iterations, and {settings.data} carries step sizes of {len(found)}"
        )
    return found


def rate(run: Run, step: int) -> float:
    """The learning rate of one iteration."""
    own = run.rates[step] if run.rates else 1.0
    return run.lr * run.schedule(step / max(1, run.total)) * schedules.warmup(step, run.warmup) * own


def _loop(team: Team, stepper: Stepper) -> None:
    jobs = team.jobs
    run, bench = jobs[0].run, jobs[0].bench
    feed = bench.feed("train")
    lengths = lengths_of(bench.task, feed)
    batches = Batches(
        run,
        bench.task,
        [job.bench.seed for job in jobs],
        len(feed),
        bench.device,
        lengths if lengths is None else lengths.cpu(),
    )
    iteration = Iteration(team, stepper)
    for job in jobs:
        job.live.training()
    began = saved = time.monotonic()
    before = [job.live.seconds for job in jobs]
    losses: list[Tensor] = []
    step = jobs[0].live.step
    moved = [_remask(job) for job in jobs if job.live.methods and step == run.start]
    team.hold()
    if any(moved):
        team.held.apply()
    for job in jobs if run.follow and not step else ():
        job.live.curve.append({"step": 0, "lr": rate(run, 0), **_followed(job.live, job.bench)})
    launch = launching.launched(iteration, bench)
    check_every = CHECK_EVERY if bench.device == "cpu" else min(run.per_epoch, CHECK_AT_MOST)

    def spent() -> None:
        for job, seconds in zip(jobs, before, strict=True):
            job.live.seconds = seconds + (time.monotonic() - began) / len(jobs)

    while step < run.stop:
        rows, variation = batches.at(step)
        now = rate(run, step)
        optimising.set_rate(team.optimizer, now)
        iteration.seed = batches.seed(step)
        losses.append(launch(rows, variation))
        step += 1
        for job in jobs:
            job.live.step = step
            if job.live.methods:
                job.live.methods.after_step()
        moved = [_remask(job) for job in jobs if job.live.methods]
        if any(moved):
            team.hold()
            team.held.apply()
        last = step == run.stop
        for job in jobs:
            if job.live.average is not None and job.lost is None:
                _averaged(job, team.held)
        due = (
            bench.checkpoints is not None and not last and time.monotonic() - saved > bench.checkpoint_seconds
        )
        valid = bool(run.validate and (step % run.validate == 0 or last))
        follows = bool(run.follow and (step % run.follow == 0 or last))
        if len(losses) >= check_every or last or due:
            mean = _checked(losses, step, jobs)
            losses.clear()
            bench.progress.step(step - run.start, run.stop - run.start, loss=mean, lr=now)
            if all(job.lost for job in jobs):
                break
        for job in jobs if valid or follows else ():
            if job.lost is None:
                told = _validate(job.live, job.bench) if valid else {}
                told |= _followed(job.live, job.bench) if follows else {}
                job.live.curve.append({"step": step, "lr": now, **told})
        if due:
            spent()
            team.settle()
            for job in jobs:
                if job.bench.checkpoints is not None and job.lost is None:
                    checkpoints.write(job.live, job.bench.checkpoints)
            saved = time.monotonic()
    spent()
    team.settle()


def _averaged(job: Job, held: Held) -> None:
    """Takes the weights into the average, and puts it in their place at the end."""
    live, run, task = job.live, job.run, job.bench.task
    assert live.average is not None
    live.average.take(live.named(), live.step, run.total, run.per_epoch)
    if live.step == run.total:
        live.average.settle(
            live.named(),
            held,
            live.module,
            lambda: live.computing(False),
            job.bench.feed("train"),
            lambda part: live.lay(task.encode(part)),
        )


def _checked(losses: list[Tensor], done: int, jobs: Sequence[Job]) -> float:
    """The mean of the recent losses; a training of which one is not finite is lost from there on."""
    values = torch.stack(losses).float().view(len(losses), -1).t().tolist()
    run = jobs[0].run
    for job, own in zip(jobs, values, strict=True):
        for place, value in enumerate(own):
            if job.lost is None and not math.isfinite(value):
                step = done - len(own) + place
                job.lost = Diverged(
                    f"loss is {value} at iteration {step} of {run.total} with learning rate {rate(run, step):g}; "
                    "a lower lr or a longer warmup may help"
                )
    told = [value for job, own in zip(jobs, values, strict=True) if job.lost is None for value in own]
    return sum(told) / len(told) if told else math.nan


def _remask(job: Job) -> bool:
    """Whether a method wants new masks now; weights are then moved as it says."""
    live = job.live
    assert live.methods is not None

    def current() -> State:
        groups = live.methods.groups() if live.methods else {}
        return job.state.with_groups(weights=snapshot(live.module), masks=live.masks, **groups)

    found = live.methods.remask(live.step, current)
    if found is None:
        return False
    masks, weights = found
    live.masks = {**live.masks, **masks}
    named = dict(live.module.named_parameters())
    with torch.no_grad():
        for name, weight in (weights or {}).items():
            named[name].copy_(weight)
    return True


def _validate(live: Live, bench: Bench) -> dict[str, float]:
    """Mean loss and main metric (%) on the validation split; empty where none was held out.

    Of sequences the mean is over their tokens; a main metric that is no share of right examples isn't told.
    """
    if "validation" not in bench.dataset.splits:
        return {}
    loss, right = _on_split(live, bench, "validation")
    found = {"validation_loss": loss}
    return found if right is None else {**found, f"validation_{bench.task.metric}": right}


def _followed(live: Live, bench: Bench) -> dict[str, float]:
    """Mean loss on the training set as the training has it."""
    return {"train_loss": _on_split(live, bench, "train")[0]}


def _on_split(live: Live, bench: Bench, split: str) -> tuple[float, float | None]:
    """Mean loss, and the main metric in % where that is a share of right examples; in evaluation mode."""
    module = live.module
    module.eval()
    feed, task = bench.feed(split), bench.task
    of_all = getattr(task, "overall", None)
    losses, rights, sizes = [], [], []
    with torch.no_grad(), live.computing(False):
        for _, batch in walk(bench.task, feed, 256):
            outputs = forward(module, *live.lay(task.encode(batch)))
            losses.append(task.loss(outputs, batch.labels))
            if of_all is None:
                rights.append(task.right(task.answers(outputs), batch.labels).sum())
            sizes.append(int((batch.labels >= 0).sum()) if are_sequences(batch.labels) else len(batch))
    live.training()
    loss = 0.0
    for mean, size in zip(torch.stack(losses).tolist(), sizes, strict=True):
        loss += mean * size
    loss /= max(1, sum(sizes))
    loss = loss if math.isfinite(loss) else 1e30
    return loss, None if of_all is not None else 100 * int(torch.stack(rights).sum()) / len(feed)


def adopt(state: State, path: str) -> State:
    """The state with weights trained elsewhere; its training cost here is nothing, and a flag says so."""
    from compressbench.models.checkpoint import fitted, read_weights

    module = module_of(state)
    load(module, fitted(read_weights(path), module), f"checkpoint {path}")
    flags = [*state.facts.get("flags", []), "trained elsewhere: its training cost is not known"]
    weights = {n: w * state.masks[n] if n in state.masks else w for n, w in snapshot(module).items()}
    return state.settled().with_groups(weights=weights).with_facts(flags=flags, curve=[])
