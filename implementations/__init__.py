"""The methods, the detectors they start from, and the adapters; each paper is one folder that imports no other paper."""
