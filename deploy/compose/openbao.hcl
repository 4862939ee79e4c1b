# One node with a file store, for trying out. Initialise and unseal it by hand, then run `hoop vault setup`.
storage "file" { path = "/openbao/file" }
listener "tcp" {
  address     = "0.0.0.0:8200"
  tls_disable = true
}
api_addr = "http://openbao:8200"
