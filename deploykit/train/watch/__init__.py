"""Training, seen: a loss curve, TensorBoard, a profile."""
