"""Formulas that two methods share: boxes, matching, sampling, pooling, backbones by depth and width."""
