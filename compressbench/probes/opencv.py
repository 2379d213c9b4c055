"""OpenCV: whether a published cascade, read as data, decides as OpenCV's own detector does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from compressbench.errors import UserError
from compressbench.records import Metric
from compressbench.specs import Count, check_fields

if TYPE_CHECKING:
    import numpy as np

    from compressbench.bench import Bench
    from compressbench.views import View


@dataclass(frozen=True)
class OpenCV:
    """Agreement with ``cv2.CascadeClassifier`` on test windows: all that the state takes for a face, and others evenly.

    Attributes:
        file: the cascade, as ``stages.boost.Published`` takes it; other states have no figure.
        windows: how many at most beside those that the state takes for a face.
    """

    file: str = "haarcascade_frontalface_default.xml"
    windows: Count = 4000
    VERSION: ClassVar[int] = 2

    def __post_init__(self) -> None:
        check_fields(self)

    def files(self) -> tuple[str, ...]:
        """Files whose content is part of the key: none where it comes with OpenCV and that isn't installed.

        Raises:
            UserError: there is no such file.
        """
        from compressbench.boosting.shipped import found, lacking

        return () if lacking(self.file) else (str(found(self.file)),)

    def measure(self, subject: View, reference: View, bench: Bench) -> Iterable[Metric]:
        """Of the subject, where it is the cascade of the file."""
        import numpy as np

        from compressbench.boosting.shipped import found
        from compressbench.files import digest_of

        path = found(self.file) if subject.state.facts.get("published") else None
        if path is None or subject.state.facts["published"] != digest_of([path]):
            yield Metric("opencv_agreement", None, "%", note=f"the state is not {Path(self.file).name}")
            return
        module: Any = subject.module
        if tuple(module.shape[1:]) != tuple(module.size):
            size = f"{module.size[1]} x {module.size[0]}"
            yield Metric("opencv_agreement", None, "%", note=f"the windows are scaled to {size} here")
            return
        said = subject.answers.numpy() == module.face
        some = np.linspace(0, len(said) - 1, min(self.windows, len(said))).round().astype(np.int64)
        rows = np.union1d(np.flatnonzero(said), some)
        pixels = bench.feed("test").columns["images"].cpu().numpy()[rows, 0]
        theirs = decisions(str(path), pixels)
        same = theirs == said[rows]
        note = f"OpenCV takes {int(theirs.sum())} of {len(rows)} windows for a face, here {int(said[rows].sum())} are"
        yield Metric("opencv_agreement", 100 * float(same.mean()), "%", n=len(rows), note=note)


def decisions(path: str, pixels: np.ndarray) -> np.ndarray:
    """Bool (n,), what OpenCV takes for a face of windows uint8 (n, h, w) of the cascade's own size.

    OpenCV looks at a picture's windows but for the last row and column of places, so that each gets one pixel more.

    Raises:
        UserError: OpenCV isn't installed, or doesn't read the file.
    """
    import numpy as np

    try:
        import cv2
    except ImportError as error:
        raise UserError(f"OpenCV isn't installed ({error}): pip install 'compressbench[lecture]'") from error
    detector = cv2.CascadeClassifier(path)
    if detector.empty():
        raise UserError(f"{path}: OpenCV doesn't read it")
    size = (pixels.shape[2], pixels.shape[1])
    padded = np.pad(pixels, ((0, 0), (0, 1), (0, 1)))
    hits = [len(detector.detectMultiScale(one, 1.1, 0, 0, size, size)) > 0 for one in padded]
    return np.array(hits, bool)
