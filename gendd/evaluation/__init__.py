"""Accuracy, feature scores, nearest neighbors and linear probes."""
