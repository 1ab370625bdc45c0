"""A storage node without its sockets: requests in (`service`), answers out, bodies in parts."""
