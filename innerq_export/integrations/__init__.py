"""The kernels from Python: the C ABI by ctypes, `torch.ops.innerq.*`, and the build of the library."""
