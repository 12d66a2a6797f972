"""A process that prepares a small data set slowly: `slow_builder.py DATA_DIR STARTED_FILE`."""

import pathlib
import sys
import time

import tensorflow_datasets as tfds

from kdjax.data.builders import base


class Slow(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    name = "slow"

    def _info(self):
        features = tfds.features.FeaturesDict({"label": tfds.features.ClassLabel(num_classes=3)})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(30):
            pathlib.Path(sys.argv[2]).touch()
            time.sleep(0.03)
            yield i, {"label": i % 3}


if __name__ == "__main__":
    base.prepare(Slow, sys.argv[1])
