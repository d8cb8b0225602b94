"""The wire: frames, links, and the only place that knows gRPC and protobuf."""
