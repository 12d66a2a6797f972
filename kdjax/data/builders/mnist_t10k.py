"""The 10,000 test images of MNIST, 28 × 28, from the two raw idx files."""

import gzip
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from kdjax.data.builders import base


class MnistT10k(base.Builder):
    """One split, "train": all images of the files, to be split as the experiment needs."""

    VERSION = tfds.core.Version("1.0.0")
    name = "mnist_t10k"
    FILES = ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"Put MNIST's {FILES[0]} and {FILES[1]} into manual_dir."

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description="The 10,000 MNIST test images, for experiments that split them.",
            features=base.image_features((28, 28, 1), 10),
            supervised_keys=("image", "label"),
            citation="Y. LeCun, C. Cortes, C. Burges, The MNIST database of handwritten digits.",
        )

    def _split_generators(self, dl_manager):
        folder = Path(dl_manager.manual_dir)
        return {"train": self._generate_examples(*(folder / name for name in self.FILES))}

    def _generate_examples(self, images_file, labels_file):
        images, labels = read_idx(images_file), read_idx(labels_file)
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise ValueError(
                f"{images_file} holds {images.shape} and {labels_file} holds {labels.shape}: "
                "wanted [N, H, W] images and [N] labels"
            )
        yield from base.image_examples(images, labels)


def read_idx(path):
    """The array in a gzipped idx file of unsigned bytes.

    The format: two zero bytes, the type (8), the number of axes, each axis as a big-endian uint32,
    then the values.
    """
    with gzip.open(path, "rb") as file:
        content = file.read()
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path} is not an idx file of unsigned bytes: starts {content[:4]!r}")
    header = 4 + 4 * content[3]
    shape = tuple(int(n) for n in np.frombuffer(content[4:header], ">u4"))
    if len(content) - header != np.prod(shape):
        raise ValueError(f"{path} is cut short: {len(content) - header} bytes for shape {shape}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
