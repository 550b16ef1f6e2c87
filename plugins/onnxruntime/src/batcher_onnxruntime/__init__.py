"""The ONNX Runtime executor of batcher."""
