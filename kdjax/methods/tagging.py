"""Networks that label every place of a sequence.

`batch["sequence"]` holds `inputs`, whatever the network reads, `labels` `[B, L]` and `mask` `[B, L]`, which
of them count.
"""

from kdjax.losses import token_negative_log_likelihood
from kdjax.networks import Network
from kdjax.train.method import Method, one_phase, term


def tagging(network: Network | None = None, *, inputs=None) -> Method:
    """-log q of the label of every place that counts, by the player `student`.

    Args:
        network: the student, where it is the method's own: one that reads frozen leaves.
        inputs: the shape of what it reads.
    """

    def objective(scope):
        rows = scope.batch["sequence"]
        outputs, model = scope.apply("student", rows["inputs"])
        where = rows["mask"]
        values = token_negative_log_likelihood(outputs.logits, rows["labels"], where=where)
        return {"labels": term(values, where=where)}, {"model": {"student": model}}

    players = {} if network is None else {"student": lambda shapes: (network, inputs)}
    return one_phase(objective, trains=("student",), players=players)
