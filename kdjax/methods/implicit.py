"""Self-supervised methods over sets of points: an encoder is kept, its decoder dropped."""

import jax

from kdjax.losses import implicit_field_distance
from kdjax.methods.hidden_points import chamfer_distance
from kdjax.networks.mlp import multilayer_perceptron
from kdjax.networks.points import field_decoder
from kdjax.train.method import Method, one_phase, term


def implicit_autoencoder(*, hidden: int = 64) -> Method:
    """A code decodes to the distance field of the shape: |f(x | code) - d(x)|, mean over queries.

    The student encodes `points` `[B, N, 2]` of the batch `labelled`; `queries` `[B, Q, 2]` and
    `distances` `[B, Q]` are the field of the whole shape, so that the target does not depend on
    which points were sampled.

    Yan, Yang, Li, Song, Guan, Kang, Hua, Huang, "Implicit Autoencoder for Point-Cloud Self-Supervised
    Representation Learning", 2023, with signed or unsigned distances or occupancy.
    """

    def decoder(shapes):
        code = shapes["student"].features["code"]
        queries = jax.ShapeDtypeStruct((code.shape[0], 1, 2), code.dtype)
        return field_decoder(widths=(hidden, hidden)), {"queries": queries, "code": code}

    def objective(scope):
        batch = scope.batch["labelled"]
        student, model = scope.apply("student", batch["points"])
        inputs = {"queries": batch["queries"], "code": student.features["code"]}
        field = scope.apply("decoder", inputs)[0].features["field"]
        values = implicit_field_distance(field, batch["distances"])
        return {"field": term(values)}, {"model": {"student": model}}

    return one_phase(objective, {"decoder": decoder})


def chamfer_autoencoder(*, points: int, hidden: int = 64) -> Method:
    """A code decodes to as many points: their Chamfer distance to the `points` `[B, N, 2]` encoded.

    The opponent of `implicit_autoencoder`: Achlioptas, Diamanti, Mitliagkas, Guibas, "Learning
    Representations and Generative Models for 3D Point Clouds", 2018.
    """

    def decoder(shapes):
        code = shapes["student"].features["code"]
        return multilayer_perceptron(2 * points, widths=(hidden, hidden)), code

    def objective(scope):
        batch = scope.batch["labelled"]
        student, model = scope.apply("student", batch["points"])
        made = scope.apply("decoder", student.features["code"])[0].logits
        values = chamfer_distance(made.reshape(len(made), points, 2), batch["points"])
        return {"chamfer": term(values)}, {"model": {"student": model}}

    return one_phase(objective, {"decoder": decoder})
