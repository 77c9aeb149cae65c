"""The forward pass of a transformer on its weights: plain, recording and masked.

Nothing here knows TransformerLens, hooks or facts: weights, token rows and masks go in, tensors
come out. Every step keeps the prompt axis.
"""
