"""What the builders share: preparing once, and yielding images that need no TensorFlow."""

import contextlib
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import tensorflow_datasets as tfds


class Builder(tfds.core.GeneratorBasedBuilder):
    """A builder of our own: give `VERSION`, `name`, `_info` and the two generators.

    `FILES` names the raw files that it reads from `manual_dir`, if any; then
    `MANUAL_DOWNLOAD_INSTRUCTIONS` says where to get them.
    """

    FILES: tuple[str, ...] = ()


def prepare(builder_class, data_dir, *, manual_dir=None) -> Path:
    """Writes a data set as ArrayRecord under `data_dir`, unless it is there; gives its folder.

    It is written to a folder of its own beside the target and renamed when complete: of two
    processes the first to finish wins, and what a killed one left is never read.

    Args:
        builder_class: a `tfds.core.GeneratorBasedBuilder`.
        data_dir: the TFDS data directory; made if missing.
        manual_dir: the folder of raw files, for builders that read some.
    """
    data_dir = Path(data_dir)
    folder = data_dir / builder_class.name / str(builder_class.VERSION)
    if folder.exists():
        return folder
    data_dir.mkdir(parents=True, exist_ok=True)
    # A leading dot keeps it apart from the data sets that TFDS and people see in the folder.
    unfinished = Path(tempfile.mkdtemp(prefix=f".{builder_class.name}-", dir=data_dir))
    try:
        # mkdtemp makes the folder private; what is renamed is inside and has the usual mode.
        builder = builder_class(data_dir=unfinished, file_format="array_record")
        config = tfds.download.DownloadConfig(manual_dir=manual_dir, try_download_gcs=False)
        if not sys.stderr.isatty():
            tfds.disable_progress_bar()
        # TFDS announces on stdout the folder that is about to be renamed.
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(download_config=config)
        folder.parent.mkdir(exist_ok=True)
        try:
            os.rename(builder.data_path, folder)
        except OSError:
            if not folder.exists():
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def image_features(shape, num_classes):
    """The features of an image classification set: `image` uint8 `[H, W, C]` and `label`."""
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=shape),
            "label": tfds.features.ClassLabel(num_classes=num_classes),
        }
    )


def image_examples(images, labels) -> Iterator[tuple[int, dict]]:
    """`(key, example)` for greyscale uint8 `[N, H, W]` or colour `[N, H, W, 3]` images."""
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        # A PIL image, since TFDS encodes an array through TensorFlow.
        yield i, {"image": PIL.Image.fromarray(np.asarray(image)), "label": int(label)}
