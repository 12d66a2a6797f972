"""The loader's share of training: the host's work for a chunk of steps beside the chunk itself.

The host reads the index plan (and, for a host-read stream, the images) and copies the result to the
device: `ratio` is the time of that over the time of the chunk. Nothing overlaps here; in a run the
device is busy with one chunk while the host prepares the next.
"""

import numpy as np

from configs import digits
from experiments import distill, train_teacher
from kdjax.data import augment, plans, streams
from kdjax.train import build_train_step, place, scanned
from tools.bench import _pairs, _timing

ROUNDS = 15


def digits_resident(config=None):
    """The demo's KD row: five seeds in one program, images on the device."""
    return _digits(config or digits.get_config(), lambda stream: stream)


def digits_read(config=None):
    """The same with images that stay on the host."""

    def on_host(stream):
        columns = {name: np.asarray(column) for name, column in stream.resident.items()}
        return streams.Stream(
            stream.plan, read=streams.host_reader(columns), augment=stream.augment
        )

    return _digits(config or digits.get_config(), on_host)


def images_read():
    """uint8 images of 32x32, read on the host and cropped, for a ResNet-8 with a ResNet-14 teacher."""
    pair, rng = _pairs.resnets(8, 14, 64), np.random.default_rng(0)
    columns = {
        "image": rng.integers(0, 256, (2048, *pair.image), np.uint8),
        "label": rng.integers(0, pair.classes, 2048).astype(np.int32),
    }
    view = augment.compose(
        augment.random_crop(4), augment.random_flip(), augment.normalise(0.5, 0.25)
    )
    plan = plans.IndexPlan(np.arange(2048), pair.batch)
    read = streams.host_reader(columns)
    supply = {"labelled": streams.Stream(plan, read=read, augment=view)}
    return pair.build, supply, pair.state(), pair.frozen(), 0, 2


CASES = {
    "digits_resident": digits_resident,
    "digits_host_read": digits_read,
    "resnet8_host_read": images_read,
}


def rows(only=""):
    """One row a case whose name contains `only`."""
    return [{"name": name, **measure(*make())} for name, make in CASES.items() if only in name]


def measure(builder, supply, state, frozen, seeds, steps, rounds=ROUNDS):
    replicas = None if isinstance(seeds, int) else ("seed", len(seeds))
    mesh = _pairs.one_device()
    chunk = place(scanned(builder, supply), mesh, replicas=replicas, batch_axis=1)
    resident = {name: dict(stream.resident) for name, stream in supply.items()}
    shared = _pairs.on_one_device({"frozen": frozen, "resident": resident})
    begun = iter(range(0, 10**9, steps))

    def load():
        start = next(begun)
        xs = {name: stream.xs(seeds, start, steps) for name, stream in supply.items()}
        return _pairs.on_one_device(xs)

    runs = {"load": load, "chunk": _timing.Carried(chunk, state, shared, load())}
    seconds = _timing.interleaved(runs, rounds)
    return {**_timing.compared(seconds["load"], seconds["chunk"]), "steps": steps}


def _digits(config, change):
    data = train_teacher.build_data(config)
    nets = distill.build_networks(config, data)
    ((stage, seeds),) = distill.build_stages(config, data, nets)["kd"]
    supply = {name: change(stream) for name, stream in stage.streams.items()}
    made = nets["teacher"].init(_key(), data.inputs)
    state, frozen = stage.init({"teacher": made["params"], "teacher/model": made["model"]})

    def builder(axis):
        return build_train_step(stage.networks, stage.method.phases, stage.optimisers, axis=axis)

    state, frozen = _pairs.on_one_device(state), _pairs.on_one_device(frozen)
    return builder, supply, state, frozen, seeds, config.place.log_every


def _key():
    import jax

    return jax.random.key(9)
