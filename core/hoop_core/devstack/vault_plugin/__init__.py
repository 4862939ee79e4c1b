"""An external `snowflake-database-plugin` for OpenBao, in Python. For the embedded stack only.

OpenBao does not ship a Snowflake database plugin; this one behaves like HashiCorp's
`vault-plugin-database-snowflake` as far as Hoop uses it, so that the embedded stack and a production
Vault are configured with the same API calls. The differences, all on the closed side:

- without `revocation_statements` a user is disabled, then dropped (HashiCorp's only drops it);
- `{{name}}` within double quotes is refused: the user would be created in mixed case, and a later
  `DROP USER IF EXISTS` without quotes would report success while the user lives on;
- when a statement fails after the first one was sent, the half-made user is dropped again;
- the user name takes only letters, digits and `_` from the display name and the role name;
- `username_template` is refused instead of being interpreted.

    statements.py   templates into single SQL statements
    connections.py  configuration, and the pool of Snowflake connections
    users.py        create, change and drop users
    messages.py     the protobuf messages, built at run time
    handshake.py    go-plugin's handshake and AutoMTLS
    service.py      the gRPC services
"""
