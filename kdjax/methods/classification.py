"""What methods over classifiers share: their two streams, the passes over them, the label term.

`batch["labelled"]` holds `image` and `label`; `batch["transfer"]` holds `image`. Without a transfer
stream the labelled images are transferred on as well, in one pass. Beside the images a stream may hold
the outputs of a frozen teacher on them, `NAME/logits` and `NAME/FEATURE`: nothing is computed then.
"""

import optax

from kdjax.networks.network import Outputs
from kdjax.train.method import term


def transfer_batch(scope):
    """The batch that is transferred on: the transfer stream's, or else the labelled one."""
    return scope.batch.get("transfer", scope.batch["labelled"])


def teacher_outputs(scope, batch, teacher="teacher"):
    """The Outputs of a teacher on a batch's images: those that it brings along, or a pass."""
    prefix = f"{teacher}/"
    held = {key.removeprefix(prefix): x for key, x in batch.items() if key.startswith(prefix)}
    if held:
        return Outputs(held.pop("logits"), held)
    return scope.apply(teacher, batch["image"])[0]


def transfer_pass(scope, *, player="student", teacher="teacher"):
    """(student Outputs, teacher Outputs, updates) on one view of the transfer images."""
    batch = transfer_batch(scope)
    student, model = scope.apply(player, batch["image"])
    return student, teacher_outputs(scope, batch, teacher), {"model": {player: model}}


def label_term(scope, *, weight=1.0, player="student", name="labels"):
    """({name: cross-entropy on the labelled images}, updates)."""
    batch = scope.batch["labelled"]
    outputs, model = scope.apply(player, batch["image"])
    values = optax.softmax_cross_entropy_with_integer_labels(outputs.logits, batch["label"])
    return {name: term(values, weight=weight)}, {"model": {player: model}}
