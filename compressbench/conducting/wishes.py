"""What a user wishes of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from compressbench.artefacts.artefact import Given
from compressbench.artefacts.preparation import Preparation
from compressbench.comparing.answers import MARGIN
from compressbench.errors import UserError


@dataclass(frozen=True)
class Wishes:
    """Beside the artefacts.

    Attributes:
        data: as ``material.read`` takes it; None where files of predictions hold their own labels.
        labelled: whether labels are wanted.
        attributes: a CSV file of sub-groups beside a folder of pictures; None: none.
        limit: examples at most, stratified; None: all.
        classes: maps the data's classes to outputs, see ``material.mapped``; None: they are alike.
        given: of the artefacts: output, kind of answers, model of a checkpoint, trust.
        preparation: of pictures; None: as each artefact knows it, else the data set's own.
        auto: take the preparation that the doctor finds.
        floor: another artefact that nobody compressed, such as the reference of another seed.
        margin: points of accuracy that may be lost.
        quick: only what outputs tell, and what files hold and cost.
        threads, batch: of runtimes.
        seed: of all that is drawn.
        keep: a folder in which answers are kept.
        config_dir: of the user's own configs.
    """

    data: str | Path | Sequence[str] | None = None
    labelled: bool = True
    attributes: str | Path | None = None
    limit: int | None = None
    classes: str | None = None
    given: Given = field(default_factory=Given)
    preparation: Preparation | None = None
    auto: bool = False
    floor: str | None = None
    margin: float = MARGIN
    quick: bool = False
    threads: int = 1
    batch: int = 64
    seed: int = 0
    keep: Path | None = None
    config_dir: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.margin <= 100:
            raise UserError(f"--margin {self.margin:g}: points of accuracy, 0 to 100")
        for name in ("threads", "batch"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)}: 1 is the least")
