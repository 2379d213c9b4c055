"""Init: a model drawn anew, or from given weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from compressbench import specs
from compressbench.errors import UserError, nearest

if TYPE_CHECKING:
    from compressbench.bench import Bench
    from compressbench.state import State

FROM_FOLDER = "compressbench.models.hf.folder"
MODEL_KEYS = ("name", "build", "weights", "remove_parametrizations")
LAYERS_ALONE = tuple(
    f"compressbench.models.{m}" for m in ("cheap", "conv", "lenet", "msdnet", "resnet", "vgg")
)


@dataclass(frozen=True)
class Init:
    """Builds the model and draws its weights from (seed, stage name).

    Attributes:
        model: ``name``, ``build`` (a spec; ``@classes``, ``@shape`` … are filled from the data set) and ``weights``
            (null, or a .safetensors / weights-only .pt file with the initial weights). With ``remove_parametrizations``
            what weight norms, spectral norms and the like compute are plain weights from here on, to be pruned and
            quantized like any other; trainings no longer keep what they kept.
    """

    model: Mapping[str, Any]
    BEGINS: ClassVar[bool] = True
    DRAWS: ClassVar[bool] = True
    VERSION: ClassVar[int] = (
        # 2: the sizes of the net as drawn; 3: weights that no layer owns, MACs of more layers
        4  # 4: trainings from here count heads of the training alone
    )

    def __post_init__(self) -> None:
        if not isinstance(self.model, Mapping):
            raise UserError(
                f"model: {self.model!r} is no mapping with build; choose another model's YAML by "
                "model@recipe.stages.NAME.model=…"
            )
        for key in self.model:
            if key not in MODEL_KEYS:
                raise UserError(f"model: unknown key {key!r}; {nearest(str(key), MODEL_KEYS)}")
        if not isinstance(self.model.get("remove_parametrizations", False), bool):
            raise UserError("model.remove_parametrizations: true or false is wanted")
        if not specs.is_spec(self.model.get("build")):
            raise UserError("model.build: a spec with _target_ is wanted")

    @property
    def version(self) -> int:
        """Of the key: 2 for nets of convolutions and linear layers alone, of which the later ones say the same."""
        module = str(self.model["build"][specs.TARGET]).rpartition(".")[0]
        return 2 if module in LAYERS_ALONE else self.VERSION

    @property
    def folder(self) -> str | None:
        """Where a model of somebody else's lies, if it is one."""
        build = self.model["build"]
        return str(build.get("folder")) if build[specs.TARGET] == FROM_FOLDER else None

    def files(self) -> tuple[str, ...]:
        """Files whose content is part of the key."""
        weights, folder = self.model.get("weights"), self.folder
        found = [str(weights)] if weights else []
        if folder:
            from compressbench.models.hub import files_of

            found += [str(path) for path in files_of(folder)]
        return tuple(found)

    def in_key(self, spec: Mapping[str, Any]) -> Mapping[str, Any]:
        """The stage's spec as its key has it: of a model's folder the content counts, and not where it lies."""
        if self.folder is None:
            return spec
        build = {k: v for k, v in self.model["build"].items() if k != "folder"}
        return {**spec, "model": {**self.model, "build": build}}

    def describe(self) -> str:
        """The stage in words."""
        source = f"weights of {self.model['weights']}" if self.model.get("weights") else "fresh weights"
        if self.folder is not None and not self.model.get("weights"):
            source = f"the weights in {self.folder}"
        return f"build {self.model.get('name', 'the model')} with {source}"

    def apply(self, state: State | None, bench: Bench) -> State:
        """The new state; what came before is left behind."""
        from compressbench.models.draw import drawn

        return drawn(self.model, bench)
