"""Arora et al. 2019: CIFAR-10 by exact convolutional kernels."""
