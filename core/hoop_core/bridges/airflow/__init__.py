"""Airflow's Required Actions: Hoop writes what stands there, and reads back what was answered."""
