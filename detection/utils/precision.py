"""Which arithmetic a run uses on this machine."""

from typing import Literal

import torch


def bf16_is_native() -> bool:
    """Whether this machine multiplies bfloat16 in hardware; elsewhere it is emulated, slower than float32."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # torch has no public question for CPUs; without this one the answer is no, which costs speed alone
    asks = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return any(ask() for ask in asks if ask is not None)


def use_bf16(precision: Literal["float32", "bf16", "auto"]) -> bool:
    """Whether to run under bfloat16 autocast."""
    return precision == "bf16" or (precision == "auto" and bf16_is_native())
