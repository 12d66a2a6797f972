"""Five tasks in one repetition, with or without replay: run as a program, it can be killed.

python continual.py FOLDER CHUNKS      dies by SIGKILL after that many chunks, 0 for never
"""

import functools
import os
import signal
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import small

from kdjax.data.plans import IndexPlan
from kdjax.data.streams import Stream
from kdjax.networks.fingerprint import fingerprint
from kdjax.train import (
    Method,
    Phase,
    Pool,
    Stage,
    init_state,
    make_mesh,
    repeat,
    run_stages,
    term,
    train_stage,
)
from kdjax.train.checkpoints import Checkpoints

TASKS, ROWS, STEPS, CHUNK = 5, 32, 12, 6
MESH = make_mesh("data=1", jax.devices()[:1])
NETWORKS = {"student": small.dense(8, 24, 2 * TASKS)}
OPTIMISERS = {"student": optax.adam(0.03)}
CENTRES = 2.0 * np.random.default_rng(0).normal(size=(2 * TASKS, 8))


def task(number):
    """Two classes of the ten, as blobs."""
    rng = np.random.default_rng(number)
    label = 2 * number + rng.integers(0, 2, ROWS)
    image = CENTRES[label] + 0.3 * rng.normal(size=(ROWS, 8))
    return {"image": image.astype(np.float32), "label": label.astype(np.int32)}


def classification(scope, name):
    batch = scope.batch[name]
    y, _ = scope.apply("student", batch["image"])
    values = optax.softmax_cross_entropy_with_integer_labels(y.logits, batch["label"])
    return term(values, where=batch.get("where"))


def plain(scope):
    return {"new": classification(scope, "new")}, {}


def replayed(scope):
    """Learns from what earlier steps kept, and keeps two examples of this one."""
    rows = {name: scope.batch["new"][name][:2] for name in ("image", "label")}
    terms = {name: classification(scope, name) for name in ("new", "old")}
    return terms, {"memory": {"old": Pool.add(scope.memory["old"], rows)}}


def accuracies(params):
    def accuracy(columns):
        variables = {"params": params, "frozen": {}, "model": {}}
        y, _ = NETWORKS["student"].apply(variables, columns["image"], train=False, rngs={})
        return np.mean(np.argmax(y.logits, -1) == columns["label"])

    return np.array([accuracy(task(number)) for number in range(TASKS)], np.float32)


def sequence(objective):
    """One stage, five times over; what is handed on tells the task, the pool and the matrix."""
    with_replay = objective is replayed

    start = {"task": 0, "matrix": np.zeros((TASKS, TASKS), np.float32)}

    def streams(previous):
        number = 0 if previous is None else int(previous["task"])
        made = {"new": Stream(IndexPlan(np.arange(ROWS), 16), task(number))}
        if with_replay:
            made["old"] = Pool(IndexPlan(np.arange(128), 16), memory="old")
        return made

    def init(previous):
        example = {name: column[0] for name, column in task(0).items()}
        memory = {"old": Pool.empty(128, example)} if with_replay else {}
        state = init_state(jax.random.key(0), NETWORKS, small.INPUTS, OPTIMISERS, memory=memory)
        if previous is None:
            return state, {"past": start}
        learned = jax.tree.map(jnp.asarray, {name: previous[name] for name in ("params", "memory")})
        return state.replace(**learned), {"past": {name: previous[name] for name in start}}

    def finish(state, frozen):
        number, matrix = int(frozen["past"]["task"]), np.array(frozen["past"]["matrix"])
        matrix[number] = accuracies(state.params["student"])
        made = {"params": state.params, "memory": state.memory}
        return {"task": number + 1, "matrix": matrix, **made}

    stage = Stage(
        "task", Method({}, (Phase(objective, ("student",)),)), NETWORKS, OPTIMISERS,
        streams, STEPS, init, finish,
    )  # fmt: skip
    return [repeat(TASKS, [stage])]


def main(folder, chunks):
    left = [int(chunks)]

    def on_metrics(step, values):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    run = functools.partial(
        train_stage, seeds=0, mesh=MESH, chunk_length=CHUNK, save_every=CHUNK, on_metrics=on_metrics
    )
    result = run_stages(
        sequence(replayed), run, slots=lambda name: Checkpoints(Path(folder) / name)
    )
    print(fingerprint(result["params"]), fingerprint(result["memory"]))


if __name__ == "__main__":
    main(*sys.argv[1:])
