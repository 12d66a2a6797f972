"""The 1,797 handwritten digits inside scikit-learn, 8 × 8: real images and no download."""

import numpy as np
import sklearn.datasets
import tensorflow_datasets as tfds

from kdjax.data.builders import base


class Digits(base.Builder):
    """One split, "train"; the 17 grey levels are spread over 0 to 255."""

    VERSION = tfds.core.Version("1.0.0")
    name = "digits"

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description="Optical recognition of handwritten digits, as scikit-learn ships them.",
            features=base.image_features((8, 8, 1), 10),
            supervised_keys=("image", "label"),
            citation="E. Alpaydin, C. Kaynak, UCI Machine Learning Repository, 1998.",
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        digits = sklearn.datasets.load_digits()
        images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
        yield from base.image_examples(images, digits.target)
