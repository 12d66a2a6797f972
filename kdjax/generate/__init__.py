"""Text from networks: sampling, incremental decoding with a cache, speculative decoding."""

from kdjax.generate.cache import (
    extend,
    init_cache,
)
from kdjax.generate.decode import (
    Generated,
    Mixture,
    generate,
)
from kdjax.generate.prompts import left_padded
from kdjax.generate.sampling import (
    mixed,
    most_probable,
    nucleus,
    sampling_log_probs,
    tempered,
)
from kdjax.generate.speculative import (
    Speculated,
    adjusted_log_probs,
    next_token_probs,
    speculate,
    verified,
)
