"""Finding circuits: attribution methods on the engine, one file and one registry line each."""

from kcircuits.discovery.attribute import attribute
from kcircuits.discovery.registry import METHODS, get_method

__all__ = ["METHODS", "attribute", "get_method"]
