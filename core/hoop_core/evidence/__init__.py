"""Evidence bundles: what an auditor gets, with everything that is needed to check it."""
