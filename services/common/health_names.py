"""Names that `grpc.health.v1` goes by beside those of the protobuf services."""

LIVENESS = "liveness"
"""SERVING from the first moment, whatever the service waits for: who asks for it restarts what does not answer."""
