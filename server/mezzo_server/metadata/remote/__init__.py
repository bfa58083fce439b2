"""The metadata engine that is behind the metadata service, as the processes of a pod reach it."""
