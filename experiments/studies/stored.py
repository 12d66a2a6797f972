"""Studies of teachers that are stored on disk instead of being asked in every step."""

import dataclasses
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
    settings = {"batch": options.batch, "rate": options.rate}
    chosen = data.parts.train[: options.images]
    image, label = data.image[chosen], data.label[chosen]
    view = functools.partial(
        _seeded_view, jnp.asarray(image), shift=options.shift, mixed=options.mixed
    )
    teacher = networks.multilayer_perceptron(data.classes, widths=(options.teacher,))
    moved = augment.random_crop(options.shift)
    taught = images.teach(
        bench, teacher, data, augment=moved, steps=options.teacher_steps, **settings
    )
    own = taught.frozen["teacher"]
    everyone = np.arange(len(chosen))

    @jax.jit
    def spoken(examples, seeds):
        views = jax.vmap(view)(examples, seeds)
        variables = {"params": own, "model": {}, "frozen": {}}
        return top_k(teacher.apply(variables, views, train=False, rngs={})[0].logits, options.kept)

    folder = bench.run.workdir / "signals"
    binding = signal_cache.Binding(fingerprint(own), None, bench.source.fingerprint)
    signal_cache.write(
        folder,
        lambda examples, seeds: (jax.tree.map(np.asarray, spoken(examples, seeds)), None),
        everyone,
        signal_cache.TopKFormat(data.classes, options.kept),
        binding=binding,
        seeds=range(options.views),
        batch_size=250,
        shard_size=len(chosen) * options.views,  # a file has 128 KiB beside its records
    )
    size = sum(path.stat().st_size for path in folder.glob("shard-*"))
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

    student = networks.multilayer_perceptron(data.classes, widths=(options.student,))
    rows = {
        "alone": (methods.supervised(), lambda key, example: {
            **example, "image": moved(key, example)["image"]
        }),
        "live": (methods.kd(temperature=1.0, weight=1.0), drawn),
        "sparse": (methods.stored_views(), drawn),
        "renormalised": (methods.stored_views(renormalised=True), drawn),
        "wrong": (methods.stored_views(), functools.partial(drawn, shifted=1)),
    }  # fmt: skip
    found = {"teacher": {"accuracy": taught.accuracy}}
    columns = study.stream({"image": image, "label": label, **held}, options.batch)
    for name, (method, way) in rows.items():
        state = bench.fit(
            name, method, {"student": student, "teacher": teacher}, data.shape,
            {"labelled": dataclasses.replace(columns, augment=way)}, frozen=taught.frozen,
            score=data.scored(student, "validation"), steps=options.steps, **settings,
        )  # fmt: skip
        found[name] = {"accuracy": data.scored(student)(state, None)}
    views = len(chosen) * options.views
    found["sparse"]["bytes_per_view"] = [size / views] * len(bench.seeds)
    return found


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
