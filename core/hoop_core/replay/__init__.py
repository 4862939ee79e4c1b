"""A recorded session decided anew from the log alone, and compared with what is on record."""
