"""Compiles every kernel for compute capability 9.0 (H100, H200), which needs no GPU: ``python compiled.py``."""

from __future__ import annotations

from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from bagnet.kernels import (
    convolution,
    input_gradient,
    moments,
    pointwise,
    pointwise_gradient,
    weight_gradient,
)

HOPPER = GPUTarget("cuda", 90, 32)
FLAT = {"block_rows": 32, "block_columns": 128}
PRODUCT = {"block_rows": 64, "block_outputs": 64, "block_inputs": 32}
ACTIVATIONS = ("x", "y", "weight", "gradient", "out", "other", "residual", "masked")
NUMBERS = ("rows", "inputs", "outputs", "channels", "height", "width", "stride", "groups")


def compile_for_hopper(kernel: Any, **constants: Any) -> str:
    """The PTX of a kernel for bfloat16 activations."""
    function = kernel.fn if isinstance(kernel, triton.runtime.Autotuner) else kernel
    signature = {}
    for name in function.arg_names:
        if name in constants:
            signature[name] = "constexpr"
        elif name.endswith(NUMBERS):
            signature[name] = "i32"
        else:
            signature[name] = "*bf16" if name in ACTIVATIONS else "*fp32"
    source = ASTSource(fn=function, signature=signature, constexprs=constants)
    return triton.compile(source, target=HOPPER).asm["ptx"]


def main() -> None:
    part = {"stride": 2, "is_whole": False}
    products = [
        (convolution._convolve_kernel, {"stride": 2, "normalizes": True, "measures": True}),
        (convolution._convolve_kernel, {"stride": 1, "normalizes": False, "measures": False}),
        (input_gradient._input_kernel, {**part, "other_stride": 2, "other_is_whole": False, "masks": True, "adds": False}),
        (input_gradient._input_kernel, {**part, "other_stride": 2, "other_is_whole": False, "masks": False, "adds": True}),
        (weight_gradient._weight_kernel, {**part, "x_stride": 2, "normalizes": True}),
    ]  # fmt: skip
    for kernel, choices in products:
        ptx = compile_for_hopper(kernel, **choices, **PRODUCT, precision="tf32")
        assert "wgmma" in ptx  # Hopper's own matrix products
        assert "atom" not in ptx
    others = [
        (moments._measure_kernel, {}),
        (moments._combine_kernel, {}),
        (pointwise._normalize_kernel, {"adds": True, "normalizes_residual": True, "crops": True}),
        (pointwise_gradient._mask_kernel, {"by_output": True, "stores": True, "has_other": True, "crops": True}),
        (pointwise_gradient._pass_kernel, {"masks": True}),
    ]  # fmt: skip
    for kernel, choices in others:
        assert "atom" not in compile_for_hopper(kernel, **choices, **FLAT)
    print(len(products) + len(others), "kernels")


if __name__ == "__main__":
    main()
