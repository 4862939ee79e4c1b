"""What `hoop bench` measures. Figures of one machine at one moment: quote the ratios."""
