"""Networks as data and their golden kernels by neural-tangents; README.md says how they are made."""
