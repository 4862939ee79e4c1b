# One node, for trying out. Initialise and unseal it by hand, then run `hoop vault setup`.
storage "raft" {
  path    = "/openbao/file"
  node_id = "openbao"
}
listener "tcp" {
  address     = "0.0.0.0:8200"
  tls_disable = true
}
api_addr     = "http://openbao:8200"
cluster_addr = "http://openbao:8201"
