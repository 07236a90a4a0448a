"""Selection of float32 or bfloat16 for this machine."""

from typing import Literal

import torch


def bf16_is_native() -> bool:
    """Return whether the hardware supports bfloat16 matrix multiplication; emulated, it is slower than float32."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # torch has no public API for CPUs; where these functions are missing the result is False, which only costs speed
    checks = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return any(check() for check in checks if check is not None)


def use_bf16(precision: Literal["float32", "bf16", "auto"]) -> bool:
    """Return whether to run under bfloat16 autocast."""
    return precision == "bf16" or (precision == "auto" and bf16_is_native())
