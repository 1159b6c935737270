"""HTTP beside gRPC, from the same services: for `http_port`, and with the packages of the extra `http`."""
