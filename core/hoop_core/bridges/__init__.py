"""Where else than in Hoop a request is shown and answered. Hoop stays the authority."""
