"""The version, written once: the package's metadata and `evlog --version` both come from here."""

__version__ = "0.1.0"
