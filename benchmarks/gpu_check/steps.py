"""The steps of the check, the most valuable first, and the most seconds of each."""

from benchmarks.gpu_check.runner import Step

STEPS = (
    Step("found", "what is here", "found", "run", 60),
    Step("products", "the ceiling of products of matrices", "torch_steps", "products", 40),
    Step("parity", "torch in 16 bits against float32 on the CPU", "torch_steps", "parity", 150),
    Step("compiled", "images/s of torch compiled, with CUDA graphs", "torch_steps", "compiled", 180),
    Step("throughput", "images/s of torch, each stream and all, by batch", "torch_steps", "throughput", 150),
    Step("tensorrt", "TensorRT: parity and images/s of each stream", "runtimes", "tensorrt", 300),
    Step("onnxruntime", "ONNX Runtime: parity and images/s of each stream", "runtimes", "onnxruntime", 240),
    Step("profile", "where the time goes, by kind of kernel", "torch_steps", "profile", 90),
    Step("training", "a training step", "others", "training", 90),
    Step("graphs", "CUDA graphs without compilation, small batches", "torch_steps", "graphs", 40),
    Step("served", "the served ensemble, in the container or without", "others", "served", 400),
)
