"""Condensing Two-stage Detection with Automatic Object Key Part Discovery."""
