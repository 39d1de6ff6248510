"""Kopitkov & Indelman 2020: the top of the tangent kernel's spectrum turns towards what the network learns."""
