"""The metadata engine of a pod: etcd, over the part of its public gRPC API that it needs."""
