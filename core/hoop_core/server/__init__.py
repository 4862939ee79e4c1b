"""All parts put together and served: `hoop serve`, and the embedded gateway of a single process."""
