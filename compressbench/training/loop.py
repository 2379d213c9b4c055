"""The one training loop. What differs between methods goes in as a value.

All randomness is a function of (seed, order, epoch) or (seed, order, iteration), so that a training stopped after
any iteration and continued, by a checkpoint or by another stage, is the same training bit by bit.
"""

from __future__ import annotations

import contextlib
import fnmatch
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from compressbench.bench import Bench
from compressbench.data.examples import Examples
from compressbench.data.examples import order as draw_order
from compressbench.errors import Diverged, UserError, nearest
from compressbench.inputs import Inputs
from compressbench.masks import masked
from compressbench.models.build import copies, load, module_of, snapshot
from compressbench.models.counting import count, in_training_alone
from compressbench.models.exit_policies import without_policy
from compressbench.models.where import reason_of, watched
from compressbench.outputs import Outputs, forward, tapped
from compressbench.pruning.unstructured import saying_what_stays
from compressbench.seeds import derive_seed
from compressbench.specs import TARGET
from compressbench.specs.length import steps
from compressbench.state import State
from compressbench.training import checkpoints, optimising, reparametrise, schedules
from compressbench.training.averaging import Average
from compressbench.training.live import AVERAGE, OBJECTIVE, Live, Run
from compressbench.training.objectives import Batch, Objective
from compressbench.training.steppers import Stepper

if TYPE_CHECKING:
    from compressbench.stages.train import Train

CHECK_EVERY = 25


def train(state: State, bench: Bench, settings: Train) -> State:
    """Trains a state by a ``stages.train.Train``'s settings; masks hold throughout.

    Raises:
        Diverged: the loss is not finite; names iteration and learning rate.
        UserError: lengths that don't fit each other, or a batch larger than the training set.
    """
    bench = _on_data(settings, bench)
    run = _run(settings, bench)
    facts = state.facts
    module = module_of(state, bench.device)
    placed = bench.task.placed(module)
    module = placed.module
    frozen = _freeze(module, settings.only) if settings.only else []
    methods = reparametrise.built(module, bench, state, run, settings.methods())
    objective = settings.built("objective")(bench)
    own = _begun(objective, module)
    optimizer = optimising.made(settings, module, run.lr, methods, own)
    live = Live(
        module, optimizer, run.start, dict(state.masks), methods, own, frozen=frozen, lay=placed.inputs
    )
    averager = settings.averager[TARGET] if settings.averager else None
    left = state.group(AVERAGE) if run.start else {}
    if left and facts.get("averager") != averager:
        raise checkpoints.another(facts.get("averager"), averager or "no averager")
    if settings.averager is not None:
        live.average = Average.begun(settings.built("averager"), left)
    if run.start and state.group("optimizer"):
        checkpoints.take_up(live, state, settings.optimizer[TARGET])
    checkpoints.resume(live, bench)
    stepper = _stepper(settings, module, optimizer)
    devices = [torch.device(bench.device)] if bench.device.startswith("cuda") else []
    taps = getattr(objective, "taps", ())
    with torch.random.fork_rng(devices=devices), tapped(module, taps) as compute:
        _loop(live, run, bench, compute, objective, stepper, state)
    module.eval()
    state = _baked(live, state) if methods else state
    weights = snapshot(module)
    examples = (run.stop - run.start) * run.batch_size
    short = run.stop < run.total
    result = state.with_groups(
        weights=weights,
        optimizer=optimising.tensors(optimizer, live.named()) if short else {},
        data={},
        **{
            OBJECTIVE: copies(own) if short else {},
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
        + _beside(objective, run, examples),
        seconds=facts.get("seconds", 0.0) + live.seconds,
        curve=[*_before(facts, run.start), *live.curve],
        dtype="bf16" if run.autocast else "fp32",
        optimizer=settings.optimizer[TARGET],
        averager=averager,
        predicted_loss_increase=None,
    )


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


def _stepper(settings: Train, module: nn.Module, optimizer: torch.optim.Optimizer) -> Stepper:
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
    )


def rate(run: Run, step: int) -> float:
    """The learning rate of one iteration."""
    return run.lr * run.schedule(step / max(1, run.total)) * schedules.warmup(step, run.warmup)


def _loop(
    live: Live,
    run: Run,
    bench: Bench,
    compute: Callable[..., Outputs],
    objective: Objective,
    stepper: Stepper,
    state: State,
) -> None:
    feed, task, module, optimizer = bench.feed("train"), bench.task, live.module, live.optimizer
    masks = _masks(module, live.masks)
    context: Any = (
        torch.autocast(bench.device.partition(":")[0], torch.bfloat16)
        if run.autocast
        else contextlib.nullcontext()
    )
    live.training()
    began = saved = time.monotonic()
    before = live.seconds
    losses: list[Tensor] = []
    rows: Tensor | None = None
    epoch = -1
    asks_again = getattr(stepper, "passes", 1) > 1
    if live.methods and live.step == run.start:
        masks = _remask(live, state, masks)
    while live.step < run.stop:
        step = live.step
        if step // run.per_epoch != epoch:
            epoch = step // run.per_epoch
            rows = draw_order(len(feed), derive_seed(bench.seed, run.order, epoch)).to(bench.device)
        assert rows is not None
        at = (step % run.per_epoch) * run.batch_size
        picked = rows[at : at + run.batch_size]
        examples = feed.take(picked)
        seed = derive_seed(bench.seed, run.order, "step", step)
        draw = torch.Generator().manual_seed(seed) if run.varies else None
        inputs = live.lay(task.encode(examples, draw))
        now = rate(run, step)
        for group in optimizer.param_groups:
            group["lr"] = now * group.get("share", 1.0)

        batch = _Iteration(
            live, run, compute, objective, context, inputs, examples.labels, picked, seed, masks,
            [t.detach().clone() for t in live.remembered()] if asks_again else None,
        )  # fmt: skip
        losses.append(stepper(batch))
        if masks[0]:
            with torch.no_grad():
                torch._foreach_mul_(masks[0], masks[1])
        live.step = step + 1
        if live.methods:
            live.methods.after_step()
            masks = _remask(live, state, masks)
        last = live.step == run.stop
        if live.average is not None:
            live.average.take(live.named(), live.step, run.total, run.per_epoch)
            if live.step == run.total:
                live.average.settle(
                    live.named(),
                    masks,
                    live.module,
                    lambda: live.computing(False),
                    feed,
                    lambda part: live.lay(task.encode(part)),
                )
        due = (
            bench.checkpoints is not None and not last and time.monotonic() - saved > bench.checkpoint_seconds
        )
        if len(losses) == CHECK_EVERY or last or due:
            mean = _checked(losses, step, run)
            losses.clear()
            bench.progress.step(live.step - run.start, run.stop - run.start, loss=mean, lr=now)
        if run.validate and (live.step % run.validate == 0 or last):
            live.curve.append({"step": live.step, "lr": now, **_validate(live, bench)})
        if due and bench.checkpoints is not None:
            live.seconds = before + time.monotonic() - began
            checkpoints.write(live, bench.checkpoints)
            saved = time.monotonic()
    live.seconds = before + time.monotonic() - began


@dataclass
class _Iteration:
    """The gradient of one iteration, as often as a stepper asks for it; see ``steppers.Gradient``."""

    live: Live
    run: Run
    compute: Callable[..., Outputs]
    objective: Objective
    context: Any
    inputs: Inputs
    labels: Any
    rows: Tensor
    seed: int
    masked: tuple[list[Tensor], list[Tensor]]
    before: list[Tensor] | None

    def __call__(self) -> Tensor:
        """Fills the gradients; returns the loss."""
        live, clip = self.live, self.run.clip
        torch.default_generator.manual_seed(self.seed)
        if self.inputs[0].is_cuda:
            torch.cuda.manual_seed(self.seed)
        live.optimizer.zero_grad(set_to_none=True)
        with self.context, live.computing(True):
            batch = Batch(self._outputs(), self.inputs, self.labels, self.rows, not self.run.varies)
            loss = self.objective(batch)
        if live.methods and (penalty := live.methods.penalties(live.step)) is not None:
            loss = loss + penalty
        try:
            loss.backward()
        except (RuntimeError, NotImplementedError) as error:
            raise UserError(f"no gradient could be taken: {reason_of(error)}") from error
        if live.methods:
            live.methods.after_gradient()
        if clip is not None:
            nn.utils.clip_grad_norm_([p for g in live.optimizer.param_groups for p in g["params"]], clip)
        return loss.detach()

    def _outputs(self) -> Outputs:
        try:
            return self.compute(*self.inputs)
        except (UserError, MemoryError):
            raise
        except Exception as error:  # a user's forward may fail in any way at all
            raise UserError(_why_not(self.live.module, self.inputs, error)) from error

    def again(self) -> Tensor:
        """The same, from what was remembered before the first time; afterwards that is what the first time left.

        Raises:
            UserError: the stepper didn't say that it asks more than once.
        """
        if self.before is None:
            raise UserError(
                "stepper: one that asks for the gradient again needs an attribute passes, 2 or more"
            )
        remembered = self.live.remembered()
        after = [tensor.detach().clone() for tensor in remembered]
        _put_back(remembered, self.before)
        loss = self()
        _put_back(remembered, after)
        return loss


def _why_not(module: nn.Module, inputs: Inputs, error: Exception) -> str:
    """Which layer failed on a training batch, why, and what to do."""
    place = ""
    with watched(module) as where:
        try:
            module(*inputs)
        except Exception:  # as the first time
            place = where()
    count = len(inputs[0])
    single = count == 1 and "more than 1 value" in str(error)
    way = "set batch_size to 2 or more" if single else "in evaluation mode, with 2 examples, it worked"
    return f"the forward of a training batch of {count} fails: {place}{reason_of(error)}; {way}"


def _put_back(tensors: list[Tensor], values: list[Tensor]) -> None:
    with torch.no_grad():
        for tensor, value in zip(tensors, values, strict=True):
            tensor.copy_(value)


def _checked(losses: list[Tensor], last: int, run: Run) -> float:
    """The mean of the recent losses; stops at the first that is not finite."""
    values = torch.stack(losses).float().tolist()
    for place, value in enumerate(values):
        if not math.isfinite(value):
            step = last - len(values) + 1 + place
            raise Diverged(
                f"loss is {value} at iteration {step} of {run.total} with learning rate {rate(run, step):g}; "
                "a lower lr or a longer warmup may help"
            )
    return sum(values) / len(values)


def _remask(
    live: Live, state: State, held: tuple[list[Tensor], list[Tensor]]
) -> tuple[list[Tensor], list[Tensor]]:
    """New masks where a method wants some now: weights moved and zeroed, and what the loop multiplies by."""
    assert live.methods is not None

    def current() -> State:
        groups = live.methods.groups() if live.methods else {}
        return state.with_groups(weights=snapshot(live.module), masks=live.masks, **groups)

    found = live.methods.remask(live.step, current)
    if found is None:
        return held
    masks, weights = found
    live.masks = {**live.masks, **masks}
    named = dict(live.module.named_parameters())
    held = _masks(live.module, live.masks)
    with torch.no_grad():
        for name, weight in (weights or {}).items():
            named[name].copy_(weight)
        torch._foreach_mul_(held[0], held[1])
    return held


def _validate(live: Live, bench: Bench) -> dict[str, float]:
    """Mean loss and main metric (%) on the validation split; empty where none was held out."""
    if "validation" not in bench.dataset.splits:
        return {}
    module = live.module
    module.eval()
    feed, task = bench.feed("validation"), bench.task
    loss = right = 0.0
    with torch.no_grad(), live.computing(False):
        for batch in feed.batches(256):
            outputs = forward(module, *live.lay(task.encode(batch)))
            loss += float(task.loss(outputs, batch.labels)) * len(batch)
            right += float(task.right(task.answers(outputs), batch.labels).sum())
    live.training()
    mean = loss / len(feed)
    return {
        "validation_loss": mean if math.isfinite(mean) else 1e30,
        f"validation_{task.metric}": 100 * right / len(feed),
    }


def _masks(module: nn.Module, masks: Mapping[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Parameters with a mask and their masks as multipliers, memory laid out alike."""
    named = dict(module.named_parameters())
    unknown = set(masks) - set(named)
    if unknown:
        raise UserError(f"masks for {', '.join(sorted(unknown))}, which the model does not have")
    params: list[Tensor] = [named[n] for n in masks]
    return params, [torch.empty_like(p).copy_(m) for p, m in zip(params, masks.values(), strict=True)]


def adopt(state: State, path: str) -> State:
    """The state with weights trained elsewhere; its training cost here is nothing, and a flag says so."""
    from compressbench.models.checkpoint import fitted, read_weights

    module = module_of(state)
    load(module, fitted(read_weights(path), module), f"checkpoint {path}")
    flags = [*state.facts.get("flags", []), "trained elsewhere: its training cost is not known"]
    weights = {n: w * state.masks[n] if n in state.masks else w for n, w in snapshot(module).items()}
    return state.settled().with_groups(weights=weights).with_facts(flags=flags, curve=[])
