"""Models for other runtimes: ONNX and StableHLO, with a proof that they compute the same."""
