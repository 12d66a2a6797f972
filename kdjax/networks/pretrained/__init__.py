"""Public weights in and out: folders in the Hugging Face layout, read and written without torch."""

from kdjax.networks.pretrained.adapter import (
    Adapter,
    load_adapter,
    save_adapter,
)
from kdjax.networks.pretrained.architecture import (
    Architecture,
    LayoutError,
    Rule,
)
from kdjax.networks.pretrained.card import model_card
from kdjax.networks.pretrained.configuration import decoder_config
from kdjax.networks.pretrained.folder import (
    Pretrained,
    load_pretrained,
    open_pretrained,
    save_pretrained,
)
from kdjax.networks.pretrained.program import (
    load_program,
    save_program,
)
