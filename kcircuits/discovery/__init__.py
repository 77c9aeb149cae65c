"""Finding circuits: attribution methods on the engine, one file and one registry line each.

The registry answers without torch; ``kcircuits.attribute`` and ``discovery/attribute.py`` compute.
"""

from kcircuits.discovery.registry import DEFAULT_METHOD, METHODS, get_method, resolve_params

__all__ = ["DEFAULT_METHOD", "METHODS", "get_method", "resolve_params"]
