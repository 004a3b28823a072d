"""Small sites that train in milliseconds, as for the engine's tests."""

from tests.federation.conftest import identities, key, small_sites

__all__ = ["identities", "key", "small_sites"]
