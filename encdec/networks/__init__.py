"""Encoders, decoders, features and velocities, independent of the paradigms that use them."""

from encdec.networks.base import Decoder, DecoderCallable, Encoder, EncoderCallable
from encdec.networks.conv import ConvDecoder, ConvEncoder
from encdec.networks.features import Features, FeaturesCallable, Pixels, RandomConvolutions
from encdec.networks.mlp import MLPDecoder, MLPEncoder
from encdec.networks.residual import ResidualDecoder, ResidualEncoder
from encdec.networks.velocity import MLPVelocity, UNet, Velocity, VelocityCallable

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
    "MLPVelocity",
    "Pixels",
    "RandomConvolutions",
    "ResidualDecoder",
    "ResidualEncoder",
    "UNet",
    "Velocity",
    "VelocityCallable",
]
