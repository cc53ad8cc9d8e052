"""Light-Head R-CNN: In Defense of Two-Stage Object Detector."""
