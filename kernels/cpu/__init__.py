"""Kernels for x86 CPUs in C++17 with OpenMP, compiled at install or first use; see `kernels.cpu.build`."""
