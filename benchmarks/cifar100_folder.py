"""A subset of CIFAR-100, packed as strips, unpacked into a folder of pictures with its fine classes as an attribute.

    python benchmarks/cifar100_folder.py PACKED FOLDER

``PACKED`` holds ``train.zip`` and ``test.zip`` (each picture in them is 32 pixels wide, many of 32 x 32 stacked) and
``meta.json.xz`` (``fine_names``, ``coarse_names``, ``coarse_of_fine``, and of each part ``fine_labels``). ``FOLDER``
becomes ``train/COARSE/*.png``, ``test/COARSE/*.png`` and ``attributes.csv`` (path, fine), as
``dataset=image_folder`` reads it.
"""

from __future__ import annotations

import csv
import io
import json
import lzma
import sys
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 32


def pictures(strips: Path) -> np.ndarray:
    """uint8 (n, 32, 32, 3), in the order of the strips' names."""
    with zipfile.ZipFile(strips) as archive:
        found = [
            np.asarray(Image.open(io.BytesIO(archive.read(n)), formats=("WEBP", "PNG")))
            for n in sorted(archive.namelist())
        ]
    return np.concatenate(found).reshape(-1, SIDE, SIDE, 3)


def main(packed: Path, folder: Path) -> None:
    """Writes the folder, which must not be there yet."""
    with lzma.open(packed / "meta.json.xz") as file:
        meta = json.load(file)
    rows = []
    folder.mkdir(parents=True)
    for part in ("train", "test"):
        fine = meta[part]["fine_labels"]
        images = pictures(packed / f"{part}.zip")
        if len(images) != len(fine):
            raise SystemExit(f"{part}: {len(images)} pictures and {len(fine)} labels")
        for k, (image, label) in enumerate(zip(images, fine, strict=True)):
            name = f"{part}/{meta['coarse_names'][meta['coarse_of_fine'][label]]}/{k:05}.png"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / name)
            rows.append((name, meta["fine_names"][label]))
    with (folder / "attributes.csv").open("w", newline="", encoding="utf-8") as table:
        csv.writer(table).writerows([("path", "fine"), *rows])
    print(f"{len(rows):,} pictures in {folder}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
