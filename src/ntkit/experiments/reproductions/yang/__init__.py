"""Yang & Salman 2019: what random networks prefer, read off the spectra of their kernels."""
