"""Data: sources, fixed splits, index plans, streams and augmentation.

`plans`, `splits`, `streams` and `augment` need numpy and jax alone. `sources` imports TFDS inside
the functions that read a prepared data set, and `plans` imports Grain inside its shuffle;
`builders` imports TFDS when it is imported. Nothing here imports TensorFlow.
"""
