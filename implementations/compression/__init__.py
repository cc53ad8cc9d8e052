"""Compressed Object Detection."""
