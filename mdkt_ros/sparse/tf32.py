"""How PyTorch multiplies float32 on a GPU; other back ends do the same."""

from __future__ import annotations

import torch


def tf32_is_allowed() -> bool:
    """Whether products of float32 may round their factors to TF32 (10 bits of mantissa instead of 23)."""
    matmul = torch.backends.cuda.matmul
    if hasattr(matmul, "fp32_precision"):  # PyTorch 2.9 and up, where allow_tf32 raises once this has been set
        return bool(matmul.fp32_precision == "tf32")
    return bool(matmul.allow_tf32)
