"""Ways to train a generative model, one file each."""

from encdec.paradigms.ae import AE
from encdec.paradigms.base import Paradigm
from encdec.paradigms.conditional_decoder import ConditionalDecoder
from encdec.paradigms.encoderless_vae import EncoderlessVAE
from encdec.paradigms.vae import VAE

__all__ = ["AE", "VAE", "ConditionalDecoder", "EncoderlessVAE", "Paradigm"]
