"""Networks: compiled, as they run at a desk, and in torch, as they are trained.

`layers`, `program`, `runtime`, `quantise` and `onnx_engine` need no torch. May import: `mmenv`.
"""
