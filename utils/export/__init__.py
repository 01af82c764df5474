"""Files that run without this toolkit: ONNX, torch.export, and directories that carry their own code."""
