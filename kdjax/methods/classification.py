"""What methods over classifiers share: their two streams, the passes over them, the label term.

`batch["labelled"]` holds `image` and `label`; `batch["transfer"]` holds `image`. Without a transfer
stream the labelled images are transferred on as well, in one pass.
"""

import optax

from kdjax.train.method import term


def transfer_pass(scope, *, player="student", teacher="teacher"):
    """(student Outputs, teacher Outputs, updates) on one view of the transfer images."""
    images = scope.batch.get("transfer", scope.batch["labelled"])["image"]
    student, model = scope.apply(player, images)
    taught, _ = scope.apply(teacher, images)
    return student, taught, {"model": {player: model}}


def label_term(scope, *, weight=1.0, player="student"):
    """({"labels": cross-entropy on the labelled images}, updates)."""
    batch = scope.batch["labelled"]
    outputs, model = scope.apply(player, batch["image"])
    values = optax.softmax_cross_entropy_with_integer_labels(outputs.logits, batch["label"])
    return {"labels": term(values, weight=weight)}, {"model": {player: model}}
