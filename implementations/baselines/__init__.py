"""The detectors that the papers start from."""
