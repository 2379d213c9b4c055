"""The one training loop. What differs between methods goes in as a value.

All randomness is a function of (seed, order, epoch) or (seed, order, iteration), so that a training stopped after
any iteration and continued, by a checkpoint or by another stage, is the same training bit by bit.
"""

from __future__ import annotations

import contextlib
import fnmatch
import inspect
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from compressbench.bench import Bench
from compressbench.data.examples import Examples
from compressbench.data.examples import order as draw_order
from compressbench.errors import Diverged, UserError, nearest
from compressbench.inputs import Inputs
from compressbench.masks import masked
from compressbench.models.build import load, module_of, snapshot
from compressbench.models.counting import count, in_training_alone
from compressbench.models.early import forgotten
from compressbench.models.where import reason_of, watched
from compressbench.outputs import Outputs, forward, tapped
from compressbench.pruning.unstructured import saying_what_stays
from compressbench.seeds import derive_seed
from compressbench.specs import TARGET
from compressbench.specs.length import steps
from compressbench.state import State
from compressbench.store import Damaged, discard_checkpoint, read_checkpoint, save_checkpoint
from compressbench.training import reparametrise, schedules
from compressbench.training.averaging import Average
from compressbench.training.objectives import Batch, Objective
from compressbench.training.reparametrise import Reparametrised
from compressbench.training.steppers import Stepper

if TYPE_CHECKING:
    from compressbench.stages.train import Train

CHECK_EVERY = 25
OBJECTIVE = "objective"
AVERAGE = "average"


@dataclass(frozen=True)
class Run:
    """A training in iterations, everything built; see ``stages.train.Train`` for the settings."""

    start: int
    stop: int
    total: int
    per_epoch: int
    batch_size: int
    lr: float
    clip: float | None
    schedule: Callable[[float], float]
    warmup: int
    order: str
    varies: bool
    autocast: bool
    validate: int


@dataclass
class Live:
    """What changes while a training runs."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    step: int
    masks: dict[str, Tensor] = field(default_factory=dict)
    methods: Reparametrised | None = None
    own: dict[str, nn.Parameter] = field(default_factory=dict)
    average: Average | None = None
    frozen: list[nn.Module] = field(default_factory=list)
    curve: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    lay: Callable[[Inputs], Inputs] = tuple

    def training(self) -> None:
        """Training mode, but for what is frozen: its norms keep their statistics."""
        self.module.train()
        for part in self.frozen:
            part.training = False

    def named(self) -> dict[str, nn.Parameter]:
        """All that may be trained, by name: the module's parameters, its reparametrisations' and the objective's."""
        return dict(self.module.named_parameters()) | self.beside()

    def beside(self) -> dict[str, nn.Parameter]:
        """What is trained beside the module's parameters."""
        return self.own | (self.methods.own() if self.methods else {})

    def remembered(self) -> list[Tensor]:
        """What a forward in training moves: statistics of norms, ranges that a method observes."""
        found = [*self.module.buffers(), *(self.methods.kept().values() if self.methods else ())]
        return [tensor for tensor in found if not isinstance(tensor, nn.Parameter)]

    def computing(self, training: bool) -> contextlib.AbstractContextManager[None]:
        """Inside, the module computes with effective weights."""
        return self.methods.in_place(training) if self.methods else contextlib.nullcontext()


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
    optimizer = _optimizer(settings, module, run.lr, methods, own)
    live = Live(
        module, optimizer, run.start, dict(state.masks), methods, own, frozen=frozen, lay=placed.inputs
    )
    averager = settings.averager[TARGET] if settings.averager else None
    left = state.group(AVERAGE) if run.start else {}
    if left and facts.get("averager") != averager:
        raise _another(facts.get("averager"), averager or "no averager")
    if settings.averager is not None:
        live.average = Average.begun(settings.built("averager"), left)
    if run.start and state.group("optimizer"):
        if facts.get("optimizer") != settings.optimizer[TARGET]:
            raise _another(facts.get("optimizer"), settings.optimizer[TARGET])
        left = state.group(OBJECTIVE)
        if any(name not in own or own[name].shape != tensor.shape for name, tensor in left.items()):
            raise UserError(
                f"start: the state before was left by an objective with {', '.join(left)}, which this stage's doesn't "
                "train; use the same, or a rewind/learning_rate stage in between"
            )
        with torch.no_grad():
            for name, tensor in left.items():
                own[name].copy_(tensor)
        _restore_optimizer(optimizer, live.named(), state.group("optimizer"))
    _resume(live, bench)
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
        optimizer=_optimizer_tensors(optimizer, live.named()) if short else {},
        data={},
        **{
            OBJECTIVE: _copies(own) if short else {},
            AVERAGE: live.average.tensors() if short and live.average else {},
        },
    )
    if methods and result.masks:
        result = saying_what_stays(masked(result, result.masks), bench)
    return forgotten(result).with_facts(
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


def _another(before: str | None, now: str) -> UserError:
    return UserError(
        f"start: the state before was left by {before}, this stage goes on with {now}; "
        "use the same, or a rewind/learning_rate stage in between"
    )


def _on_data(settings: Train, bench: Bench) -> Bench:
    """The bench whose training set is the one that the settings name."""
    if settings.data is None:
        return bench
    tensors = bench.references[settings.data].group("data")
    if not tensors:
        raise UserError(
            f"data: {settings.data} carries no data set; a stage such as data/few or data/munge makes one"
        )
    return replace(bench, feeds={**bench.feeds, "train": Examples.made(tensors, bench.device)})


def _begun(objective: Any, module: nn.Module) -> dict[str, nn.Parameter]:
    """The objective's own parameters, by names that no module's parameter has."""
    begin = getattr(objective, "begin", None)
    return {f"{OBJECTIVE}.{name}": p for name, p in begin(module).items()} if begin else {}


def _beside(objective: Any, run: Run, examples: int) -> int:
    """Multiply-accumulates of what the objective itself computed: a teacher's forwards."""
    count = getattr(objective, "macs", None)
    return count(examples, not run.varies) if count else 0


def _copies(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n: t.detach().to("cpu", copy=True).contiguous() for n, t in named.items()}


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
            _checkpoint(live, bench.checkpoints)
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


def _optimizer(
    settings: Train,
    module: nn.Module,
    lr: float,
    methods: Reparametrised | None,
    own: Mapping[str, nn.Parameter],
) -> torch.optim.Optimizer:
    """Weight decay goes to weights of two or more dimensions only, unless ``decay`` says ``all``."""
    params = [p for p in (*module.parameters(), *own.values()) if p.requires_grad]
    decayed = [p for p in params if p.ndim > 1 or settings.decay == "all"]
    plain = [p for p in params if p.ndim <= 1 and settings.decay != "all"]
    groups: list[dict[str, Any]] = [
        {"params": group, "weight_decay": decay}
        for group, decay in ((decayed, settings.weight_decay), (plain, 0.0))
        if group
    ]
    groups += methods.optimised(settings.weight_decay, lr) if methods else []
    factory = settings.built("optimizer")
    known = inspect.signature(getattr(factory, "func", factory)).parameters
    for key in getattr(factory, "keywords", {}):
        if key not in known and all(p.kind is not p.VAR_KEYWORD for p in known.values()):
            raise UserError(
                f"optimizer {settings.optimizer[TARGET]}: unknown key {key!r}; {nearest(key, known)}"
            )
    try:
        takes = inspect.signature(factory).parameters
        fused = {"fused": True} if "fused" in takes and all(p.is_floating_point() for p in params) else {}
        made: torch.optim.Optimizer = factory(groups, lr=lr, **fused)
    except (TypeError, ValueError) as error:
        raise UserError(f"optimizer {settings.optimizer[TARGET]}: {error}") from error
    if fused and type(made) is torch.optim.SGD:
        made.register_step_pre_hook(_late_comers)
    return made


def _late_comers(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Momentum for parameters that get their first gradient after others did, as fused SGD wants it (torch 2.15).

    Its first step has momentum = gradient; m b + (1 - d) g is that for b = d g / m.
    """
    for group in optimizer.param_groups:
        state = [(p, optimizer.state[p]) for p in group["params"] if p.grad is not None]
        missing = [(p, s) for p, s in state if s.get("momentum_buffer") is None]
        if group["momentum"] and missing and len(missing) < len(state):
            for p, own in missing:
                own["momentum_buffer"] = p.grad * (group["dampening"] / group["momentum"])


def _optimizer_tensors(
    optimizer: torch.optim.Optimizer, named: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """Optimiser state by ``parameter|entry``."""
    out = {}
    for name, param in named.items():
        for entry, value in optimizer.state.get(param, {}).items():
            if value is not None:
                out[f"{name}|{entry}"] = torch.as_tensor(value).detach().to("cpu", copy=True).contiguous()
    return out


def _restore_optimizer(
    optimizer: torch.optim.Optimizer, named: Mapping[str, nn.Parameter], saved: Mapping[str, Tensor]
) -> None:
    for full, value in saved.items():
        name, _, entry = full.rpartition("|")
        param = named[name]
        if not param.requires_grad:
            continue
        like = torch.empty_like(param).copy_(value) if value.shape == param.shape else value.clone()
        optimizer.state[param][entry] = like


def _checkpoint(live: Live, folder: Path) -> None:
    """One file, written aside and renamed: weights, optimiser state, position, curve."""
    tensors = {f"weights/{k}": v for k, v in snapshot(live.module).items()}
    tensors |= {f"optimizer/{k}": v for k, v in _optimizer_tensors(live.optimizer, live.named()).items()}
    own = {**live.beside(), **(live.methods.kept() if live.methods else {})}
    tensors |= {f"own/{k}": v for k, v in _copies(own).items()}
    if live.methods:
        tensors |= {f"masks/{k}": v.contiguous() for k, v in live.masks.items()}
    if live.average:
        tensors |= {f"{AVERAGE}/{k}": v for k, v in live.average.tensors().items()}
    save_checkpoint(folder, tensors, {"step": live.step, "curve": live.curve, "seconds": live.seconds})


def _resume(live: Live, bench: Bench) -> None:
    """Continues from this stage's own checkpoint, if there is a whole one."""
    if bench.checkpoints is None:
        return
    try:
        found = read_checkpoint(bench.checkpoints)
    except Damaged as error:
        bench.say(f"{bench.name}: the checkpoint is damaged, this stage begins anew ({error})")
        discard_checkpoint(bench.checkpoints)
        return
    if found is None:
        return
    tensors, header = found
    groups: dict[str, dict[str, Tensor]] = {
        "weights": {},
        "optimizer": {},
        "own": {},
        "masks": {},
        AVERAGE: {},
    }
    for full, tensor in tensors.items():
        group, _, name = full.partition("/")
        groups[group][name] = tensor
    load(live.module, groups["weights"], "the checkpoint")
    own = {**live.beside(), **(live.methods.kept() if live.methods else {})}
    with torch.no_grad():
        for name, tensor in groups["own"].items():
            own[name].copy_(tensor)
    if live.methods:
        live.masks = groups["masks"]
    if live.average:
        live.average = live.average.begun(live.average.share, groups[AVERAGE])
    _restore_optimizer(live.optimizer, live.named(), groups["optimizer"])
    live.step, live.curve, live.seconds = header["step"], header["curve"], header["seconds"]


def adopt(state: State, path: str) -> State:
    """The state with weights trained elsewhere; its training cost here is nothing, and a flag says so."""
    from compressbench.models.checkpoint import fitted, read_weights

    module = module_of(state)
    load(module, fitted(read_weights(path), module), f"checkpoint {path}")
    flags = [*state.facts.get("flags", []), "trained elsewhere: its training cost is not known"]
    weights = {n: w * state.masks[n] if n in state.masks else w for n, w in snapshot(module).items()}
    return state.settled().with_groups(weights=weights).with_facts(flags=flags, curve=[])
