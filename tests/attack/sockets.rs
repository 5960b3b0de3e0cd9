//! Connections: to SIP over TCP and to the HTTP API, more than anybody needs, and those that never say or read anything.
