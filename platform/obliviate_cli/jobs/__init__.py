"""Runs as jobs on a Ray cluster elsewhere, over its jobs API."""
