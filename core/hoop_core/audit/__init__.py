"""The log, the recordings, and the evidence that is made of both."""
