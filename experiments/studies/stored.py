"""Studies of teachers that are stored on disk instead of being asked in every step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments import study
from experiments.studies import _images as images
from kdjax import methods, networks
from kdjax.data import augment, signal_cache
from kdjax.networks import fingerprint
from kdjax.signals import top_k


def replayed_views(bench):
    """Views that a seed makes again, with the teacher's best classes of each from a cache on disk.

    All rows but `alone`, whose images are shifted anew in every step and never mixed, see these views.
    """
    options = bench.options
    data = images.prepare(bench, options.size)
    chosen = data.parts.train[: options.images]
    image, label = data.image[chosen], data.label[chosen]
    view = functools.partial(
        _seeded_view, jnp.asarray(image), shift=options.shift, mixed=options.mixed
    )
    teacher = networks.multilayer_perceptron(data.classes, widths=(options.teacher,))
    moved = augment.random_crop(options.shift)
    taught = images.teach(bench, teacher, data, augment=moved)
    own = taught.frozen["teacher"]

    @jax.jit
    def signal_of(examples, seeds):
        variables = {"params": own, "model": {}, "frozen": {}}
        said, _ = teacher.apply(variables, jax.vmap(view)(examples, seeds), train=False, rngs={})
        return top_k(said.logits, options.kept), None

    folder, everyone = bench.run.workdir / "signals", np.arange(len(chosen))
    binding = signal_cache.Binding(fingerprint(own), None, bench.source.fingerprint)
    signal_cache.write(
        folder, signal_of, everyone, signal_cache.TopKFormat(data.classes, options.kept),
        binding=binding, seeds=range(options.views), batch_size=250,
        shard_size=len(chosen) * options.views,  # a file has 128 KiB beside its records
    )  # fmt: skip
    stored, _ = signal_cache.SignalCache(folder, binding).read(
        everyone[:, None], np.arange(options.views)[None]
    )
    held = {key: getattr(stored, key) for key in ("log_probs", "classes", "log_tail")}

    def drawn(key, example, *, shifted=0):
        """One of the stored views; `shifted` takes what was stored of another one."""
        number = jax.random.randint(key, (), 0, options.views)
        said = (number + shifted) % options.views
        stored = {key: example[key][said] for key in held}
        return {**example, "image": view(example["index"], number), **stored}

    def row(method, augment=drawn):
        columns = {"image": image, "label": label, **held}
        stream = study.stream(columns, options.batch, augment=augment)
        return {"method": method, "data": {"labelled": stream}}

    rows = {
        "alone": row(methods.supervised(), moved),
        "live": row(methods.kd(temperature=1.0, weight=1.0)),
        "sparse": row(methods.stored_views()),
        "renormalised": row(methods.stored_views(renormalised=True)),
        "wrong": row(methods.stored_views(), functools.partial(drawn, shifted=1)),
    }
    student = networks.multilayer_perceptron(data.classes, widths=(options.student,))
    found = bench.compare(
        rows, {"student": student, "teacher": teacher}, data.shape, {}, frozen=taught.frozen,
        measure=data.accuracy,
    )  # fmt: skip
    size = sum(path.stat().st_size for path in folder.glob("shard-*"))
    per_view = size / (len(chosen) * options.views)
    found["sparse"] = {"accuracy": found["sparse"], "bytes_per_view": per_view}
    return {"teacher": taught.accuracy, **found}


def _seeded_view(image, example, seed, *, shift, mixed):
    """The view `[H, W, 1]` of an example that an augmentation seed makes, the same whenever asked for.

    Shifted by up to `shift` pixels, then mixed with another example: 1 - w of itself, w drawn from
    [0, `mixed`].

    Args:
        image: `[N, H, W, 1]`, all examples.
        example: its number; seed: the augmentation seed.
    """
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), example), seed)
    keys = jax.random.split(key, 4)
    other = jax.random.randint(keys[0], (), 0, len(image))
    share = mixed * jax.random.uniform(keys[1])
    move = augment.random_crop(shift)
    own, partner = (
        move(keys[2 + i], {"image": image[number]})["image"]
        for i, number in enumerate((example, other))
    )
    return (1 - share) * own + share * partner
