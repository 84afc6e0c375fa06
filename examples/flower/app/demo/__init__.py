"""Federated averaging of a linear model."""
