"""`hoop demo`: the main job, run for real on the embedded stack, with every claim checked."""
