"""tinyp2p: a group shares its folders, anyone finds and gets."""

__version__ = "0.1.0"
