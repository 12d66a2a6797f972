"""TFDS builders of data sets that TFDS does not ship, prepared without TensorFlow.

`load_tfds` prepares those of `BUILDERS` on first use. A further one is a class here, and its line.
"""

from kdjax.data.builders.digits import Digits
from kdjax.data.builders.mnist_t10k import MnistT10k

BUILDERS = {"digits": Digits, "mnist_t10k": MnistT10k}
