"""Few pictures in place of many: learned by gradients through training, or through kernel ridge regression."""
