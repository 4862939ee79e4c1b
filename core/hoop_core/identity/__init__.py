"""Who is calling: verification of the tokens that clients and approvers present."""
