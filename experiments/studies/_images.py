"""What studies of images share: the source's splits, streams of them, and accuracies on them."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import study
from kdjax import methods, networks
from kdjax.data import plans, splits, streams


class Images(NamedTuple):
    """Normalised images `[N, H, W, 1]`, their labels `[N]`, and the parts that they are split into."""

    image: np.ndarray
    label: np.ndarray
    parts: splits.Splits

    @property
    def classes(self) -> int:
        return int(self.label.max()) + 1

    @property
    def shape(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((1, *self.image.shape[1:]), jnp.float32)

    def only(self, there) -> "Images":
        """The same with those examples of every part where `there` `[N]` is True."""
        parts = {part: getattr(self.parts, part) for part in ("train", "validation", "test")}
        own = {part: numbers[there[numbers]] for part, numbers in parts.items()}
        return self._replace(parts=dataclasses.replace(self.parts, **own))

    def stream(self, batch, labelled=0, augment=None, **columns) -> streams.Stream:
        """Batches of the training part, or of as many balanced examples of it, drawn by the seed.

        `columns` `[N, ...]` stand beside `image` and `label`.
        """
        few = (lambda seed: self.parts.labelled(labelled, seed)) if labelled else self.parts.train
        held = {"image": self.image, "label": self.label, **columns}
        return streams.Stream(plans.IndexPlan(few, batch), held, augment=augment)

    def right(self, logits_of, part="test") -> np.ndarray:
        """The share of a part that `logits_of(images) [S, N, C]` gets right, by seed."""
        numbers = getattr(self.parts, part)
        return study.right(logits_of(self.image[numbers]), self.label[numbers])

    def accuracy(self, trained: study.Trained, part="test") -> np.ndarray:
        """The accuracy of a trained student, by seed: a `measure` for `Bench.compare`."""
        return self.right(trained.logits, part)


def prepare(bench, size: int = 0, data=None, *, centre: int = 0) -> Images:
    """The images of a study's source, split as its `run.data` is elsewhere: 60 %, 15 %, 25 %.

    Args:
        bench: its source has `image` `[N, H, W, 1]` of bytes and `label`.
        size: the images are padded and averaged over squares to this height; 0 leaves them.
        data: another source instead of the bench's.
        centre: only the middle of larger images, of so many pixels, is scaled to `size`.
    """
    source = data or bench.source
    image = source.columns["image"].astype(np.float32) / 255.0
    cut = (image.shape[1] - centre) // 2
    if centre and cut > 0:
        middle = image[:, cut : cut + centre, cut : cut + centre]
        image = np.asarray(jax.image.resize(middle, (len(image), size, size, 1), "linear"))
    if size and image.shape[1] != size:
        image = averaged(image, size)
    parts = splits.split(source, validation=0.15, test=0.25)
    mean, std = image[parts.train].mean(), image[parts.train].std()
    return Images((image - mean) / std, source.columns["label"], parts)


class Teacher(NamedTuple):
    """A teacher that all seeds share: as `frozen`, what it gives as columns, its accuracy `[1]`, itself."""

    frozen: dict
    columns: dict
    accuracy: np.ndarray
    trained: study.Trained

    def logits(self, image):
        """What it says of any images `[N, H, W, 1]`: `[N, C]`."""
        return self.trained.logits(image)[0]


def teach(
    bench,
    network,
    data: Images,
    on: Images | None = None,
    *,
    row="teacher",
    features=(),
    augment=None,
    **settings,
) -> Teacher:
    """One network, trained on all labels of `data`, for all seeds.

    Args:
        network: gives `features`.
        on: whose images the columns `teacher/logits` and `teacher/FEATURE` and the accuracy are of, if
            not those of `data`.
        row: its row.
        augment: of its training images.
        settings: of `Bench.fit`.
    """
    on = on or data
    batch = bench.option(row, "batch", settings.get("batch"))
    trained = bench.fit(
        row, methods.supervised(), {"student": network}, data.shape,
        {"labelled": data.stream(batch, augment=augment)}, seeds=[0], **settings,
    )  # fmt: skip
    held = trained.outputs(on.image)
    given = {"logits": held.logits, **{name: held.features[name] for name in features}}
    frozen = {"teacher": trained.frozen}
    if model := trained.state.model["student"]:
        frozen["teacher/model"] = study.first(model)
    columns = {f"teacher/{name}": np.asarray(x[0]) for name, x in given.items()}
    return Teacher(frozen, columns, on.accuracy(trained), trained)


def with_own_heads(bench, data: Images, features, labelled: int, **settings):
    """What another network can say of classes it has not seen: by a linear head on its features.

    Every seed learns a head from its own labelled images.

    Args:
        features: `[N, D]` of the frozen network, for all images.
        labelled: how many images a seed has.
        settings: of `Bench.fit`.

    Returns:
        The stream of the labelled images, each seed's with `teacher/logits` of its own, and the heads'
        accuracies on the test part by seed.
    """
    head = networks.multilayer_perceptron(data.classes, widths=())
    own = data._replace(image=features[:, None, :, None])
    batch = bench.option("teacher/head", "batch", settings.get("batch"))
    heads = bench.fit(
        "teacher/head", methods.supervised(), {"student": head}, own.shape,
        {"labelled": own.stream(batch, labelled)}, **settings,
    )  # fmt: skip
    shared = study.repeated({"image": data.image, "label": data.label}, heads.seeds)
    columns = {**shared, "teacher/logits": np.asarray(heads.logits(own.image))}
    few = functools.partial(data.parts.labelled, labelled)
    return study.stream_of_seeds(columns, batch, few), own.accuracy(heads)


def averaged(image, size: int) -> np.ndarray:
    """Images `[N, H, W, C]` as `[N, size, size, C]`: zeros around them, then means over squares."""
    block = -(-image.shape[1] // size)
    margin = size * block - image.shape[1]
    before = margin // 2
    around = (before, margin - before)
    padded = np.pad(image, ((0, 0), around, around, (0, 0)))
    return padded.reshape(len(image), size, block, size, block, -1).mean((2, 4))


def gaussians(rng, data: Images, count: int, components: int) -> tuple[np.ndarray, np.ndarray]:
    """(images, labels): `count` draws from a Gaussian per class, equally many of each, class by class.

    A class's Gaussian lies over the first principal components of its training images.
    """
    train, size = data.parts.train, count // data.classes
    low, high = data.image.min(), data.image.max()
    made = []
    for each in range(data.classes):
        rows = data.image[train[data.label[train] == each]].reshape(-1, data.image[0].size)
        mean = rows.mean(axis=0)
        _, scale, axes = np.linalg.svd(rows - mean, full_matrices=False)
        scale = scale[:components] / np.sqrt(len(rows))
        noise = rng.normal(size=(size, len(scale)))
        made.append(np.clip(mean + (noise * scale) @ axes[:components], low, high))
    label = np.repeat(np.arange(data.classes, dtype=np.int32), size)
    return np.concatenate(made).reshape(-1, *data.image.shape[1:]).astype(np.float32), label
