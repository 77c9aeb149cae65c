"""Circuits of one epoch on the weights of another: losses, and lines over epochs."""
