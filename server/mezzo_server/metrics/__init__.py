"""What a process tells about itself in numbers: the catalogue, what is counted, and the endpoint."""
