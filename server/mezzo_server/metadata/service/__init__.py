"""The metadata service: the engine of a pod behind gRPC, for the processes of the pod."""
