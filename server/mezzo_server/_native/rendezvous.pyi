from array import array

def fill(
    seeds: array[int],
    weights: array[int],
    numbers: array[int],
    logarithms: array[int],
    table: array[int],
) -> None: ...
def fill_seconds(
    seeds: array[int],
    weights: array[int],
    numbers: array[int],
    logarithms: array[int],
    owners: array[int],
    domains: array[int],
    seconds: array[int],
) -> None: ...
