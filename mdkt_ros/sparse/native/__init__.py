"""The engine `native`: kernels for the CPU, compiled at run time by Numba's LLVM."""
