"""The number format of matrix products: float32, bfloat16 or float16, as a setting names it and the device allows."""

from typing import Literal

import torch

Precision = Literal["float32", "bf16", "fp16", "auto"]
_DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def bf16_is_native(device: torch.device) -> bool:
    """Return whether the hardware supports bfloat16 matrix multiplication; emulated, it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":  # Apple's GPU: not measured
        return False
    # torch has no public API for CPUs; where these functions are missing the result is False, which only costs speed
    checks = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return any(check() for check in checks if check is not None)


def autocast_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the dtype to multiply in.

    Args:
        precision: float32, bf16, fp16, or auto: bf16 where the device has it natively, else fp16 on a GPU, else float32.
        device: computes.
    """
    if precision != "auto":
        return _DTYPES[precision]
    if bf16_is_native(device):
        return torch.bfloat16
    return torch.float16 if device.type == "cuda" else torch.float32


def precision_name(dtype: torch.dtype) -> str:
    """Return the setting that names a dtype: float32, bf16 or fp16."""
    return next(name for name, named in _DTYPES.items() if named == dtype)
