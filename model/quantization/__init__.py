"""int8 weights, and int8 activations, by torchao: the last edit of a stack."""

from model.quantization.config import QuantizationConfig
from model.quantization.layers import Int8Linear

__all__ = ["Int8Linear", "QuantizationConfig"]
