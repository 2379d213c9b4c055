"""Boosting: rectangle features, AdaBoost over them, an attentional cascade, and OpenCV's published ones."""
