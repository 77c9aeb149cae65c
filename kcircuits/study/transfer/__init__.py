"""Circuits of an epoch on the weights of others."""
