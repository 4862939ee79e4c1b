"""The parts of the policy file, one module each: which keys it has, and how they become values."""
