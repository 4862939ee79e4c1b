"""`python -m hoop_core.cli`, the same as `hoop`."""

from hoop_core.cli.root import main

main()
