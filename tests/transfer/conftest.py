"""The servers of the engines' tests."""

from tests.engines.conftest import postgresql_programs, postgresql_server, postgresql_url

__all__ = ["postgresql_programs", "postgresql_server", "postgresql_url"]
