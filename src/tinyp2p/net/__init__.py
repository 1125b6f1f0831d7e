"""What touches the network: TLS, connections and the ways to reach a member."""
