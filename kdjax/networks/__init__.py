"""Networks: any model as two pure functions, models with named features, trained projectors."""

from kdjax.networks.adapters import (
    from_function,
    from_linen,
    from_nnx,
    merge,
)
from kdjax.networks.cifar_resnet import (
    resnet,
    resnet8,
    resnet8x4,
    resnet14,
    resnet20,
    resnet32,
    resnet32x4,
    resnet44,
    resnet56,
    resnet110,
)
from kdjax.networks.clip import clip_model
from kdjax.networks.cnn import small_cnn
from kdjax.networks.decoder import (
    decoder_transformer,
    llama3_1b,
    llama3_8b,
)
from kdjax.networks.encoder import (
    bert_base,
    distilbert_base,
    encoder_transformer,
)
from kdjax.networks.encoder_decoder import encoder_decoder_transformer
from kdjax.networks.experts import (
    cosine_heads,
    fused_experts,
)
from kdjax.networks.fingerprint import fingerprint
from kdjax.networks.imagenet_resnet import (
    imagenet_resnet,
    imagenet_resnet18,
    imagenet_resnet34,
    imagenet_resnet50,
    imagenet_resnet101,
    imagenet_resnet152,
)
from kdjax.networks.low_rank import (
    low_rank,
    merged,
)
from kdjax.networks.mlp import multilayer_perceptron
from kdjax.networks.modules import modular_decoder
from kdjax.networks.network import (
    Network,
    Outputs,
)
from kdjax.networks.pair_scorer import pair_scorer
from kdjax.networks.patch_segmenter import patch_segmenter
from kdjax.networks.path_ensemble import path_ensemble
from kdjax.networks.point_transformer import point_transformer
from kdjax.networks.points import field_decoder, point_encoder
from kdjax.networks.projectors import (
    convolution_projector,
    identity_projector,
    linear_player,
    linear_projector,
)
from kdjax.networks.prompted import ensemble, visual_prompt
from kdjax.networks.routed import routed_perceptron
from kdjax.networks.search_head import search_head
from kdjax.networks.side_by_side import side_by_side
from kdjax.networks.side_paths import side_paths
from kdjax.networks.sizes import (
    count_parameters,
    output_shapes,
    variable_shapes,
)
from kdjax.networks.speech import frame_labeller, frame_predictor
from kdjax.networks.taggers import Prefix, neighbour_tagger, state_tagger
from kdjax.networks.token_mixer import token_mixer
from kdjax.networks.unfolded_cnn import unfolded_cnn
from kdjax.networks.vit import (
    vision_transformer,
    vit_base16,
    vit_base32,
    vit_huge14,
    vit_large16,
    vit_small16,
    vit_small32,
    vit_tiny16,
)
from kdjax.networks.wide_resnet import (
    wrn,
    wrn_16_1,
    wrn_16_2,
    wrn_16_4,
    wrn_28_10,
    wrn_40_1,
    wrn_40_2,
    wrn_40_4,
)
