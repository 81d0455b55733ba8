"""Obliviate removes knowledge from language models and measures what was removed and what was kept."""

__version__ = "0.1.0"
