"""Encoders and decoders, independent of the paradigms that use them."""

from encdec.networks.base import Decoder, DecoderCallable, Encoder, EncoderCallable
from encdec.networks.conv import ConvDecoder, ConvEncoder
from encdec.networks.features import Features, FeaturesCallable, Pixels, RandomConvolutions
from encdec.networks.mlp import MLPDecoder, MLPEncoder
from encdec.networks.residual import ResidualDecoder, ResidualEncoder

__all__ = [
    "ConvDecoder",
    "ConvEncoder",
    "Decoder",
    "DecoderCallable",
    "Encoder",
    "EncoderCallable",
    "Features",
    "FeaturesCallable",
    "MLPDecoder",
    "MLPEncoder",
    "Pixels",
    "RandomConvolutions",
    "ResidualDecoder",
    "ResidualEncoder",
]
