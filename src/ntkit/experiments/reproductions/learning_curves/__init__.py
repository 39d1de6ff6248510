"""Learning curves of kernel regression: predicted from spectra, and measured."""
