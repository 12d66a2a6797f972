"""Teacher signals, dense and sparse, and divergences over vocabularies that do not fit in memory."""

from kdjax.signals.chunked import chunked_divergence, chunked_loss
from kdjax.signals.signal import (
    Dense,
    HiddenHead,
    Sampled,
    TopK,
    logits_of,
    sample,
    signal_divergence,
    top_k,
)
