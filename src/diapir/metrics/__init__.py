"""Metrics: how well a prediction matches the truth, as pure functions on numpy arrays.

The torchmetrics classes stand in `diapir.metrics.torch_metrics`, which imports torch.
"""
