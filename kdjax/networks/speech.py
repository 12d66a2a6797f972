"""Networks over frames: `[B, T, F]` -> logits of every frame, and states that predict later frames.

Reference:
    Lu, Chen, "A Context-Aware Knowledge Transferring Strategy for CTC-Based ASR", 2022, for the labeller,
    a reconstruction; Chung, Hsu, Tang, Glass, "An Unsupervised Autoregressive Model for Speech
    Representation Learning", 2019, for the predictor.
"""

import jax.numpy as jnp
from flax import linen as nn

from kdjax.networks import _transformer, adapters
from kdjax.networks.network import Network, Outputs


class FrameLabeller(nn.Module):
    """Two layers over frames and a head for each; with `feedback` the second reads the first's guesses.

    Frames `[B, T, F]` -> logits `[B, T, classes]`, the second head's. Features: `first` `[B, T, classes]`,
    the first head's; with `queries` N > 0, one for each place of a transcript, `tokens` `[B, N, classes]`
    and `states` `[B, N, state_width]`, what they gather from the frames.

    In training a share `hidden_guesses` of the guesses is not fed back (the stream `dropout`).
    """

    classes: int
    width: int
    heads: int = 4
    feedback: bool = False
    hidden_guesses: float = 0.2
    queries: int = 0
    state_width: int = 1

    couples = False

    @nn.compact
    def __call__(self, frames, *, train):
        length = frames.shape[1]
        places = self.param("places", nn.initializers.normal(0.02), (length, self.width))
        x = nn.Dense(self.width, name="frames")(frames) + places[None]
        x = self._layer("layer1", x, x)
        first = nn.Dense(self.classes, name="head1")(x)
        if self.feedback:
            guesses = nn.softmax(first)
            shape = (*guesses.shape[:2], 1)
            kept = nn.Dropout(self.hidden_guesses, deterministic=not train)(jnp.ones(shape))
            # Whole frames are hidden; those that are seen stay what they are.
            guesses = guesses * (kept > 0)
            x = nn.LayerNorm(name="fed_norm")(x + nn.Dense(self.width, name="fed")(guesses))
        x = self._layer("layer2", x, x)
        features = {"first": first}
        if self.queries:
            shape = (self.queries, self.width)
            asked = self.param("queries", nn.initializers.normal(0.5), shape)
            asked = jnp.broadcast_to(asked[None], (len(x), *shape))
            gathered = self._layer("gather", asked, x)
            features["tokens"] = nn.Dense(self.classes, name="token_head")(gathered)
            features["states"] = nn.Dense(self.state_width, name="state_head")(gathered)
        return Outputs(nn.Dense(self.classes, name="head2")(x), features)

    def _layer(self, name, x, memory):
        norm = nn.LayerNorm(name=f"{name}_norm")
        attention = _transformer.Attention(
            self.heads, self.width // self.heads, self.width, name=f"{name}_attention"
        )
        memory = norm(memory)
        y, _ = attention(norm(x), memory, memory)
        x = x + y
        y = nn.LayerNorm(name=f"{name}_dense_norm")(x)
        y = nn.gelu(nn.Dense(2 * self.width, name=f"{name}_up")(y))
        return x + nn.Dense(self.width, name=f"{name}_down")(y)


def frame_labeller(classes: int, **options) -> Network:
    """A `FrameLabeller`; `options` are its fields, `width` first."""
    features = ("first", "tokens", "states") if options.get("queries") else ("first",)
    return adapters.from_linen(FrameLabeller(classes, **options), features=features)


class FramePredictor(nn.Module):
    """A recurrent network that says later frames: `[B, T, F]` -> feature `predicted` `[B, T, F]`.

    Feature `states` `[B, T, width]`, what it knows after each frame.
    """

    width: int

    @nn.compact
    def __call__(self, frames):
        states = nn.RNN(nn.GRUCell(self.width), name="recurrent")(frames)
        predicted = nn.Dense(frames.shape[-1], name="head")(states)
        return Outputs(None, {"states": states, "predicted": predicted})


def frame_predictor(*, width: int) -> Network:
    """A `FramePredictor`, of one layer."""
    return adapters.from_linen(FramePredictor(width), features=("states", "predicted"))
