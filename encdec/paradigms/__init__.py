"""Ways to train a generative model, one file each."""

from encdec.paradigms.ae import AE
from encdec.paradigms.averages import moving_average
from encdec.paradigms.base import Paradigm
from encdec.paradigms.codes import LatentTable, Permutation, StoredLatents
from encdec.paradigms.conditional_decoder import ConditionalDecoder
from encdec.paradigms.encoderless_vae import EncoderlessVAE
from encdec.paradigms.flows import Flow
from encdec.paradigms.latent import LatentVariable
from encdec.paradigms.protocols import Encodes, HasCodes, Infers, encodes, has_codes, infers
from encdec.paradigms.sets import SetGenerator
from encdec.paradigms.vae import VAE
from encdec.paradigms.warm_up import kl_weight
from encdec.training.step import Player

__all__ = [
    "AE",
    "VAE",
    "ConditionalDecoder",
    "EncoderlessVAE",
    "Encodes",
    "Flow",
    "HasCodes",
    "Infers",
    "LatentTable",
    "LatentVariable",
    "Paradigm",
    "Permutation",
    "Player",
    "SetGenerator",
    "StoredLatents",
    "encodes",
    "has_codes",
    "infers",
    "kl_weight",
    "moving_average",
]
