"""Detectors of other frameworks and runtimes behind our interface; each imports its framework inside one function."""
