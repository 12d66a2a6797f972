"""Which architecture a `config.json` describes: the families of all files, by `model_type`."""

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from kdjax.networks.pretrained import clip, decoder, encoder, encoder_decoder, resnet, vit
from kdjax.networks.pretrained.architecture import Architecture, LayoutError, wanted

FAMILIES: dict[str, Callable[[Mapping[str, Any]], Architecture]] = {
    **decoder.FAMILIES,
    **encoder.FAMILIES,
    **vit.FAMILIES,
    **clip.FAMILIES,
    **resnet.FAMILIES,
    **encoder_decoder.FAMILIES,
}


def architecture(config: Mapping[str, Any]) -> Architecture:
    """The architecture of a configuration.

    Raises:
        LayoutError: no model type, one that is not here (the nearest is named), a setting that the
            network does not have.
    """
    name = wanted(config, "model_type")
    if name not in FAMILIES:
        near = difflib.get_close_matches(str(name), FAMILIES, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise LayoutError(f"model_type is {name!r}, there are {sorted(FAMILIES)}{hint}")
    return FAMILIES[name](config)
