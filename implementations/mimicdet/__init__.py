"""MimicDet: Bridging the Gap Between One-Stage and Two-Stage Object Detection."""
