"""Accuracy and cost, with errors."""
